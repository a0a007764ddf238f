"""A step that was taken, and its outcome, which the host may learn later."""

from dataclasses import dataclass

from torch import Tensor

from shards.read.order import Chips
from trainer.devices.transfer import FromDevice


@dataclass(frozen=True)
class Taken:
    """A step whose outcome the host may not know: its loss or gradient may not be a number."""

    chips: int
    """Number of its chips, over all ranks."""
    first_chips: Chips
    """First chips of this rank's part, for errors."""
    share_done: float
    """Share (0..1) of training that was done before."""
    sums_K: Tensor
    """Sums of the loss over all ranks."""
    numbers: FromDevice
    """Loss, the gradient's norm, and in float16 the scale of the loss."""
    is_applied: bool
    """Whether the optimiser has already queued the change of weights, if loss and norm are finite."""


Outcome = tuple[int, float]
"""Chips and loss of a step, as the callback is told."""
