"""Training in float16, on a CPU: the loss is scaled, and a scale that is too large mends itself.

- Losses stay near those of float32, whether a batch is computed at once or in pieces, in pre-training, too.
- Small gradients, which float16 has not, are learnt from.
- Steps that overflow are left out and counted, whatever --on-nonfinite says; at a scale of 1 it decides.
- The scale is torch.amp.GradScaler's in every step, and travels with the state.
- A step whose outcome is learnt late is the same.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrainings import config_of
from regressors import small_config, write_dataset
from stopped_runs import Stopped, Stopper, assert_equal_states

from shards.read.dataset import Dataset
from trainer.commands.pretrain import new_fit as new_pretraining
from trainer.commands.train import new_fit, resumed_fit
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit
from trainer.fit.loss_scale import BACKOFF, GROWTH, GROWTH_STEPS, START, LossScale
from trainer.run_folder.run_writer import RunWriter, run_options
from trainer.run_folder.state import restore, state_of
from trainer.run_folder.state_callback import StateCallback
from trainer.run_folder.state_parts import StoredState

CPU = torch.device("cpu")
HUGE = 2.0**40
"""A scale at which every gradient overflows."""


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("half") / "chips", 40, val_share=0.25)


New = Callable[..., Fit]
"""Makes a training in float16 with these options, always the same."""


QUICK: dict[str, Any] = {"decoder": "linear", "decoder_widths": (), "batch_size": 4, "epochs": 4}
"""Half precision is slow on a CPU: no wide maps."""


@pytest.fixture
def half(chips: Dataset, backbone: Path) -> New:
    def new(scale: float = START, **options: Any) -> Fit:
        config = small_config(chips, backbone, **{**QUICK, "precision": "fp16", **options})
        return scaled(new_fit(config, Ranks()), scale)

    return new


def scaled(fit: Fit, scale: float) -> Fit:
    if fit.scale:
        fit.scale.scale.fill_(scale)
    return fit


def losses_of(fit: Fit) -> list[float]:
    noting = Stopper()
    fit.run(noting)
    return noting.losses


@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_are_near_those_of_float32(accumulate: int, half: New) -> None:
    whole = half(precision="float32", accumulate=accumulate)
    assert whole.scale is None
    in_half = half(scale=2.0**8, accumulate=accumulate)
    expected, actual = losses_of(whole), losses_of(in_half)
    assert len(actual) >= 28
    assert in_half.position.overflowed == 0
    assert actual == pytest.approx(expected, rel=0.05)
    assert actual != expected
    assert sum(actual[-7:]) < 0.7 * sum(actual[:7])


@pytest.mark.parametrize("method", ["mae", "ibot"])
def test_pre_training_does_so_too(method: str, chips: Dataset) -> None:
    expected, actual = (
        losses_of(
            scaled(new_pretraining(config_of(chips, method, epochs=1, precision=precision), Ranks()), 2.0**4)
        )
        for precision in ("float32", "fp16")
    )
    assert actual == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_scale_that_is_too_large_mends_itself_and_nothing_else_changes(optimiser: str, half: New) -> None:
    """Until then no weight moves, and no step is counted among those that are not a number."""
    fit = half(scale=HUGE, epoch_steps=40, epochs=1, optimiser=optimiser)
    before = {name: value.clone() for name, value in fit.model.state_dict().items()}
    seen: list[tuple[int, int, bool]] = []

    class Look(StateCallback):
        def after_step(self, fit: Fit, chips: int, loss: float) -> None:
            same = all(torch.equal(value, before[name]) for name, value in fit.model.state_dict().items())
            seen.append((fit.position.step, fit.position.overflowed, same))

    fit.run(Look())
    first = next(place for place, (step, *_) in enumerate(seen) if step)
    assert first > 10
    assert seen[: first + 1] == [*((0, count + 1, True) for count in range(first)), (1, first, False)]
    assert fit.scale
    assert fit.scale.state()["scale"] == HUGE * BACKOFF**fit.position.overflowed
    assert fit.position.skipped == 0
    assert fit.records[-1]["overflowed_steps"] == fit.position.overflowed


def test_at_a_scale_of_one_a_gradient_that_is_no_number_is_one_of_its_own(half: New) -> None:
    fit = half(epoch_steps=40, epochs=1)
    weight = next(iter(fit.model.parameters()))
    weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(FloatingPointError, match="the gradient's norm is nan in epoch 1, step 1"):
        fit.run(StateCallback())
    assert fit.position.overflowed == 10  # 2^10, halved so often, is 1
    assert fit.scale
    assert fit.scale.state() == {"scale": 1.0, "good_steps": 0}


def test_an_epoch_without_a_step_is_named(half: New) -> None:
    fit = half(scale=HUGE)
    with pytest.raises(FloatingPointError, match=r"epoch 1 were left out, since the loss .* --precision"):
        fit.run(StateCallback())


@pytest.mark.parametrize("decoder", ["residual", "detail"])
def test_an_epoch_of_three_steps_is_learnt_from(decoder: str, half: New) -> None:
    """The scale at the start suits losses in metres; at that of GradScaler all three steps overflow."""
    narrow = {"decoder": decoder, "decoder_widths": (8, 8, 8, 8)}
    fit = half(limit=12, epochs=1, **narrow)
    assert fit.steps_per_epoch == 3
    fit.run(StateCallback())
    assert (fit.position.step, fit.position.overflowed) == (3, 0)
    with pytest.raises(FloatingPointError, match="all steps of epoch 1 were left out"):
        half(scale=2.0**16, limit=12, epochs=1, **narrow).run(StateCallback())


def test_progress_says_that_a_scale_is_being_lowered_until_there_is_a_loss(
    chips: Dataset, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.run_folder.run_writer.NOTE_SECONDS", 0.0)
    options = {**QUICK, "precision": "fp16", "epochs": 1, "epoch_steps": 40}
    config = small_config(chips, backbone, out=str(tmp_path / "run"), **options)
    fit, notes = scaled(resumed_fit(config, Ranks()), HUGE), list[str]()
    written = run_options(config, fit.learning.dataset, CPU)
    with RunWriter(written, lambda count, note="": notes.append(note)) as writer:
        fit.run(writer)
    count = next(place for place, note in enumerate(notes) if "loss " in note.partition("no step")[0])
    assert count > 10
    assert notes[:count] == [
        "epoch 1, no step yet: the scale of the loss in float16 is being lowered, which is expected "
        f"({number} steps left out, docs/gpu.md)"
        for number in range(1, count + 1)
    ]
    assert all("loss " in note and "nan" not in note for note in notes[count:])


def test_no_state_is_saved_before_the_first_step(half: New) -> None:
    """It would be one of an epoch that is over, from which nothing can go on."""
    fit, saved = half(scale=HUGE), list[int]()

    class Look(StateCallback):
        def save(self, fit: Fit) -> None:
            saved.append(fit.position.step)

    with pytest.raises(FloatingPointError):
        fit.run(Look(checkpoint_steps=1))
    assert fit.position.overflowed
    assert not saved


def test_the_scale_is_that_of_torch() -> None:
    ours, theirs = LossScale(CPU), torch.amp.GradScaler("cpu", START, GROWTH, BACKOFF, GROWTH_STEPS)
    weight = torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.SGD([weight], 0.0)
    generator = torch.Generator().manual_seed(0)
    for step in range(GROWTH_STEPS + 40):
        is_bad = step < 30 and bool(torch.rand((), generator=generator) < 0.2)
        scaled = theirs.scale(weight.sum())
        assert torch.equal(scaled, ours.times(weight.sum()))
        scaled.backward()
        assert weight.grad is not None
        if is_bad:
            weight.grad *= float("inf")
        theirs.step(optimiser)
        theirs.update()
        ours.after_step(torch.tensor(float(is_bad)))
        assert float(ours.scale) == theirs.get_scale()
        optimiser.zero_grad()
    assert 1 < float(ours.scale) < START


def test_gradients_that_float16_has_not_are_learnt_from() -> None:
    """The smallest number above 0 is 6e-8."""
    scale, weight = LossScale(CPU), torch.nn.Parameter(torch.ones(4))

    def loss() -> torch.Tensor:
        return (weight.half() * 1.0).float().sum() * 1e-8

    loss().backward()
    assert weight.grad is not None
    assert not weight.grad.any()
    weight.grad = None
    scale.times(loss()).backward()
    scale.unscale([weight])
    assert weight.grad is not None
    assert weight.grad.tolist() == pytest.approx([1e-8] * 4, rel=1e-2)


@pytest.mark.parametrize("late", [False, True])
def test_the_scale_travels_with_the_state_and_late_steps_are_the_same(
    late: bool, half: New, tmp_path: Path
) -> None:
    def new() -> Fit:
        fit = half(scale=2.0**22, epoch_steps=20, epochs=1)
        fit.late = late
        return fit

    undisturbed = half(scale=2.0**22, epoch_steps=20, epochs=1)
    losses, stopper, rest = losses_of(undisturbed), Stopper(9, tmp_path), Stopper()
    stopper.may_save = lambda step: True  # type: ignore[method-assign]
    assert undisturbed.position.overflowed > 0
    with pytest.raises(Stopped):
        new().run(stopper)
    again = half(epoch_steps=20, epochs=1)
    again.late = late
    with StoredState(str(tmp_path)) as state:
        restore(again, state)
    assert again.scale
    assert again.scale.state() == state.values["loss_scale"]
    assert again.scale.state()["scale"] < 2.0**22
    again.run(rest)
    assert stopper.losses + rest.losses == losses
    assert_equal_states(state_of(again), state_of(undisturbed))
