"""The eight flips and quarter turns of a square, chosen per chip by (seed, epoch, step) alone."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SYMMETRIES = 8


def symmetries_of(count: int, seed: int, epoch: int, step: int) -> NDArray[np.int64]:
    """(count,) numbers 0..7, one for each chip of a global batch, whatever the number of ranks."""
    return np.random.default_rng((seed, epoch, step, SYMMETRIES)).integers(SYMMETRIES, size=count)


def turned(array: Tensor, symmetry: int) -> Tensor:
    """`array` (..., rows, columns) after `symmetry` (0..7): quarter turns, the upper four also mirrored."""
    turned_array = torch.rot90(array, symmetry % 4, (-2, -1))
    return turned_array.flip(-1) if symmetry >= 4 else turned_array


def apply_symmetries(
    image_BCHW: Tensor, height_BHW: Tensor, symmetries_B: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Each chip's image and height, turned alike."""
    if image_BCHW.dtype == torch.uint16:  # torch turns no uint16; turning only moves bytes
        image_BCHW, height_BHW = apply_symmetries(image_BCHW.view(torch.int16), height_BHW, symmetries_B)
        return image_BCHW.view(torch.uint16), height_BHW
    image_BCHW, height_BHW = image_BCHW.clone(), height_BHW.clone()
    for symmetry in range(1, SYMMETRIES):
        chosen = torch.from_numpy(np.flatnonzero(symmetries_B == symmetry))
        image_BCHW[chosen] = turned(image_BCHW[chosen], symmetry)
        height_BHW[chosen] = turned(height_BHW[chosen], symmetry)
    return image_BCHW, height_BHW
