"""The chips that a training learns from, and the ranks that share them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.read.dataset import Dataset
from shards.read.order import Chips, Part
from trainer.data.token_store import TokenReader
from trainer.devices.ranks import Ranks


@dataclass(frozen=True)
class Learning:
    """Chips to learn from, and the ranks that share them."""

    dataset: Dataset
    """Dataset of the chips."""
    train_chips: Chips
    """Chips to train on."""
    val_chips: Chips
    """Chips to validate on; may be empty."""
    ranks: Ranks
    """This process among those that share the chips."""
    frequencies: NDArray[np.float64] | None = None
    """Relative frequency with which each training chip is drawn; default: each once an epoch."""
    tokens: TokenReader | None = None
    """Reader of a frozen backbone's tokens of these chips; default: the backbone computes them."""

    @property
    def part(self) -> Part:
        """This rank's part of every global batch."""
        return Part(self.ranks.rank, self.ranks.world_size)
