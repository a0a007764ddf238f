"""The interface of what a training minimises and reports. The loop knows nothing else of it.

Heights are the first kind (trainer.fit.heights). Each step, on each rank:

    inputs = objective.inputs(fed, key)                     a batch, augmented
    sums_K = objective.sums(forward, inputs)                over this rank's chips, differentiable
    objective.value(sums_all_K, share_done)                 the loss, from the sums of all ranks
    surrogate(objective, sums_K, sums_all_K, share_done).backward()

If the slope of the loss depends only on counts that are known before any pass (`known_sums`), ranks add these
up during the forward pass. Each piece of a batch then goes forward and backward in turn, and ranks add up
sums_K afterwards. After each epoch:

    sums = add_up(..objective.score_sums.., batches, ...)   over the validation chips (trainer.fit.scoring)
    numbers = objective.scored(sums, share_done)            from the sums of all ranks
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from shards.read.order import Chips
from trainer.data.feed import Fed, RowReader
from trainer.data.step_inputs import StepKey
from trainer.devices.ranks import PendingSum
from trainer.fit.scoring import Sums
from trainer.options import OptimiserOptions

Forward = Callable[..., Any]
"""Forward pass of the model, in the run's precision; in training it averages gradients over ranks."""
Numbers = dict[str, float | int | None]
"""Scores by name; None where nothing was measured."""


class StepInputs(Protocol):
    """Inputs of one step, on one rank."""

    def pieces(self, count: int) -> Sequence[Self]:
        """Cut the chips into up to `count` pieces of nearly equal size."""


@dataclass(frozen=True)
class Panel:
    """Picture of sample chips, and the values in it."""

    title: str
    """Title, which says what the columns are."""
    rgb_HW3: NDArray[np.uint8]
    """Picture."""
    histograms: dict[str, NDArray[np.floating[Any]]]
    """Values by name."""


class HasValue(Protocol):
    """A loss that is a function of sums over chips."""

    def value(self, sums_K: Tensor, share_done: float) -> Tensor:
        """Compute the loss (a scalar).

        Args:
            sums_K: sums over all chips and ranks.
            share_done: share (0..1) of training that is done.
        """


InputsT = TypeVar("InputsT", bound=StepInputs)


class Objective(HasValue, Protocol[InputsT]):
    """Goal of a training: a loss, and the scores to report. It holds no optimiser and writes no files."""

    learns_from: str
    """Unit that reports count: chips, or tiles where a label or no label is of a whole one."""
    settles_at_once: bool
    """Whether `inputs` or `sums` depend on what `after_step` or the loop did after the previous step."""

    def groups(self, options: OptimiserOptions) -> list[dict[str, Any]]:
        """Return what learns, in groups for a torch optimiser, each with its "highest_rate"."""

    def prepare(self) -> None:
        """Fit the baselines, unless they were restored; only the first rank calls this."""

    def row_reader(self, of_epoch: tuple[int, int] | None) -> RowReader | None:
        """Return what reads rows that go with each batch, ahead of its step and in another thread.

        Args:
            of_epoch: seed and epoch of a training's steps; None: the batches are scored.

        Returns:
            None if nothing but the chips is read.
        """

    def inputs(self, fed: Fed, key: StepKey) -> InputsT:
        """Augment a batch; random numbers depend on `key` alone, whatever the number of ranks."""

    def known_sums(self, inputs: InputsT) -> PendingSum | None:
        """Begin to add up over ranks those of sums_K that are known before any pass: counts.

        In the sums that it returns all others are 0. Return None if the slope of the loss depends on others.
        """

    def sums(self, forward: Forward, inputs: InputsT) -> Tensor:
        """Compute the loss's sums_K over these chips, differentiable; sums of pieces and ranks add up."""

    def before_step(self, optimiser: Optimizer, share_done: float) -> None:
        """Change gradients or the optimiser's options for the step that comes; ranks change them alike."""

    def after_step(self, sums_K: Tensor, share_done: float) -> None:
        """React to a step of the optimiser, whose sums over all chips and ranks were sums_K."""

    def scores_after(self, epoch: int) -> bool:
        """Tell whether the model is scored after epoch number `epoch` (from 0)."""

    def score_sums(self, forward: Forward, fed: Fed) -> Sums:
        """Compute the sums that scores follow from, for one batch; sums of batches and ranks add up."""

    def scored(self, sums: Sums, share_done: float) -> Numbers:
        """Compute the scores to record, from the sums over all batches and ranks.

        Raises:
            DatasetError: the chips cannot be scored.
        """

    def standing(self, record: dict[str, Any]) -> float:
        """Return the value by which epochs are compared; the lowest is the best."""

    def trained(self, sums_K: Tensor) -> Numbers:
        """Compute what to record of an epoch's training beside its loss, from its sums_K over all ranks."""

    def summary(self, record: dict[str, Any]) -> str:
        """Sum up an epoch's scores in a few words."""

    def panel(self, chips: Chips) -> Panel | None:
        """Draw sample chips; None if their shards are left out. If sharded, call it on all ranks."""

    def gather(self) -> None:
        """Take part in gathering a sharded model's weights, while the first rank makes a checkpoint."""

    def state(self) -> dict[str, Any]:
        """Return the objective's part of the training state, as plain JSON values."""

    def restore(self, values: dict[str, Any]) -> None:
        """Resume from what `state` returned."""

    def checkpoint(self, record: dict[str, Any], trained_on: dict[str, Any]) -> dict[str, bytes]:
        """Return a checkpoint's files by name, the one that makes it complete last.

        Args:
            record: scores of the epoch.
            trained_on: the checkpoint's description of its training data and code.
        """


class LossDecides:
    """What objectives have in common whose loss decides, and that change nothing between steps."""

    learns_from = "chips"
    """See Objective."""
    settles_at_once = False
    """See Objective."""

    def row_reader(self, of_epoch: tuple[int, int] | None) -> RowReader | None:
        """See Objective; there is nothing."""
        return None

    def before_step(self, optimiser: Optimizer, share_done: float) -> None:
        """See Objective; there is nothing to change."""

    def after_step(self, sums_K: Tensor, share_done: float) -> None:
        """See Objective; there is nothing to do."""

    def scores_after(self, epoch: int) -> bool:
        """See Objective."""
        return True

    def standing(self, record: dict[str, Any]) -> float:
        """See Objective: the loss, of the validation chips if there are any."""
        return float(record.get("val_loss", record["loss"]))

    def trained(self, sums_K: Tensor) -> Numbers:
        """See Objective; there is nothing but the loss."""
        return {}


def surrogate(loss: HasValue, sums_local_K: Tensor, sums_global_K: Tensor, share_done: float) -> Tensor:
    """Return a scalar for `backward` whose gradients, added up over ranks, are those of the global loss.

    Let S be the sum of the ranks' sums s. By the chain rule the gradient of value(S) is the sum over ranks of
    value'(S) ds. So the scalar is the slope at the global sums times this rank's sums; its value means
    nothing. If ranks average gradients instead of adding them, multiply it by the number of ranks.

    Args:
        loss: loss whose `value` is minimised.
        sums_local_K: this rank's sums, differentiable.
        sums_global_K: sums over all ranks, on any device.
        share_done: share (0..1) of training that is done.
    """
    with torch.enable_grad():
        total_K = sums_global_K.detach().requires_grad_()
        (slope_K,) = torch.autograd.grad(loss.value(total_K, share_done), total_K)
    return (slope_K.to(sums_local_K.device) * sums_local_K).sum()
