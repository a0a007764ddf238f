"""Every command that computes does so in the precision that was asked for, and names it in what it leaves.

What it leaves names the precision in which the device computed: on a CPU float32 if TF32 is asked for.

Where nothing is learnt, a GPU would compute with algorithms that repeat their bits; see the flags.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
import torch
import yaml
from encoders import write_untrained
from in_process import treeline
from pretrainings import config_of
from regressors import (
    local_backbone,
    small_config,
    small_regressor,
    stored_images,
    write_checkpoint,
    write_dataset,
    write_scene,
)

from cluster import cli
from shards.errors import InputError
from shards.format.sealed import SEAL
from shards.read.dataset import Dataset
from trainer.commands.begun import check_resumes
from trainer.commands.pretrain import pretrain
from trainer.commands.sweep import run_trial
from trainer.commands.train import train
from trainer.devices.choice import Precision
from trainer.devices.precision import MEANINGS, predicting
from trainer.devices.ranks import Ranks

PRECISIONS = list(MEANINGS)
CPU = torch.device("cpu")


class Settings(NamedTuple):
    """What torch is told while a layer computes."""

    tf32: tuple[bool, bool]
    """For matrix products, and for convolutions."""
    repeats: tuple[bool, bool]
    """Whether cuDNN's algorithms repeat their bits, and whether it times them to choose one."""
    autocast: torch.dtype | None


def now() -> Settings:
    backends = torch.backends
    on = torch.is_autocast_enabled("cpu")
    return Settings(
        (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32),
        (backends.cudnn.deterministic, backends.cudnn.benchmark),
        torch.get_autocast_dtype("cpu") if on else None,
    )


@contextmanager
def watched() -> Iterator[set[Settings]]:
    """Note the settings at each pass through a layer of a backbone."""
    found = set[Settings]()

    def note(layer: Any, inputs: Any) -> None:
        if type(layer).__name__ == "DINOv3ViTLayer":
            found.add(now())

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield found
    finally:
        hook.remove()


def asked(precision: Precision, repeats: bool) -> set[Settings]:
    meaning = MEANINGS[precision]
    return {Settings((meaning.tf32, meaning.tf32), (repeats, False), meaning.dtype)}


def computed(precision: Precision) -> Precision:
    """Return the precision in which a CPU computes."""
    return "float32" if precision == "tf32" else precision


def trained_in(run: Path) -> str:
    """Return the precision that the checkpoint of a run's first epoch names."""
    about = json.loads((run / "epoch-0001/config.json").read_text())
    return str(about["trained_on"]["precision"])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset") / "data", 24, val_share=0.3)


@pytest.fixture(scope="module")
def made(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, a pre-training run of the dataset's tiles, a scene, and a backbone."""
    folder = tmp_path_factory.mktemp("made")
    write_checkpoint(folder / "checkpoint", small_regressor())
    write_untrained(folder / "pretrained", dataset)
    write_scene(folder / "scene.tif", stored_images(1, 70, 90)[0])
    local_backbone(folder / "backbone")
    return folder


@pytest.fixture(autouse=True)
def left_as_it_was() -> Iterator[None]:
    before = now()
    yield
    assert now() == before


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training(precision: Precision, dataset: Dataset, made: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"decoder": "linear", "epochs": 1, "precision": precision, "tune": "frozen"}
    config = small_config(dataset, made / "backbone", out=str(tmp_path / "run"), **options)
    with watched() as found:
        train(config, Ranks())
    # Counting operations and drawing the panel are no part of it: one is of shapes, the other of pictures.
    assert asked(precision, False) <= found
    assert trained_in(tmp_path / "run") == computed(precision)
    # The option stays as it was asked for: the run goes on with it.
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["precision"] == precision
    check_resumes(replace(config, resume="auto"))


def test_pre_training_and_trials_of_a_sweep_name_what_they_computed_in(
    dataset: Dataset, made: Path, tmp_path: Path
) -> None:
    pretrain(config_of(dataset, "mae", tmp_path / "pretrained", epochs=1, precision="tf32"), Ranks())
    assert trained_in(tmp_path / "pretrained") == "float32"
    options: dict[str, Any] = {"decoder": "linear", "epochs": 1, "precision": "tf32", "tune": "frozen"}
    assert not run_trial(small_config(dataset, made / "backbone", out=str(tmp_path / "t"), **options)).why
    assert trained_in(tmp_path / "t") == "float32"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_prediction(precision: Precision, made: Path, tmp_path: Path) -> None:
    command = ["predict", str(made / "scene.tif"), "--checkpoint", str(made / "checkpoint")]
    with watched() as found:
        assert cli.run([*command, "--out", str(tmp_path), "--stac", "--precision", precision]) == 0
    assert found == asked(precision, True)
    with rasterio.open(tmp_path / "scene.chm.tif") as raster:
        assert raster.tags()["TREELINE_PRECISION"] == computed(precision)
    item = json.loads((tmp_path / "scene.chm.json").read_text())
    assert item["properties"]["treeline:precision"] == computed(precision)
    about = json.loads((tmp_path / "predict.json").read_text())
    assert (about["precision"], about["computed_in"]) == (precision, computed(precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_embedding(precision: Precision, dataset: Dataset, made: Path, tmp_path: Path) -> None:
    command = ["embed", dataset.url, "--checkpoint", str(made / "pretrained"), "--out", str(tmp_path / "e")]
    with watched() as found:
        assert cli.run([*command, "--precision", precision]) == 0
    assert found == asked(precision, True)
    about = json.loads((tmp_path / "e/embeddings.json").read_text())
    assert (about["made_with"]["precision"], about["computed_in"]) == (precision, computed(precision))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_attention(precision: Precision, dataset: Dataset, made: Path, tmp_path: Path) -> None:
    command = ["attention", "--data", dataset.url, "--checkpoint", str(made / "pretrained"), "--limit", "2"]
    with watched() as found:
        assert cli.run([*command, "--out", str(tmp_path / "a"), "--precision", precision]) == 0
    assert found == asked(precision, True)
    assert json.loads((tmp_path / "a/attention.json").read_text())["precision"] == computed(precision)
    with rasterio.open(next((tmp_path / "a").glob("*.attention.tif"))) as raster:
        assert raster.tags()["TREELINE_PRECISION"] == computed(precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_evaluation(precision: Precision, dataset: Dataset, made: Path, tmp_path: Path) -> None:
    """The regressor is scored as it computes; the baselines beside it are the same in any precision."""
    options: dict[str, Any] = {"decoder": "linear", "epochs": 1, "tune": "frozen"}
    config = small_config(dataset, made / "backbone", out=str(tmp_path / "run"), **options)
    train(config, Ranks())
    command = ["evaluate", "--checkpoint", str(tmp_path / "run"), "--data", dataset.url, "--split", "all"]
    reports = {}
    for one in ("float32", precision):
        with watched() as found:
            assert cli.run([*command, "--out", str(tmp_path / one), "--precision", one]) == 0
        assert found == asked(one, True)  # type: ignore[arg-type]
        reports[one] = json.loads((tmp_path / one / "evaluation.json").read_text())
    ours, exact = reports[precision], reports["float32"]
    assert ours["precision"] == computed(precision)
    scores = [report["scores"] for report in (ours, exact)]
    assert {**scores[0], "regressor": 0} == {**scores[1], "regressor": 0}
    assert (scores[0]["regressor"] == scores[1]["regressor"]) == (not MEANINGS[precision].is_half)


def test_maps_of_before_go_on_with_the_option_that_they_name(made: Path, tmp_path: Path, capsys: Any) -> None:
    """Earlier versions did not record what a device made of the precision."""
    command = ["predict", str(made / "scene.tif"), "--checkpoint", str(made / "checkpoint")]
    command += ["--out", str(tmp_path), "--precision"]
    assert cli.run([*command, "tf32"]) == 0
    about = json.loads((tmp_path / "predict.json").read_text())
    del about["computed_in"], about[SEAL]
    (tmp_path / "predict.json").write_text(json.dumps(about))
    before = (tmp_path / "scene.chm.tif").read_bytes()
    assert cli.run([*command, "tf32"]) == 0
    assert (tmp_path / "scene.chm.tif").read_bytes() == before
    capsys.readouterr()
    with pytest.raises(InputError, match=r"another precision \(tf32 there, float32 asked for\)"):
        cli.run([*command, "float32"])


def test_a_refused_command_says_nothing_of_its_precision(
    dataset: Dataset, made: Path, tmp_path: Path
) -> None:
    """It is refused first."""
    config = str(tmp_path / "options.yaml")
    options = {"backbone": str(made / "backbone"), "bands": ["nir", "red", "green"], "tune": "frozen"}
    Path(config).write_text(yaml.safe_dump({**options, "decoder": "linear", "epochs": 1, "batch_size": 8}))
    encoder = ["--checkpoint", str(made / "pretrained")]
    commands = {
        "train": ["--config", config, "--data", dataset.url, "--resume", "auto"],
        "predict": [str(made / "scene.tif"), "--checkpoint", str(made / "checkpoint")],
        "embed": [dataset.url, *encoder],
    }
    for name, rest in commands.items():
        given = [name, *rest, "--device", "cpu", "--out", str(tmp_path / name)]
        assert treeline(*given).returncode == 0
        refused = treeline(*given, "--precision", "tf32")
        assert refused.returncode == 2
        (line,) = refused.stderr.splitlines()
        assert "precision" in line
        assert "holds" in line


def test_settings_of_prediction_come_back_and_overrule_the_users() -> None:
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, True
    try:
        with predicting("tf32"):
            assert now() == Settings((True, True), (True, False), None)
        assert (cudnn.deterministic, cudnn.benchmark) == (False, True)
    finally:
        cudnn.benchmark = before


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_map_in_half_precision_has_the_bits_of_autocast(
    precision: Precision, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its regressor takes half of the memory; see tests/trainer/model/test_frozen_backbone.py."""
    command = [
        "predict",
        str(made / "scene.tif"),
        "--checkpoint",
        str(made / "checkpoint"),
        "--precision",
        precision,
    ]
    assert cli.run([*command, "--out", str(tmp_path / "rounded")]) == 0
    monkeypatch.setattr(
        "inference.predict.predictor.placed_on", lambda model, precision, device: model.to(device)
    )
    assert cli.run([*command, "--out", str(tmp_path / "plain")]) == 0
    maps = []
    for name in ("rounded", "plain"):
        with rasterio.open(tmp_path / name / "scene.chm.tif") as raster:
            maps.append(raster.read())
    assert np.array_equal(*maps)
