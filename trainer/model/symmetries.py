"""The eight symmetries of the square: 0..3 are quarter turns, 4..7 the same turns, then mirrored."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SYMMETRIES = 8


def turned(array: Tensor, symmetry: int) -> Tensor:
    """Turn `array` (..., rows, columns) by `symmetry` (0..7)."""
    turned_array = torch.rot90(array, symmetry % 4, (-2, -1))
    return turned_array.flip(-1) if symmetry >= 4 else turned_array


def turned_back(array: Tensor, symmetry: int) -> Tensor:
    """Undo `turned`."""
    upright = array.flip(-1) if symmetry >= 4 else array
    return torch.rot90(upright, -symmetry % 4, (-2, -1))


def apply_symmetries(
    image_BCHW: Tensor, height_BHW: Tensor, symmetries_B: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Turn each chip's image and its height alike."""
    if image_BCHW.dtype == torch.uint16:  # torch cannot turn uint16; as int16 the same bytes move
        image_BCHW, height_BHW = apply_symmetries(image_BCHW.view(torch.int16), height_BHW, symmetries_B)
        return image_BCHW.view(torch.uint16), height_BHW
    image_BCHW, height_BHW = image_BCHW.clone(), height_BHW.clone()
    for symmetry in range(1, SYMMETRIES):
        chosen = torch.from_numpy(np.flatnonzero(symmetries_B == symmetry))
        image_BCHW[chosen] = turned(image_BCHW[chosen], symmetry)
        height_BHW[chosen] = turned(height_BHW[chosen], symmetry)
    return image_BCHW, height_BHW
