"""The position of a training: how far it is, and how well it has done so far."""

from dataclasses import dataclass
from math import inf


@dataclass
class Position:
    """Position of a training."""

    epoch: int = 0
    """Number of the epoch, from 0."""
    seen: int = 0
    """Chips of the epoch seen so far, over all ranks."""
    step: int = 0
    """Steps of the optimiser since the beginning."""
    chips: int = 0
    """Chips seen since the beginning, over all ranks."""
    skipped: int = 0
    """Steps left out because their loss or gradient was not a number."""
    overflowed: int = 0
    """Steps left out because the loss was scaled too much for float16, which is mended by itself."""
    best: float = inf
    """Lowest value so far of the score that decides."""
    epochs_since_best: int = 0
    """Epochs since that value was reached."""
