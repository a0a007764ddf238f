"""A frozen backbone is written once in a run; its checkpoints are whole when it ends.

- While a run lasts, an epoch's checkpoint is smaller than the backbone, and reads as the whole one does:
  from disk and from S3, with the same fingerprint and the same predictions.
- At its end all files have the bytes of a run that wrote whole checkpoints all the time.
- A checkpoint without its backbone, or with another's bytes, is refused with what makes it whole.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from frozen_runs import config_of, files_of, unfinished
from in_process import treeline
from regressors import SMALL_BACKBONE

from shards.errors import InputError
from shards.read.dataset import Dataset
from shards.storage.objects import exists, find_files, join, sizes_of
from trainer.commands import train as heights
from trainer.commands import train_classes, train_tiles
from trainer.commands.train import new_fit, train
from trainer.config import TrainConfig
from trainer.devices.ranks import Ranks
from trainer.model.backbone import build_backbone
from trainer.model.checkpoint import checkpoint_url
from trainer.model.class_checkpoint import load_class_checkpoint
from trainer.model.height_checkpoint import load_checkpoint, read_checkpoint_header
from trainer.model.load_encoder import load_encoder
from trainer.model.pixel_model import PixelModel
from trainer.model.tile_checkpoint import load_tile_checkpoint
from trainer.run_folder.state_parts import StoredState
from trainer.weights.checkpoint_sums import WEIGHTS
from trainer.weights.weights_apart import REST, write_apart


def loaded(config: TrainConfig, name: str) -> Any:
    load: Any = {
        "height": load_checkpoint,
        "tile-value": load_tile_checkpoint,
        "pixel-class": load_class_checkpoint,
    }[config.target.task]
    return load(name)


def weights_of(checkpoint: Any) -> dict[str, torch.Tensor]:
    model = checkpoint.regressor if hasattr(checkpoint, "regressor") else checkpoint.model
    values: dict[str, torch.Tensor] = model.state_dict()
    return values


# --- while the run lasts ---


def test_an_epoch_writes_less_than_the_backbone_and_can_be_read(config: TrainConfig) -> None:
    """Last of all it is finished: the same weights, the same fingerprint."""
    run = config.out
    fit = unfinished(config)
    [shared] = Path(run).glob("backbone-*.safetensors")
    sizes = sizes_of(run)
    backbone_bytes = sizes[shared.name]
    assert backbone_bytes > 100_000
    for epoch in {"epoch-0002", Path(checkpoint_url(run)).name}:
        weights = {name: size for name, size in sizes.items() if name.startswith(f"{epoch}/")}
        assert f"{epoch}/{WEIGHTS}" not in weights
        assert sum(weights.values()) < backbone_bytes
    with StoredState(run) as state:
        assert state.shapes
        assert not [name for name in state.shapes if "backbone" in name], "states do not repeat it either"
    before = loaded(config, join(run, "last"))
    assert before.fingerprint
    assert fit.model.apart is not None
    assert not fit.model.apart.weights, "nothing is held on the host when it is written"
    train(config.with_options(resume="auto"), Ranks())
    after = loaded(config, join(run, "last"))
    assert before.fingerprint == after.fingerprint
    whole = sizes_of(run)[f"epoch-0002/{WEIGHTS}"]
    assert whole == pytest.approx(sizes[f"epoch-0002/{REST}"] + backbone_bytes, abs=200), "but for a header"
    assert weights_of(before).keys() == weights_of(after).keys()
    for name, tensor in weights_of(before).items():
        assert torch.equal(tensor, weights_of(after)[name]), name


def test_at_its_end_a_run_has_the_bytes_of_one_that_wrote_all_each_time(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config, Ranks())
    before = config.out + "-before"
    with monkeypatch.context() as patch:
        for module in (heights, train_tiles, train_classes):
            patch.setattr(module, "set_apart", lambda model, backbone, writes: None)
        patch.setattr(PixelModel, "drop_backbone", lambda model: None)
        if config.tokens.token_store:
            patch.setattr("trainer.data.token_filling.placed_on", lambda model, precision, device: model)
        train(config.with_options(out=before), Ranks())
    ours, theirs = files_of(config.out), files_of(before)
    assert "epoch-0002/model.safetensors" in ours
    assert ours == theirs


def test_storage_of_any_kind_is_written_and_read_alike(
    datasets: dict[str, Dataset], backbone: Path, storage: str, tmp_path: Path
) -> None:
    here = config_of("heights", datasets, backbone, tmp_path / "here")
    there = here.with_options(out=join(storage, "run"))
    unfinished(there)
    [name] = [name for name in find_files(there.out) if name.startswith("backbone-")]
    header = read_checkpoint_header(there.out)
    copy = join(storage, "copy")
    done = treeline("export", join(there.out, "last"), "--out", copy)
    assert done.returncode == 0, done.stderr
    train(there.with_options(resume="auto"), Ranks())
    train(here, Ranks())
    assert not exists(join(there.out, name))
    assert files_of(there.out) == files_of(here.out)
    assert header == read_checkpoint_header(here.out)
    assert files_of(copy) == files_of(checkpoint_url(join(here.out, "last")))


def test_an_unfinished_run_serves_all_commands(
    datasets: dict[str, Dataset], backbone: Path, tmp_path: Path
) -> None:
    config = config_of("heights", datasets, backbone, tmp_path / "run")
    train(config.with_options(out=str(tmp_path / "whole")), Ranks())
    unfinished(config)
    said = {}
    for name in ("run", "whole"):
        done = treeline("evaluate", "--checkpoint", f"{tmp_path / name}/last", "--data", config.data)
        assert done.returncode == 0, done.stderr
        said[name] = done.stdout.splitlines()[:-1]  # the last line names the checkpoint
    assert said["run"] == said["whole"]
    encoders = [load_encoder(str(tmp_path / name)) for name in said]
    assert encoders[0].fingerprint == encoders[1].fingerprint
    again = config.with_options(out=str(tmp_path / "again"), backbone=str(tmp_path / "run"), epochs=1)
    with pytest.raises(InputError, match="holds a model of treeline train"):  # as with a whole one
        train(again, Ranks())


# --- without its backbone ---


@pytest.fixture
def run(datasets: dict[str, Dataset], backbone: Path, tmp_path: Path) -> TrainConfig:
    """A run that was killed after its last epoch."""
    config = config_of("heights", datasets, backbone, tmp_path / "run")
    unfinished(config)
    return config


def test_a_checkpoint_copied_alone_is_refused_with_the_command_that_makes_it_whole(
    run: TrainConfig, tmp_path: Path
) -> None:
    alone = tmp_path / "elsewhere" / "mine"
    shutil.copytree(tmp_path / "run" / "epoch-0002", alone)
    expected = (
        f"treeline: {alone}: lacks its backbone ({alone.parent}/backbone-{{digest}}.safetensors is missing); "
        f"treeline export {tmp_path}/run/epoch-0002 --out DIR makes a whole copy where it was written\n"
    )
    [shared] = (tmp_path / "run").glob("backbone-*")
    digest = shared.stem.removeprefix("backbone-")
    for command in (("evaluate", "--checkpoint", str(alone), "--data", run.data), ("export", str(alone))):
        more = ("--out", str(tmp_path / "out")) if command[0] == "export" else ()
        done = treeline(*command, *more)
        assert (done.returncode, done.stderr) == (2, expected.format(digest=digest))
        assert not (tmp_path / "out").exists()
    done = treeline("export", f"{tmp_path}/run/epoch-0002", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert load_checkpoint(str(tmp_path / "moved")).fingerprint, "the run as a whole can be moved"
    train(run, Ranks())
    assert files_of(tmp_path / "out") == files_of(tmp_path / "run" / "epoch-0002")


@pytest.mark.parametrize("gone", ["", "run", "epoch"])
def test_a_moved_run_without_its_backbone_is_resumed_where_it_is_now(
    run: TrainConfig, tmp_path: Path, gone: str
) -> None:
    """Copied whole, copied while the run is gone, and one checkpoint alone of a run that is gone."""
    [shared] = (tmp_path / "run").glob("backbone-*")
    shared.unlink()
    moved = tmp_path / "moved"
    if gone == "epoch":
        shutil.copytree(tmp_path / "run" / "epoch-0002", moved / "epoch-0002")
    else:
        shutil.copytree(tmp_path / "run", moved)
    if gone:
        shutil.rmtree(tmp_path / "run")
    done = treeline("evaluate", "--checkpoint", f"{moved}/epoch-0002", "--data", run.data)
    assert done.returncode == 2
    begun = f"treeline: {moved}/epoch-0002: lacks its backbone ({moved}/{shared.name} is missing); "
    if gone == "epoch":
        assert done.stderr == (
            f"{begun}it was written as {tmp_path}/run/epoch-0002, where it is no more: find that run, and "
            "treeline export RUN/epoch-0002 --out DIR makes a whole copy\n"
        )
        return
    command = f"train --config {moved}/config.yaml --out {moved} --resume auto"
    assert done.stderr == (
        f"{begun}resume the run where it is now, since it was moved from {tmp_path}/run (treeline "
        f"{command}), which writes it\n"
    )
    done = treeline(*command.split())
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(str(moved)).fingerprint
    assert not (gone and (tmp_path / "run").exists())


def test_where_the_backbone_is_gone_or_changed_the_run_writes_it_again(
    run: TrainConfig, tmp_path: Path
) -> None:
    [shared] = (tmp_path / "run").glob("backbone-*")
    data = bytearray(shared.read_bytes())
    data[-1] ^= 1
    shared.write_bytes(data)
    for read in (load_checkpoint, read_checkpoint_header, load_encoder):
        with pytest.raises(InputError, match=r"backbone-.*: its checksum is not the one in its name"):
            read(run.out)
    damaged = tmp_path / "damaged"
    shutil.copytree(run.out, damaged)
    train(run.with_options(resume="auto", out=str(damaged)), Ranks())
    assert load_checkpoint(str(damaged)).fingerprint
    assert not list(damaged.glob("backbone-*"))
    shared.unlink()
    for read in (load_checkpoint, read_checkpoint_header, load_encoder):
        with pytest.raises(
            InputError, match=r"resume the run \(treeline train --config .*/run/config\.yaml --out "
        ):
            read(run.out)
    train(run.with_options(resume="auto"), Ranks())
    assert load_checkpoint(run.out).fingerprint
    assert not list((tmp_path / "run").glob("backbone-*"))


def test_a_damaged_checkpoint_does_not_keep_others_from_being_made_whole(
    run: TrainConfig, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint_url(join(run.out, "last")), tmp_path / "run" / "epoch-0001")
    os.truncate(tmp_path / "run" / "epoch-0001" / REST, 100)
    with pytest.raises(InputError, match=r"epoch-0001/rest\.safetensors: 100 bytes instead of"):
        train(run.with_options(resume="auto", keep_best=9), Ranks())
    assert exists(join(checkpoint_url(join(run.out, "last")), WEIGHTS))


def test_weights_that_change_before_they_are_written_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    """A mapped file that somebody overwrites in place changes the weights of the training."""
    fit = new_fit(config, Ranks())
    assert fit.model.apart
    next(iter(fit.model.apart.weights.values())).data.add_(1)
    with pytest.raises(InputError, match="was overwritten while the run had it open"):
        write_apart(str(tmp_path / "run"), fit.model.apart)
    assert not list((tmp_path / "run").glob("*"))


def test_another_backbone_gets_a_file_of_its_own(
    datasets: dict[str, Dataset], backbone: Path, tmp_path: Path
) -> None:
    """Where --backbone has other weights when a run resumes, older checkpoints keep what they had."""
    named = tmp_path / "backbone"
    shutil.copytree(backbone, named)
    config = config_of("heights", datasets, named, tmp_path / "run", keep_best=2)
    unfinished(config, epochs=1)
    before = load_checkpoint(config.out + "/epoch-0001")
    torch.manual_seed(8)
    build_backbone(SMALL_BACKBONE).save_pretrained(named)
    unfinished(config.with_options(resume="auto"))
    assert len(list((tmp_path / "run").glob("backbone-*"))) == 2
    (tmp_path / "run" / "backbone-of-mine.safetensors").write_text("kept")
    train(config.with_options(resume="auto"), Ranks())
    assert [path.name for path in (tmp_path / "run").glob("backbone-*")] == ["backbone-of-mine.safetensors"]
    first, second = (load_checkpoint(f"{config.out}/epoch-000{number}") for number in (1, 2))
    assert first.fingerprint == before.fingerprint
    tokens = [one.regressor.backbone.embeddings.cls_token for one in (first, second)]
    assert not torch.equal(*tokens)


@pytest.mark.parametrize("mode", ["last", "lora", "all"])
def test_a_backbone_that_learns_is_in_every_checkpoint(
    mode: str, datasets: dict[str, Dataset], backbone: Path, tmp_path: Path
) -> None:
    config = config_of("heights", datasets, backbone, tmp_path / "run", epochs=1)
    unfinished(config.with_options(tune=mode, tune_blocks=1))
    assert not list((tmp_path / "run").glob("backbone-*"))
    assert (tmp_path / "run" / "epoch-0001" / WEIGHTS).exists()
