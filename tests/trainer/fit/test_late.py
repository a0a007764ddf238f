"""A step whose outcome the host learns one step late, as on a GPU, is the step that it would be otherwise.

The device decides when the host learns it; here a CPU is told to do as a GPU does. Some steps' gradients are
made not a number.

- Losses, rates, positions, skipped steps, records, weights, moments and averages are the same bit for bit.
- So is every state that is saved on the way, and the error that ends a run.
- A run goes on from such a state with the same bits.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrainings import config_of
from regressors import small_config, write_dataset
from stopped_runs import assert_equal_states

from shards.read.dataset import Dataset
from trainer.commands.pretrain import new_fit as new_pretraining
from trainer.commands.train import new_fit
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit
from trainer.fit.optimiser import new_optimiser, not_finite, step_unless
from trainer.model.pixel_model import PixelModel
from trainer.options import OptimiserOptions
from trainer.run_folder.state import restore, state_of
from trainer.run_folder.state_callback import StateCallback
from trainer.run_folder.state_parts import StateWriter, StoredState, TrainingState

BAD = (0, 3, 4, 7)
"""Backward passes whose gradients are made not a number, the first and the last of an epoch among them."""
SAVES_EVERY = 4
"""Steps from one state to the next. After others than these, and those before, nothing is settled early."""


class Noting(StateCallback):
    """Notes all that it is told and can see, and keeps the states that it would save."""

    def __init__(self) -> None:
        super().__init__(checkpoint_steps=SAVES_EVERY)
        self.told, self.states = list[str](), list[TrainingState]()

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        rates = [group["lr"] for group in fit.optimiser.param_groups]
        self.told.append(repr((fit.position, chips, loss, rates, fit.epoch_loss)))
        super().after_step(fit, chips, loss)

    def save(self, fit: Fit) -> None:
        self.states.append(state_of(fit))


def spoil(fit: Fit, bad: tuple[int, ...]) -> None:
    """Make the gradients of these backward passes not a number; each has one gradient of this weight."""
    passes = iter(range(10**6))
    model = fit.model
    part = model.decoder if isinstance(model, PixelModel) else model
    weight = next(one for one in part.parameters() if one.requires_grad)
    weight.register_hook(lambda gradient: gradient * (float("nan") if next(passes) in bad else 1))


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("late") / "chips", 34, val_share=0.25)


New = Callable[..., Fit]
"""Makes a training of heights with these options, always the same."""


@pytest.fixture
def heights(chips: Dataset, backbone: Path) -> New:
    def new(**options: Any) -> Fit:
        return new_fit(small_config(chips, backbone, batch_size=6, **options), Ranks())

    return new


CASES: dict[str, dict[str, Any]] = {
    "all": {"average": 0.9, "dropout": 0.2},
    "batch norm": {"norm": "batch", "tune": "frozen"},
    "plateau": {
        "schedule": "plateau",
        "plateau_patience": 0,
        "loss": ("silog:1:0@0..1", "squared:0:1@0..1"),
    },
    "pieces": {"accumulate": 2},
    "muon": {"optimiser": "muon", "average": 0.9},
    "pieces of batch norm": {"accumulate": 2, "norm": "batch", "average": 0.9, "tune": "frozen"},
}


def pair(make: Callable[[], Fit], bad: tuple[int, ...]) -> tuple[Fit, Fit]:
    """One that settles at once, as a CPU does, and one that settles late."""
    at_once, late = make(), make()
    for fit in (at_once, late):
        assert not fit.late
        spoil(fit, bad)
    late.late = True
    return at_once, late


@pytest.mark.parametrize("case", [*CASES, "masked"])
def test_what_is_learnt_late_changes_nothing(case: str, chips: Dataset, heights: New) -> None:
    def make() -> Fit:
        if case == "masked":
            return new_pretraining(config_of(chips, "mae", on_nonfinite="skip"), Ranks())
        return heights(on_nonfinite="skip", **CASES[case])

    at_once, late = pair(make, BAD)
    notes = Noting(), Noting()
    for fit, noting in zip((at_once, late), notes, strict=True):
        fit.run(noting)
    assert late.position.skipped > 0
    assert late.position.step > 4
    assert notes[0].told == notes[1].told
    assert at_once.records == late.records
    assert len(notes[0].states) == len(notes[1].states) > 1
    assert_equal_states(state_of(late), state_of(at_once))
    for one, other in zip(*(noting.states for noting in notes), strict=True):
        # Before the first step that is one, moments that are all 0 may be there already.
        if one.values["position"]["step"]:
            assert_equal_states(one, other)


@pytest.mark.parametrize("bad", [(0,), (2,), (4,), (6,)])
def test_a_step_that_is_none_ends_the_run_with_the_weights_before_it(
    bad: tuple[int, ...], heights: New
) -> None:
    """Within an epoch, at its first and its last step, and in the second one."""
    at_once, late = pair(lambda: heights(average=0.9, norm="batch"), bad)
    errors = []
    for fit in (at_once, late):
        with pytest.raises(FloatingPointError, match="the gradient's norm is nan") as error:
            fit.run(StateCallback())
        errors.append(str(error.value))
    assert errors[0] == errors[1]
    one, other = state_of(at_once), state_of(late)
    assert {**one.values, "position": 0, "reader": 0} == {**other.values, "position": 0, "reader": 0}
    for name, rows in one.tensors.items():
        assert torch.equal(rows.tensor, other.tensors[name].tensor), name


def test_a_run_goes_on_from_a_state_that_was_saved_late(heights: New, tmp_path: Path) -> None:
    whole, stopped = pair(lambda: heights(on_nonfinite="skip", norm="batch"), ())
    noting, whole_noting = Noting(), Noting()
    stopped.run(noting)
    whole.run(whole_noting)
    StateWriter(str(tmp_path)).write(noting.states[0])
    again, rest = heights(on_nonfinite="skip", norm="batch"), Noting()
    again.late = True
    with StoredState(str(tmp_path)) as state:
        restore(again, state)
    again.run(rest)
    assert rest.told == whole_noting.told[SAVES_EVERY:]
    assert_equal_states(state_of(again), state_of(whole))


def test_an_objective_whose_inputs_need_the_step_before_says_so(chips: Dataset, heights: New) -> None:
    def settles_at_once(method: str) -> bool:
        return new_pretraining(config_of(chips, method), Ranks()).objective.settles_at_once

    assert settles_at_once("dino")
    assert not settles_at_once("mae")
    assert not heights().objective.settles_at_once


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), None])
def test_the_optimiser_itself_leaves_out_a_step_that_is_none(bad: float | None) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = new_optimiser([{"params": [weight]}], OptimiserOptions(), torch.device("cpu"))
    weight.grad = torch.ones(3)
    for number in (1.0, bad if bad is not None else -2.0):
        before = weight.detach().clone()
        step_unless(optimiser, not_finite(torch.tensor([2.0, number], dtype=torch.float64)))
    assert torch.equal(weight, before) == (bad is not None)
    assert optimiser.state[weight]["step"] == (1 if bad is not None else 2)
