"""A frozen backbone is written once in a run; its checkpoints are whole when it ends.

- While a run lasts, an epoch's checkpoint is smaller than the backbone, and reads as the whole one does:
  from disk and from S3, with the same fingerprint and the same predictions.
- At its end all files have the bytes of a run that wrote whole checkpoints all the time.
- Killed before any of its writes, a run leaves checkpoints that can be read, and resumes to the same bytes.
- A checkpoint without its backbone, or with another's bytes, is refused with what makes it whole.
- With a token store the model in training has no backbone: neither on its device nor on the host.
"""

import json
import multiprocessing
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from classes import write_class_dataset
from gloo_ranks import in_group, run_ranks
from in_process import treeline
from regressors import CHIP_SCHEMA, SMALL_BACKBONE, small_config, visible_chip, write_dataset
from safetensors.torch import load_file, save
from stopped_runs import Stopped

from shards.errors import InputError
from shards.format.key import split_of
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import exists, find_files, join, read_bytes, sizes_of
from shards.write.writer import DatasetWriter
from trainer.commands import train as heights
from trainer.commands import train_classes, train_tiles
from trainer.commands.train import new_fit, resumed_fit, train
from trainer.config import TrainConfig
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit
from trainer.model.backbone import build_backbone
from trainer.model.checkpoint import (
    WEIGHTS,
    checkpoint_url,
    load_checkpoint,
    read_checkpoint_header,
)
from trainer.model.class_checkpoint import load_class_checkpoint
from trainer.model.load_encoder import load_encoder
from trainer.model.pixel_model import PixelModel
from trainer.model.tile_checkpoint import load_tile_checkpoint
from trainer.model.weights_apart import REFERENCE, REST, write_apart
from trainer.model.weights_bytes import merged_pieces, pieces_of
from trainer.run_folder.run_writer import RunWriter, run_options
from trainer.run_folder.state_parts import StoredState

KILLED = 9
TASKS: dict[str, dict[str, Any]] = {
    "heights": {},
    "stored-tokens": {"flips": False, "token_store": "tokens"},
    "bf16": {"precision": "bf16"},
    "tiles": {"task": "tile-value", "label": "brightness"},
    "classes": {"task": "pixel-class"},
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """By task; heights where it is not named."""
    folder = tmp_path_factory.mktemp("datasets")
    return {
        "heights": write_dataset(folder / "heights", chips=22, val_share=0.2),
        "tiles": write_tiles(folder / "tiles"),
        "classes": write_class_dataset(folder / "classes", 24, 0.25),
    }


def write_tiles(folder: Path) -> Dataset:
    """Tiles with a number each."""
    columns = {"brightness": "float64"}
    with DatasetWriter(str(folder), CHIP_SCHEMA, {"command": "test"}, 10, attributes=columns) as writer:
        for number in range(22):
            chip = visible_chip(number)
            chip.attributes.clear()
            chip.attributes["brightness"] = float(chip.image_CHW.mean())
            writer.add(chip, split_of(chip.key, 0.2))
        writer.finish()
    return open_dataset(str(folder))


@pytest.fixture(params=TASKS)
def config(
    request: pytest.FixtureRequest, datasets: dict[str, Dataset], backbone: Path, tmp_path: Path
) -> TrainConfig:
    """A run of two epochs, one of each kind."""
    return config_of(request.param, datasets, backbone, tmp_path / "run")


def config_of(
    task: str, datasets: dict[str, Dataset], backbone: Path, out: Path | str, **more: Any
) -> TrainConfig:
    options = {**TASKS[task], **more}
    if "token_store" in options:
        options["token_store"] = str(backbone.parent / "tokens")
    if task == "tiles":
        options |= {"recipe": "treeline"}
    dataset = datasets.get(task, datasets["heights"])
    return small_config(dataset, backbone, str(out), tune="frozen", decoder="linear", **options)


class Unfinished(RunWriter):
    """Writes a run's folder, and is killed before it makes checkpoints whole, or after an epoch."""

    def __init__(self, config: TrainConfig, fit: Fit, epochs: int = 0) -> None:
        super().__init__(run_options(config, fit.learning.dataset), lambda count, note="": None)
        self._epochs = epochs

    def save(self, fit: Fit) -> None:
        super().save(fit)
        if fit.position.seen == 0 and fit.position.epoch == self._epochs:
            self._background.wait()
            raise Stopped


def unfinished(config: TrainConfig, epochs: int = 0) -> Fit:
    """Train, but do not end the run; stop after this many epochs, or at the last one."""
    fit = resumed_fit(config, Ranks())
    try:
        with Unfinished(config, fit, epochs) as writer:
            fit.run(writer)
    except Stopped:
        pass
    return fit


def files_of(run: Path | str) -> dict[str, bytes]:
    """What a run leaves, but TensorBoard's log, which tells the time, and what names the folder."""
    return {
        name: read_bytes(join(str(run), name))
        for name in find_files(str(run))
        if not name.startswith("tensorboard/") and name not in ("config.yaml", "failing-0.json")
    }


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


# --- bytes of files ---


def tensors() -> dict[str, torch.Tensor]:
    """Tensors of all types and all kinds of shape, one with a name that JSON escapes."""
    kinds = ("uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "bool")
    generator = torch.Generator().manual_seed(1)
    found = {
        f"{name}.{number}": torch.randint(0, 2, (number, 3), generator=generator).to(getattr(torch, name))
        for name in (*kinds, "uint16", "uint32", "uint64")
        for number in (0, 1, 4)
    }
    return found | {'ä"\\': torch.tensor(1.5), "view": torch.arange(12.0).view(3, 4).T}


def test_files_have_the_bytes_that_safetensors_writes() -> None:
    whole = tensors()
    expected = save({name: tensor.contiguous() for name, tensor in whole.items()})
    assert b"".join(pieces_of(whole)) == expected
    for seed in range(5):
        draw = random.Random(seed)
        dealt: list[dict[str, torch.Tensor]] = [{}, {}, {}]
        for name, tensor in whole.items():
            draw.choice(dealt)[name] = tensor.contiguous()
        files = {str(number): in_pieces(save(part), draw) for number, part in enumerate(dealt)}
        assert b"".join(merged_pieces(files)) == expected


def in_pieces(data: bytes, draw: random.Random) -> Iterator[bytes]:
    while data:
        length = draw.randint(1, 40)
        yield data[:length]
        data = data[length:]


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data[:30], lambda data: data + b"0"])
def test_cut_or_longer_files_are_not_merged(spoil: Any) -> None:
    one, other = save({"a": torch.ones(9)}), save({"b": torch.ones(9)})
    with pytest.raises(ValueError, match="second: "):
        list(merged_pieces({"first": [one], "second": [spoil(other)]}))


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
            patch.setattr(module, "set_apart", lambda model, backbone, keep: None)
        patch.setattr(PixelModel, "leave_backbone", lambda model: None)
        if config.tokens.token_store:
            patch.setattr("trainer.data.token_filling.held_on", lambda model, precision, device: model)
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
        said[name] = done.stdout
    assert said["run"] == said["whole"]
    encoders = [load_encoder(str(tmp_path / name)) for name in said]
    assert encoders[0].fingerprint == encoders[1].fingerprint
    again = config.with_options(out=str(tmp_path / "again"), backbone=str(tmp_path / "run"), epochs=1)
    with pytest.raises(InputError, match="holds a model of treeline train"):  # as with a whole one
        train(again, Ranks())


# --- killed ---


def train_and_die(config: TrainConfig, moment: int, told: Any) -> None:
    """In a process of its own: end it right before it renames or removes a file for the n-th time."""
    torch.set_num_threads(1)
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in ("os.rename", "os.remove") and str(arguments[0]).startswith(config.out):
            count += 1
            if count == moment:
                os._exit(KILLED)

    sys.addaudithook(hook)
    train(config, Ranks())
    told.put(count)


def killed_before(config: TrainConfig, moment: int) -> int:
    """Train until that moment, or to the end; return how many there were, 0 if it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.commands.train", "regressors"])
    told = context.Queue()
    process = context.Process(target=train_and_die, args=(config, moment, told))
    process.start()
    process.join(120)
    assert process.exitcode in (0, KILLED)
    return told.get() if process.exitcode == 0 else 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "moments_of"),
    [
        ("stored-tokens", "some"),
        pytest.param("stored-tokens", "all", marks=pytest.mark.long),
        pytest.param("heights", "all", marks=pytest.mark.long),
    ],
)
def test_killed_before_any_write_it_can_be_read_and_resumes_to_the_same_bytes(
    task: str, moments_of: str, datasets: dict[str, Dataset], backbone: Path, tmp_path: Path
) -> None:
    """Two steps an epoch, states between them."""
    more = {"checkpoint_steps": 1, "batch_size": 16, "keep_best": 2, "learning_rate": 1e-2}
    killed = config_of(task, datasets, backbone, tmp_path / "run", **more)
    whole = killed.with_options(out=str(tmp_path / "whole"))
    moments = killed_before(whole, 0)
    assert moments > 30
    expected = files_of(whole.out)
    last = load_checkpoint(whole.out + "/last").fingerprint
    out = Path(killed.out)
    # Most of the last ones, when checkpoints are made whole.
    some = [*range(moments, moments - 12, -3), *range(moments - 12, 0, -15)]
    for moment in some if moments_of == "some" else range(moments, 0, -1):
        shutil.rmtree(out, ignore_errors=True)
        assert killed_before(killed, moment) == 0
        if (out / "checkpoints.json").exists():
            names = json.loads((out / "checkpoints.json").read_text())
            found = {name: load_checkpoint(str(out / name)) for name in {names["last"], *names["best"]}}
            if names["last"] == "epoch-0002":
                assert found["epoch-0002"].fingerprint == last
        train(killed.with_options(resume="auto"), Ranks())
        assert files_of(out) == expected, moment


def test_a_run_stopped_between_epochs_resumes_to_the_same_bytes(config: TrainConfig) -> None:
    whole = config.with_options(out=config.out + "-whole")
    train(whole, Ranks())
    unfinished(config, epochs=1)
    assert exists(join(config.out, "epoch-0001", REFERENCE))
    train(config.with_options(resume="auto"), Ranks())
    assert files_of(config.out) == files_of(whole.out)


def test_a_run_begun_by_an_earlier_version_resumes(
    datasets: dict[str, Dataset], backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has whole checkpoints, and may have stopped when that of an epoch was written, but no state."""
    config = config_of("heights", datasets, backbone, tmp_path / "run", keep_best=2)
    train(config.with_options(out=str(tmp_path / "whole")), Ranks())
    with monkeypatch.context() as patch:
        patch.setattr(heights, "set_apart", lambda model, backbone, keep: None)
        unfinished(config, epochs=1)
    assert (tmp_path / "run" / "epoch-0001" / WEIGHTS).exists()
    shutil.copytree(tmp_path / "run" / "epoch-0001", tmp_path / "run" / "epoch-0002")
    unfinished(config.with_options(resume="auto"))
    assert sorted(path.name for path in (tmp_path / "run" / "epoch-0002").iterdir()) == sorted(
        [REFERENCE, REST, "config.json", "metrics.json", "statistics.json"]
    )
    train(config.with_options(resume="auto"), Ranks())
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")


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
    with pytest.raises(InputError, match=r"epoch-0001/rest\.safetensors: is cut off"):
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


# --- several ranks, and stored tokens ---


def as_rank(rank: int, folder: Path, configs: list[TrainConfig]) -> None:
    """In a process of its own: one of two ranks."""

    def work(ranks: Ranks) -> None:
        for config in configs:
            train(config, ranks)

    in_group(rank, 2, folder / "rendezvous", work)


@pytest.mark.slow
def test_two_ranks_leave_what_one_leaves(
    datasets: dict[str, Dataset], backbone: Path, tmp_path: Path
) -> None:
    """Sharded, where all ranks gather weights, and from stored tokens, where no rank has the backbone."""
    kinds: dict[str, dict[str, Any]] = {
        "sharded": {"shard_model": True},
        "tokens": TASKS["stored-tokens"],
    }
    configs = [
        config_of("heights", datasets, backbone, tmp_path / name, **{"flips": False, "epochs": 1, **options})
        for name, options in kinds.items()
    ]
    run_ranks(as_rank, 2, (tmp_path, configs))
    for config in configs:
        alone = config.with_options(out=config.out + "-alone", shard_model=False)
        train(alone, Ranks())
        ours, theirs = (load_file(f"{one.out}/epoch-0001/model.safetensors") for one in (config, alone))
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            if ".backbone." in f".{name}":
                assert torch.equal(ours[name], tensor), name
            else:
                torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
        assert not list(Path(config.out).glob("backbone-*"))


def bytes_by_device(fit: Fit) -> dict[str, int]:
    """Bytes of the model's parameters and buffers by their device; those on "meta" take none."""
    found: dict[str, int] = {}
    for tensor in (*fit.model.parameters(), *fit.model.buffers()):
        found[tensor.device.type] = found.get(tensor.device.type, 0) + tensor.nbytes
    return found


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_with_a_token_store_the_model_in_training_has_no_backbone(
    datasets: dict[str, Dataset], backbone: Path, tmp_path: Path, precision: str
) -> None:
    """Neither where this run fills the store nor where it is there; the decoder alone is held."""
    without = config_of("heights", datasets, backbone, "", flips=False, precision=precision)
    store = str(tmp_path / "tokens")
    with_backbone = bytes_by_device(new_fit(without, Ranks()))
    assert with_backbone.keys() == {"cpu"}
    for _ in range(2):
        fit = new_fit(without.with_options(token_store=store), Ranks())
        held = bytes_by_device(fit)
        decoder = sum(weight.nbytes for weight in fit.model.decoder.parameters())  # type: ignore[union-attr]
        assert decoder <= held["cpu"] < decoder + 1000
        assert held["meta"] > 100_000
        assert fit.model.backbone.config.hidden_size == 32  # type: ignore[union-attr]
    assert held["cpu"] < with_backbone["cpu"] - 100_000


def test_its_panel_is_drawn_from_stored_tokens(
    datasets: dict[str, Dataset], backbone: Path, tmp_path: Path
) -> None:
    """Without a store the backbone runs: the picture is the same."""
    options = {"flips": False, "token_dtype": "float32"}
    config = config_of("heights", datasets, backbone, "", **options)
    chips = datasets["heights"].chips("val")[:3]
    panels = [
        new_fit(one, Ranks()).objective.panel(chips)
        for one in (config, config.with_options(token_store=str(tmp_path / "tokens")))
    ]
    ours, theirs = panels
    assert ours is not None
    assert theirs is not None
    assert abs(ours.rgb_HW3.astype(int) - theirs.rgb_HW3).max() <= 1
    name = "height/predicted"
    assert ours.histograms[name] == pytest.approx(theirs.histograms[name], rel=1e-4, abs=1e-4)
