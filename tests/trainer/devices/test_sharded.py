"""A regressor of which each rank holds a part learns what a whole one learns; its state has one format.

Real processes with gloo: two, and three in the long checks. Of the same steps:

- the losses and scores of sharded ranks, and their checkpoints, are those of one process, within rounding;
- stopped within an epoch they go on bit for bit on as many ranks; on others, or unsharded, within rounding;
- each rank keeps its share of weights and moments, and writes its share of the state, in parts below a limit;
- at whatever moment a save is killed, a whole state is there, and what is left over goes with the next one.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import in_group, run_ranks
from regressors import local_backbone, small_config, write_dataset
from safetensors.torch import load_file

from shards.errors import InputError
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import find_files
from trainer.commands.train import fit_of, train
from trainer.commands.train_check import check
from trainer.config import TrainConfig
from trainer.devices.ranks import Meeting, Ranks
from trainer.devices.sharding import Rows, rows_of
from trainer.fit.learning import Learning
from trainer.fit.loop import Fit
from trainer.model.make import new_regressor
from trainer.run_folder.state import restore, state_of
from trainer.run_folder.state_callback import StateCallback
from trainer.run_folder.state_parts import (
    PARTS,
    STATE,
    StateWriter,
    StoredState,
    TrainingState,
    in_parts,
    part_bytes,
    remove_leftovers,
)

RICH: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 7,
    "learning_rate": 1e-4,
    "dropout": 0.2,
    "average": 0.9,
    "accumulate": 2,
    "recompute_activations": True,
}
"""Options under which much is to be remembered, and a rate so small that rounding does not grow."""
EPOCH_STEPS = 3
STOP = 2
"""The step after which states are saved: within the first epoch."""
LIMIT = 100_000
"""Bytes of a part, instead of a gigabyte."""
WORLDS = (2, pytest.param(3, marks=pytest.mark.long))


class Stopped(Exception):
    """What stands for a kill."""


class Noting(StateCallback):
    """Notes the losses, and saves the state after a step."""

    def __init__(self, states: StateWriter | None = None, stop: int = STOP) -> None:
        super().__init__()
        self.states, self.stop, self.losses = states, stop, list[float]()

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        self.losses.append(loss)
        if self.states and fit.position.step == self.stop:
            self.states.write(state_of(fit))


def new_fit(config: TrainConfig, ranks: Ranks) -> Fit:
    torch.manual_seed(config.fit.seed)
    dataset = open_dataset(config.data)
    learning = Learning(dataset, dataset.chips("train"), dataset.chips("val"), ranks)
    return fit_of(new_regressor(dataset, config.model), learning, config)


def run(
    config: TrainConfig,
    ranks: Ranks,
    save: Path | None = None,
    go_on: Path | None = None,
    stop: int = STOP,
) -> Any:
    """(the fit at its end, its losses, the validation loss of each epoch)."""
    fit = new_fit(config, ranks)
    if go_on:
        with StoredState(str(go_on)) as state:
            restore(fit, state)
    meeting = Meeting(ranks if config.fit.shard_model else Ranks())
    noting = Noting(StateWriter(str(save), meeting, LIMIT) if save else None, stop)
    fit.run(noting)
    return fit, noting.losses, [record["val_loss"] for record in fit.records]


def as_rank(rank: int, folder: Path, config: TrainConfig, world: int) -> None:
    """In a process of its own: one of this many ranks."""
    rendezvous = folder / f"rendezvous-{world}"
    told = in_group(rank, world, rendezvous, lambda ranks: as_one_of(ranks, folder, config))
    (folder / f"rank-{rank}-of-{world}.json").write_text(json.dumps(told))


def as_one_of(ranks: Ranks, folder: Path, config: TrainConfig) -> dict[str, Any]:
    """Train sharded, save, go on from what others saved; what came of it, as plain values."""
    of_n = folder / f"by-{ranks.world_size}"
    fit, losses, scores = run(config, ranks, save=of_n)
    held = [rows_of(weight).tensor.numel() for weight in fit.model.parameters()]
    moments = [
        rows_of(state[name]).tensor.numel()
        for state in fit.optimiser.state.values()
        for name in ("exp_avg", "exp_avg_sq")
    ]
    told: dict[str, Any] = {"losses": losses, "scores": scores, "held": sum(held), "moments": sum(moments)}
    told["again"] = run(config, ranks, go_on=of_n)[1]
    if ranks.world_size == 2:
        # Saved before the epoch was scored: what goes on begins with that.
        run(config, ranks, save=folder / "whole-epoch", stop=EPOCH_STEPS)
        told["second"] = run(config, ranks, go_on=folder / "whole-epoch")[1]
        told["from-alone"] = run(config, ranks, go_on=folder / "alone")[1]
        train(config.with_options(out=str(folder / "run-sharded"), epochs=1), ranks)
        told |= {
            tune: run(config.with_options(tune=tune, epochs=1), ranks)[1:] for tune in ("frozen", "lora")
        }
        told["bf16"] = run(config.with_options(precision="bf16", epochs=1), ranks)[1]
    else:
        told["from-fewer"] = run(config, ranks, go_on=folder / "by-2")[1]
    return told


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """17 chips or so to train on, some held out: the last batch gives three ranks unequal parts."""
    return write_dataset(tmp_path_factory.mktemp("sharded"), chips=22, val_share=0.2)


@pytest.fixture(scope="module")
def config(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return small_config(dataset, local_backbone(tmp_path_factory.mktemp("backbone")), **RICH)


@pytest.fixture(scope="module")
def folder(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("states")


@pytest.fixture(scope="module")
def alone(config: TrainConfig, folder: Path) -> Any:
    """The same training in one process, whole."""
    return run(config, Ranks(), save=folder / "alone")


def told_by(world: int, folder: Path, config: TrainConfig) -> list[dict[str, Any]]:
    """What each rank tells."""
    run_ranks(as_rank, world, (folder, config.with_options(shard_model=True), world))
    return [json.loads((folder / f"rank-{rank}-of-{world}.json").read_text()) for rank in range(world)]


@pytest.fixture(scope="module")
def two(config: TrainConfig, folder: Path, alone: Any) -> list[dict[str, Any]]:
    return told_by(2, folder, config)


@pytest.fixture(scope="module")
def three(config: TrainConfig, folder: Path, two: Any) -> list[dict[str, Any]]:
    """They resume what two saved."""
    return told_by(3, folder, config)


@pytest.fixture(params=WORLDS)
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What each of two ranks tells, or each of three."""
    told: list[dict[str, Any]] = request.getfixturevalue("two" if request.param == 2 else "three")
    return told


@pytest.mark.slow
def test_sharded_ranks_learn_what_one_process_learns(ranks: Any, alone: Any) -> None:
    _, losses, scores = alone
    assert len(losses) == 6
    for one in ranks:
        assert one["losses"] == pytest.approx(losses, rel=1e-5)
        assert one["scores"] == pytest.approx(scores, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["frozen", "lora"])
def test_backbones_that_learn_in_part_are_sharded_too(two: Any, config: TrainConfig, tune: Any) -> None:
    _, losses, scores = run(config.with_options(tune=tune, epochs=1), Ranks())
    for one in two:
        assert one[tune][0] == pytest.approx(losses, rel=1e-5)
        assert one[tune][1] == pytest.approx(scores, rel=1e-5)


@pytest.mark.slow
def test_in_bfloat16_it_learns_as_well(two: Any, config: TrainConfig) -> None:
    _, losses, _ = run(config.with_options(precision="bf16", epochs=1), Ranks())
    for one in two:
        assert one["bf16"] == pytest.approx(losses, rel=5e-3)


@pytest.mark.slow
def test_as_many_ranks_go_on_bit_for_bit(ranks: Any) -> None:
    for one in ranks:
        assert one["again"] == one["losses"][STOP:]


@pytest.mark.slow
def test_a_run_goes_on_that_was_stopped_before_an_epoch_was_scored(two: Any) -> None:
    for one in two:
        assert one["second"] == pytest.approx(one["losses"][EPOCH_STEPS:], rel=1e-5)


@pytest.mark.slow
def test_other_numbers_of_ranks_go_on_within_rounding(
    ranks: Any, alone: Any, config: TrainConfig, folder: Path
) -> None:
    rest = pytest.approx(alone[1][STOP:], rel=1e-5)
    assert all(one["from-alone" if len(ranks) == 2 else "from-fewer"] == rest for one in ranks)
    assert run(config, Ranks(), go_on=folder / f"by-{len(ranks)}")[1] == rest


def test_a_whole_state_survives_its_parts_bit_for_bit(config: TrainConfig, folder: Path, alone: Any) -> None:
    assert run(config, Ranks(), go_on=folder / "alone")[1] == alone[1][STOP:]


@pytest.mark.slow
def test_each_rank_holds_and_writes_its_share(ranks: Any, alone: Any, folder: Path) -> None:
    fit, world = alone[0], len(ranks)
    total = sum(weight.numel() for weight in fit.model.parameters())
    learning = sum(weight.numel() for weight in fit.model.parameters() if weight.requires_grad)
    assert sum(one["held"] for one in ranks) == total
    assert sum(one["moments"] for one in ranks) == 2 * learning
    sizes = {path.name: path.stat().st_size for path in (folder / f"by-{world}").glob("state/*/*")}
    written = [sum(sizes[name] for name in sizes if name.startswith(f"{rank:05d}-")) for rank in range(world)]
    for one, size in zip(ranks, written, strict=True):
        # Tokens of one row cannot be cut, and 32 rows make 11, 11 and 10.
        assert one["held"] < 1.1 * total / world
        assert one["moments"] < 1.1 * 2 * learning / world
        assert size < 1.15 * sum(written) / world
    assert len(sizes) > 2 * world
    assert max(sizes.values()) < 1.5 * LIMIT, "rows, and a header"


@pytest.mark.slow
def test_a_sharded_run_leaves_what_another_leaves(two: Any, config: TrainConfig, folder: Path) -> None:
    train(config.with_options(out=str(folder / "run-whole"), epochs=1), Ranks())
    files = {name: find_files(str(folder / name)) for name in ("run-whole", "run-sharded")}
    kinds = [
        {name for name in names if not name.startswith((f"{PARTS}/", "tensorboard"))}
        for names in files.values()
    ]
    assert kinds[0] == kinds[1]
    assert STATE in kinds[0]
    weights = [load_file(folder / name / "epoch-0001" / "model.safetensors") for name in files]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        # A step moves a weight by the learning rate at most, whose sign rounding decides where nothing pulls.
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=RICH["learning_rate"], msg=name)


@pytest.mark.parametrize("option", [{"compile": True}, {"token_store": "tokens", "tune": "frozen"}])
def test_what_cannot_be_sharded_is_refused(config: TrainConfig, option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--shard-model: does not go together with --"):
        check(config.with_options(shard_model=True, **option))


# --- parts ---


def state_named(name: str, seed: int) -> TrainingState:
    """Some tensors of every shape, in any type of what learns and counts."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (37, 11), "images": (6, 2, 3, 3), "vector": (101,), "number": (), "row": (1, 50)}
    tensors = {key: torch.rand(shape, generator=generator) for key, shape in shapes.items()}
    tensors["half"] = tensors["matrix"].bfloat16()
    tensors["images"] = tensors["images"].contiguous(memory_format=torch.channels_last)
    tensors["updates"] = torch.tensor(seed)
    return TrainingState(
        name, {key: Rows(t, 0, tuple(t.shape)) for key, t in tensors.items()}, {"seed": seed}
    )


def assert_stored(out: str, state: TrainingState) -> None:
    """It is what is read, in whole and in rows."""
    with StoredState(out) as stored:
        assert stored.values == state.values
        assert stored.shapes == {name: rows.shape for name, rows in state.tensors.items()}
        for name, rows in state.tensors.items():
            read = stored.rows(name)
            assert read.dtype == rows.tensor.dtype
            assert torch.equal(read, rows.tensor), name
            if rows.shape:
                for first, end in ((0, rows.shape[0]), (rows.shape[0] // 3, rows.shape[0]), (0, 0), (0, 1)):
                    assert torch.equal(stored.rows(name, first, end - first), rows.tensor[first:end]), name


@pytest.mark.parametrize("limit", [1, 64, 300, 1_000, 10**9])
def test_a_state_is_read_as_it_was_whatever_the_limit(tmp_path: Path, limit: int) -> None:
    state = state_named("step-1", seed=1)
    StateWriter(str(tmp_path), part_bytes=limit).write(state)
    assert_stored(str(tmp_path), state)
    parts = list(in_parts(state.tensors, limit))
    row = max(rows.tensor[0].nbytes if rows.shape else 8 for rows in state.tensors.values())
    for part in parts:
        assert sum(rows.tensor.nbytes for rows in part.values()) <= max(limit, row)
    assert (len(parts) == 1) == (limit > 10_000)
    assert [part_bytes(part) for part in parts] == [
        path.read_bytes() for path in sorted(tmp_path.glob(f"{PARTS}/*/*"))
    ]


class Killed(Meeting):
    """One that is killed when its parts are written."""

    def tell(self, number: int) -> list[int]:
        raise Stopped


def test_a_save_that_is_killed_leaves_the_old_state_and_its_leftovers_go(storage: str) -> None:
    old, new = state_named("step-1", seed=1), state_named("step-2", seed=2)
    StateWriter(storage, part_bytes=1_000).write(old)
    before = find_files(storage)
    for clear in (remove_leftovers, lambda out: StateWriter(out, part_bytes=1_000).write(old)):
        with pytest.raises(Stopped):
            StateWriter(storage, Killed(), part_bytes=500).write(new)
        assert len(find_files(storage)) > len(before)
        assert_stored(storage, old)
        clear(storage)
        assert find_files(storage) == before
        assert_stored(storage, old)
    StateWriter(storage, part_bytes=1_000).write(new)
    assert_stored(storage, new)
    assert not [name for name in find_files(storage) if "step-1" in name]


def test_leftovers_of_a_first_save_go(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        StateWriter(str(tmp_path), Killed()).write(state_named("step-1", seed=1))
    remove_leftovers(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_rows_that_are_missing_are_named(tmp_path: Path) -> None:
    state = state_named("step-1", seed=1)
    some = {name: Rows(rows.tensor[:5], 0, rows.shape) for name, rows in state.tensors.items() if rows.shape}
    StateWriter(str(tmp_path)).write(replace(state, tensors=some))
    with StoredState(str(tmp_path)) as stored, pytest.raises(InputError, match="rows of matrix are missing"):
        stored.rows("matrix", 3, 3)
