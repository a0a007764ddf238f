"""Pixels of a block, ready for the device: reflected, with the missing ones known, in memory to copy from.

None of this needs the device, so a thread prepares the next block while the device computes this one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.tiling.blend import axes_of
from inference.tiling.halo import Halo
from inference.tiling.windows import Block, WindowGrid
from trainer.model.normalise import Normalise


@dataclass(frozen=True)
class ReadyBlock:
    """A block, and the pixels that it is computed from."""

    block: Block
    halo: Halo
    """The pixels, reflected up to the end of the last window."""
    valid_HW: NDArray[np.bool_]
    """Pixels of the halo at which all used bands have a value."""
    image_CHW: Tensor
    """The halo's pixels, pinned where the device is a GPU."""

    @property
    def own_valid_HW(self) -> NDArray[np.bool_]:
        """Pixels of the block itself at which all used bands have a value."""
        return self.valid_HW[self.halo.place(self.block.rows, self.block.columns)]


def ready_block(
    normalise: Normalise, block: Block, halo: Halo, grid: WindowGrid | None, device: torch.device
) -> ReadyBlock:
    """Prepare a block.

    Args:
        normalise: first layer of the model, which knows what a missing pixel is.
        block: the block.
        halo: its pixels, as read.
        grid: windows that may reach beyond the scene's end; None: none does.
        device: device that is to compute.
    """
    if grid:
        rows, columns = axes_of(block, grid, halo.scene_shape)
        halo = halo.reflected(rows.stop, columns.stop)
    return ReadyBlock(block, halo, normalise.valid(halo.image_CHW), _to_copy_from(halo, device))


def _to_copy_from(halo: Halo, device: torch.device) -> Tensor:
    """Return the pixels as a tensor on the CPU."""
    # Ray's rows are read-only, and torch warns of tensors that share such memory.
    image_CHW = torch.from_numpy(np.require(halo.image_CHW, requirements=["C", "W"]))
    return image_CHW.pin_memory() if device.type == "cuda" else image_CHW
