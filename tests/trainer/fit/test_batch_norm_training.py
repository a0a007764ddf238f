"""A training with batch norm is the same on any number of ranks, sharded or not, in any number of pieces.

Real processes with gloo. The last batch of an epoch has 3 chips: of four ranks one has none, and of two ranks
with three pieces each has a piece without chips. Beside one process, losses, scores, running statistics and
averages agree within rounding; stopped and resumed on as many ranks, bit for bit.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import in_group, run_ranks
from regressors import local_backbone, small_config, write_dataset
from stopped_runs import Stopped, Stopper, assert_equal_states

from trainer.commands.train import new_fit
from trainer.config import TrainConfig
from trainer.devices.ranks import Meeting, Ranks
from trainer.devices.sharding import whole
from trainer.fit.loop import Fit
from trainer.run_folder.state import restore, state_of
from trainer.run_folder.state_callback import StateCallback
from trainer.run_folder.state_parts import StateWriter, StoredState

OPTIONS: dict[str, Any] = {
    "norm": "batch",
    "decoder": "detail",
    "batch_size": 5,
    "learning_rate": 1e-4,
    "dropout": 0.2,
    "average": 0.9,
}
"""A rate so small that rounding does not grow, and convolutions without biases before a norm: nothing pulls
those, so Adam moves them, and the means after them, by the rate in the direction of rounding."""
CASES: dict[str, dict[str, Any]] = {
    "whole": {},
    "pieces": {"accumulate": 3},
    "two passes": {"accumulate": 3, "loss": ("silog:1:0", "squared:1:0"), "epochs": 1},
    "sharded": {"shard_model": True},
    "sharded pieces": {"shard_model": True, "accumulate": 3, "epochs": 1},
}
STOP, STEPS = 2, 8
"""Step after which a run stops, in the first epoch; steps of two epochs."""


class Saving(StateCallback):
    """Notes the losses, and saves the state after a step."""

    def __init__(self, states: StateWriter | None = None) -> None:
        super().__init__()
        self.states, self.losses = states, list[float]()

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        self.losses.append(loss)
        if self.states and fit.position.step == STOP:
            self.states.write(state_of(fit))

    def after_epoch(self, fit: Fit, record: dict[str, Any], is_best: bool) -> None:
        """Nothing is written here."""


def run(
    config: TrainConfig, ranks: Ranks, save: Path | None = None, go_on: Path | None = None
) -> dict[str, Any]:
    """Train from the beginning or from a state; return losses, scores, and what changed, as plain values."""
    fit = new_fit(config, ranks)
    if go_on:
        with StoredState(str(go_on)) as state:
            restore(fit, state)
    meeting = Meeting(ranks if config.fit.shard_model else Ranks())
    writes = save is not None and (ranks.is_first or config.fit.shard_model)
    saving = Saving(StateWriter(str(save), meeting) if writes else None)
    fit.run(saving)
    assert fit.average
    tensors = fit.model.changing() | {
        f"average.{name}": one for name, one in fit.average.state_dict().items()
    }
    return {
        "losses": saving.losses,
        "scores": [record["val_loss"] for record in fit.records],
        "tensors": {name: whole(one).clone() for name, one in tensors.items()},
    }


def as_rank(rank: int, folder: Path, config: TrainConfig, world: int) -> None:
    """In a process of its own: one of this many ranks."""

    def work(ranks: Ranks) -> dict[str, Any]:
        told = {}
        for case, options in CASES.items():
            of_case = config.with_options(**options)
            told[case] = run(of_case, ranks, save=folder / f"{case}-by-{world}")
            if world == 2 and "two" not in case:
                told[f"{case} again"] = run(of_case, ranks, go_on=folder / f"{case}-by-2")
        if world == 2:
            told["from alone"] = run(config.with_options(accumulate=3), ranks, go_on=folder / "pieces-by-1")
        return told

    told = in_group(rank, world, folder / f"rendezvous-{world}", work)
    torch.save(told, folder / f"rank-{rank}-of-{world}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batch-norm")


@pytest.fixture(scope="module")
def config(folder: Path) -> TrainConfig:
    dataset = write_dataset(folder / "chips", chips=22, val_share=0.2)
    assert dataset.chips("train").size % 5 == 3
    return small_config(dataset, local_backbone(folder / "backbone"), **OPTIONS)


@pytest.fixture(scope="module")
def alone(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Each case in one process, which holds the whole model."""
    return {
        case: run(config.with_options(**options | {"shard_model": False}), Ranks(), folder / f"{case}-by-1")
        for case, options in CASES.items()
    }


def told_by(world: int, folder: Path, config: TrainConfig) -> list[dict[str, Any]]:
    run_ranks(as_rank, world, (folder, config, world))
    return [torch.load(folder / f"rank-{rank}-of-{world}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def two(config: TrainConfig, folder: Path, alone: Any) -> list[dict[str, Any]]:
    return told_by(2, folder, config)


@pytest.fixture(scope="module")
def four(config: TrainConfig, folder: Path) -> list[dict[str, Any]]:
    return told_by(4, folder, config)


def assert_alike(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Losses, scores, running statistics and weights agree within 1e-5."""
    for name in ("losses", "scores"):
        assert found[name] == pytest.approx(wanted[name][-len(found[name]) :], rel=1e-5)
    tensors = found["tensors"], wanted["tensors"]
    assert tensors[0].keys() == tensors[1].keys()
    statistics = {name for name in tensors[0] if "running" in name}
    assert len(statistics) == 2 * len({name for name in statistics if "average" in name})
    for name in statistics:
        assert distance([name], *tensors) < 1e-5, name
    # Together: Adam moves a weight that nothing pulls by the rate, in the direction of rounding.
    assert distance(sorted(tensors[0].keys() - statistics), *tensors) < 1e-5


def distance(names: list[str], found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The norm of the differences as a share of the norm."""
    one, other = (
        torch.cat([tensors[name].double().flatten() for name in names]) for tensors in (found, wanted)
    )
    return float((one - other).norm() / other.norm())


def assert_same(found: dict[str, Any], wanted: dict[str, Any], after: int) -> None:
    """Bit for bit what the other is after that many steps."""
    assert found["losses"] == wanted["losses"][after:]
    assert found["scores"] == wanted["scores"]
    assert found["tensors"].keys() == wanted["tensors"].keys()
    for name, one in found["tensors"].items():
        assert torch.equal(one, wanted["tensors"][name]), name


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world", ["two", "four"])
def test_ranks_learn_what_one_process_learns(
    world: str, case: str, alone: Any, request: pytest.FixtureRequest
) -> None:
    for one in request.getfixturevalue(world):
        assert_alike(one[case], alone[case])


@pytest.mark.slow
def test_ranks_go_on_bit_for_bit(two: Any) -> None:
    again = [case for case in two[0] if case.endswith(" again")]
    assert len(again) == 4
    for one in two:
        for case in again:
            assert_same(one[case], one[case.removesuffix(" again")], STOP)


@pytest.mark.slow
def test_two_go_on_from_one_and_one_from_two(two: Any, alone: Any, config: TrainConfig, folder: Path) -> None:
    for one in two:
        assert_alike(one["from alone"], alone["pieces"])
    for case in ("pieces", "sharded"):
        of_case = config.with_options(**CASES[case] | {"shard_model": False})
        assert_alike(run(of_case, Ranks(), go_on=folder / f"{case}-by-2"), alone[case])


def test_one_process_goes_on_bit_for_bit(alone: Any, config: TrainConfig, folder: Path) -> None:
    for case in ("whole", "two passes"):
        again = run(config.with_options(**CASES[case]), Ranks(), go_on=folder / f"{case}-by-1")
        assert_same(again, alone[case], STOP)


def test_statistics_change_once_a_step(alone: Any) -> None:
    for case in ("whole", "pieces", "two passes"):
        tensors = alone[case]["tensors"]
        counts = {int(one) for name, one in tensors.items() if name.endswith("batches_tracked")}
        assert counts == {len(alone[case]["losses"])}


@pytest.mark.parametrize(("accumulate", "skipped"), [(1, 3), (2, 2)])
def test_a_pass_of_no_numbers_leaves_statistics_as_they_were(
    config: TrainConfig, accumulate: int, skipped: int
) -> None:
    fit = new_fit(config.with_options(on_nonfinite="skip", accumulate=accumulate), Ranks())
    passes = iter(range(10**6))
    spoilt = (0, 1, 5)

    def spoil(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if not fit.model.training or next(passes) not in spoilt:
            return None
        return tuple(one * torch.nan for one in inputs)

    first = next(layer for layer in fit.model.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    first.register_forward_pre_hook(spoil)
    fit.run(StateCallback())
    assert fit.position.skipped == skipped
    for name, rows in state_of(fit).tensors.items():
        assert rows.tensor.isfinite().all(), name
    assert int(first.num_batches_tracked) == fit.position.step == STEPS - skipped


def test_a_run_without_averaged_statistics_goes_on_as_it_began(config: TrainConfig, tmp_path: Path) -> None:
    """A state of before has averages of weights alone; so have those that follow it."""
    stopper = Stopper(STOP, tmp_path / "new")
    with pytest.raises(Stopped):
        new_fit(config, Ranks()).run(stopper)
    fit = new_fit(config, Ranks())
    with StoredState(str(tmp_path / "new")) as state:
        restore(fit, state)
    older = state_of(fit)
    for name in [name for name in older.tensors if name.startswith("average.") and "running" in name]:
        del older.tensors[name]
    StateWriter(str(tmp_path / "old")).write(older)
    rest = []
    for stop in (0, 2):
        fit = new_fit(config, Ranks())
        with StoredState(str(tmp_path / "old")) as state:
            restore(fit, state)
        if stop:
            with pytest.raises(Stopped):
                fit.run(Stopper(stop, tmp_path / "later"))
            fit = new_fit(config, Ranks())
            with StoredState(str(tmp_path / "later")) as state:
                restore(fit, state)
        fit.run(Stopper())
        rest.append(state_of(fit))
    assert rest[0].tensors.keys() == older.tensors.keys() - {"sums"}
    assert_equal_states(*rest)
