"""Options of the training loop and of augmentation, each handed to the part that uses it. No torch here.

Defaults and what a user reads of each stand in trainer.config.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FitOptions:
    """Options of the training loop."""

    seed: int
    """Seed of order, augmentation and dropout."""
    epochs: int
    """Passes through the training chips, at most."""
    stop_patience: int
    """Epochs without improvement after which training stops; 0 disables."""
    global_batch: int
    """Chips per step, over all ranks."""
    accumulate: int
    """Pieces in which each rank computes its part of a batch."""
    gradient_norm: float
    """Norm that gradients are scaled down to."""
    average: float
    """Decay of the average of the weights that is scored and saved; 0 disables."""
    on_nonfinite: Literal["stop", "skip"]
    """Whether a step whose loss is not a number ends training, or is left out and counted."""
    deterministic: bool
    """Whether only algorithms are used that give the same bits in every run."""
    bf16: bool
    """Whether forward passes compute in bfloat16 where that is safe; weights stay float32."""
    compile: bool
    """Whether the model is compiled."""
    shard_model: bool
    """Whether each rank keeps a part of all weights."""


@dataclass(frozen=True)
class AugmentOptions:
    """Options of augmentation."""

    flips: bool
    """Whether chips are flipped and turned."""
    brightness: float
    """Standard deviation of the factor, around 1, on each band of a chip."""
    band_dropout: float
    """Share (0..1) of a chip's bands that are replaced by their mean."""
