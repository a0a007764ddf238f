"""An exported backbone computes what the run's does, and loses nothing that normalises its input.

- Read by transformers, it gives the same tokens bit for bit; treeline.json alone makes the same pixels.
- Read by Treeline, as a checkpoint, it starts the same regressor as the run.
- A checkpoint of `treeline train` is copied; tests/trainer/run_folder/test_backbone_once.py has those of runs
  that are not finished.
- On disk and on S3 alike; what cannot be exported is refused in one line, and nothing is written.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_process import treeline
from regressors import CHIP_SCHEMA, small_config, visible_chip, write_dataset
from transformers import DINOv3ViTModel

from shards.format.key import split_of
from shards.format.schema import with_values
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import exists, find_files, join, publish_folder, read_bytes
from shards.write.writer import DatasetWriter
from trainer.commands.train_on_ray import launch, launch_pretraining
from trainer.model.checkpoint import checkpoint_url
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.make import new_regressor
from trainer.model.normalise import Normalise
from trainer.model.pretrained import is_pretrained, load_pretrained
from trainer.options import ModelOptions
from trainer.pretrain_config import RECIPES, PretrainConfig

SCHEMA = with_values(CHIP_SCHEMA, ("slope = nir - red",), ("nir=0.5", "red=30/255"), ("red=-30",))
BANDS = ("slope", "nir", "blue")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Tiles with missing pixels, with bands that have a scale, and one that is derived."""
    folder = tmp_path_factory.mktemp("tiles")
    with DatasetWriter(str(folder), SCHEMA, {"command": "test"}, 10) as writer:
        for number in range(10):
            chip = visible_chip(number)
            writer.add(chip, split_of(chip.key, 0.2))
        writer.finish()
    return open_dataset(str(folder))


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of self-distillation: teacher and student have other weights."""
    options: dict[str, Any] = {**RECIPES["dino-tiny"], "recipe": "dino-tiny", "epochs": 2, "keep_best": 2}
    small = {"width": 24, "depth": 2, "patch_size": 8, "prototypes": 8, "batch_size": 4, "bands": BANDS}
    out = str(tmp_path_factory.mktemp("run") / "run")
    launch_pretraining(PretrainConfig.of(dataset.url, out, **{**options, **small}))
    return out


def assert_equal_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_teacher_and_student_are_told_apart_here(run: str) -> None:
    """Otherwise the other tests could not see that the wrong one was written."""
    with pytest.raises(AssertionError):
        assert_equal_weights(*(load_pretrained(run, name).backbones[name] for name in ("teacher", "student")))


@pytest.mark.parametrize("weights", [None, "teacher", "student"])
def test_transformers_computes_the_same_tokens(
    dataset: Dataset, run: str, weights: str | None, tmp_path: Path
) -> None:
    """From stored pixels on, with nothing but the folder's files and numpy."""
    chosen = ["--backbone-weights", weights] if weights else []
    done = treeline("export", run, "--to", "transformers", "--out", str(tmp_path / "out"), *chosen)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'out'}: {weights or 'teacher'} of {checkpoint_url(run)}, ")
    model = DINOv3ViTModel.from_pretrained(tmp_path / "out").eval()
    ours = load_pretrained(run, weights)
    (backbone,) = ours.backbones.values()
    (batch,) = dataset.batches(dataset.chips("train"), 99)
    about = json.loads((tmp_path / "out" / "treeline.json").read_text())
    assert about["bands"] == list(BANDS)
    assert about["statistics"] == ours.statistics.to_json()
    with torch.no_grad():
        pixels_BCHW, _ = Normalise(ours.schema, ours.bands, ours.statistics)(
            torch.from_numpy(batch.image_BCHW)
        )
        tokens_BND = backbone.eval()(pixels_BCHW).last_hidden_state
        assert torch.equal(model(pixels_BCHW).last_hidden_state, tokens_BND)
    by_rule_BCHW = pixels_by_rule(about, batch.image_BCHW)
    np.testing.assert_allclose(by_rule_BCHW, pixels_BCHW.numpy(), rtol=1e-4, atol=1e-4)


def pixels_by_rule(about: dict[str, Any], image_BCHW: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The backbone's input, as the rule in treeline.json says; all numbers are taken from that file."""
    stored, (formula,) = about["schema"]["bands"], about["schema"]["derived"]
    name, _, first, sign, second = formula.split()
    assert sign == "-"
    missing_BCHW = image_BCHW == about["schema"]["nodata"]
    numbers = (np.array(about["schema"][key])[:, None, None] for key in ("scale", "offset"))
    scale_C11, offset_C11 = numbers
    values_BCHW = image_BCHW * scale_C11 + offset_C11
    pixels = []
    for place, band in enumerate(about["bands"]):
        clamp_min, clamp_span, mean, std = (
            about["pixels"][key][place] for key in ("clamp_min", "clamp_span", "mean", "std")
        )
        parts = [stored.index(one) for one in ((first, second) if band == name else (band,))]
        value_BHW = values_BCHW[:, parts[0]] - (values_BCHW[:, parts[1]] if band == name else 0)
        pixel_BHW = (np.clip((value_BHW - clamp_min) / clamp_span, 0, 1) - mean) / std
        pixels.append(np.where(missing_BCHW[:, parts].any(1), 0, pixel_BHW))
    return np.stack(pixels, 1)


@pytest.mark.parametrize("weights", [None, "student"])
def test_a_checkpoint_starts_the_same_regressor_as_the_run(
    dataset: Dataset, run: str, weights: str | None, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    chosen = ["--backbone-weights", weights] if weights else []
    done = treeline("export", run, "--to", "checkpoint", "--out", out, *chosen)
    assert done.returncode == 0, done.stderr
    assert is_pretrained(out)
    regressors = []
    for backbone, name in ((run, weights), (out, None)):
        torch.manual_seed(0)
        options = replace(ModelOptions(), backbone=backbone, backbone_weights=name, bands=BANDS)
        regressors.append(new_regressor(dataset, options))
    assert_equal_weights(*regressors)
    assert regressors[0].statistics == regressors[1].statistics
    here, there = load_pretrained(run, weights), load_pretrained(out)
    assert (here.schema, here.bands, here.trained_on, here.metrics) == (
        there.schema,
        there.bands,
        there.trained_on,
        there.metrics,
    )


def test_the_run_means_its_best_checkpoint_and_others_have_names(run: str, tmp_path: Path) -> None:
    """Copies have the same bytes."""
    for number, name in enumerate((run, f"{run}/last", f"{run}/epoch-0001")):
        out = tmp_path / str(number)
        assert treeline("export", name, "--to", "checkpoint", "--out", str(out)).returncode == 0
        theirs = Path(checkpoint_url(name))
        assert {path.name: path.read_bytes() for path in out.iterdir()} == {
            path.name: path.read_bytes() for path in theirs.iterdir()
        }
    assert checkpoint_url(run) != f"{run}/epoch-0001"


def test_a_checkpoint_of_a_training_is_copied(tmp_path: Path) -> None:
    """Without --to; it loads as the run's best does."""
    dataset, run, out = write_dataset(tmp_path / "chips", 6), tmp_path / "run", tmp_path / "out"
    launch(small_config(dataset, Path("tiny"), str(run), epochs=1))
    done = treeline("export", str(run), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: copy of {run}/epoch-0001\n")
    theirs = run / "epoch-0001"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in theirs.iterdir()
    }
    assert load_checkpoint(str(out)).fingerprint == load_checkpoint(str(run)).fingerprint


@pytest.mark.parametrize("nbytes", [0, 100, -1, 1])
def test_damaged_weights_are_not_copied(nbytes: int, tmp_path: Path) -> None:
    """An empty file, a list of tensors that is cut off, a byte too few, a byte too many."""
    dataset, run, out = write_dataset(tmp_path / "chips", 6), tmp_path / "run", tmp_path / "out"
    launch(small_config(dataset, Path("tiny"), str(run), epochs=1))
    weights = run / "epoch-0001" / "model.safetensors"
    size = weights.stat().st_size
    os.truncate(weights, nbytes if nbytes in (0, 100) else size + nbytes)
    done = treeline("export", str(run), "--out", str(out))
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"treeline: {weights}: {weights.stat().st_size:,} bytes instead of {size:,}; "
    )
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()


def test_storage_is_read_and_written_alike(run: str, storage: str, tmp_path: Path) -> None:
    there = join(storage, "run")
    publish_folder(there, run)
    for to in ("transformers", "checkpoint"):
        here, out = tmp_path / to, join(storage, to)
        for source, place in ((run, str(here)), (there, out)):
            done = treeline("export", source, "--to", to, "--out", place)
            assert done.returncode == 0, done.stderr
        assert find_files(out) == sorted(path.name for path in here.iterdir())
        for path in here.iterdir():
            assert read_bytes(join(out, path.name)) == path.read_bytes()
        again = treeline("export", there, "--to", to, "--out", out)
        assert again.returncode == 2
        assert again.stderr == f"treeline: {out}: is there already; choose another --out or delete it first\n"


def test_what_cannot_be_exported_is_refused_in_one_line(run: str, tmp_path: Path) -> None:
    dataset, student, out = write_dataset(tmp_path / "chips", 6), tmp_path / "student", tmp_path / "out"
    config = small_config(dataset, Path("tiny"), str(tmp_path / "regressor"), epochs=1)
    launch(config)
    (tmp_path / "empty").mkdir()
    assert (
        treeline(
            "export", run, "--to", "checkpoint", "--out", str(student), "--backbone-weights", "student"
        ).returncode
        == 0
    )
    (tmp_path / "file").write_text("")
    none = "no checkpoint is there; give a folder that treeline train or treeline pretrain wrote"
    trained = "no checkpoint of a pre-training is there; give a folder that treeline pretrain wrote, or --to"
    for source, place, more, said in (
        (tmp_path / "regressor", out, ("--backbone-weights", "teacher"), trained),
        (tmp_path / "empty", out, (), none),
        (tmp_path / "nothing", out, (), none),
        (run, tmp_path / "empty", (), "is there already"),
        (run, tmp_path / "file" / "out", (), "cannot be written"),
        (student, out, ("--backbone-weights", "teacher"), "has only student"),
    ):
        for to in ("transformers", "checkpoint"):
            done = treeline("export", str(source), "--to", to, "--out", str(place), *more)
            assert done.returncode == 2, said
            assert said in done.stderr
            assert len(done.stderr.splitlines()) == 1
            assert not exists(str(out))
    assert not list((tmp_path / "empty").iterdir())
    done = treeline("export", str(tmp_path / "regressor"), "--to", "transformers", "--out", str(out))
    assert done.returncode == 2
    assert trained in done.stderr
    (tmp_path / "regressor" / "epoch-0001" / "metrics.json").unlink()
    done = treeline("export", str(tmp_path / "regressor"), "--out", str(out))
    assert done.returncode == 2
    assert "not a checkpoint (metrics.json is missing)" in done.stderr
    assert not exists(str(out))
