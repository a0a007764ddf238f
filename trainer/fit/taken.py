"""A step that was taken, and what came of it, which the host may learn later."""

from dataclasses import dataclass

from torch import Tensor

from shards.read.order import Chips
from trainer.devices.transfer import FromDevice


@dataclass(frozen=True)
class Taken:
    """A step of which the host may not know yet whether it was one: its loss or gradient may be no number."""

    chips: int
    """Its chips, over all ranks."""
    first_chips: Chips
    """Some of this rank's."""
    share_done: float
    """Share (0..1) of training that was done before."""
    sums_K: Tensor
    """Sums of the loss over all ranks."""
    numbers: FromDevice
    """Loss, the gradient's norm, and in float16 the scale of the loss."""
    is_applied: bool
    """Whether the optimiser was asked already to change the weights, if both are finite."""


Outcome = tuple[int, float]
"""Chips and loss of a step, as the callback is told."""
