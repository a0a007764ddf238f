"""The eight symmetries of the square: 0..3 are quarter turns, 4..7 the same turns, then mirrored."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.devices.transfer import to_device

SYMMETRIES = 8


def turned(array: Tensor, symmetry: int) -> Tensor:
    """Turn `array` (..., rows, columns) by `symmetry` (0..7)."""
    turned_array = torch.rot90(array, symmetry % 4, (-2, -1))
    return turned_array.flip(-1) if symmetry >= 4 else turned_array


def turned_back(array: Tensor, symmetry: int) -> Tensor:
    """Undo `turned`."""
    upright = array.flip(-1) if symmetry >= 4 else array
    return torch.rot90(upright, -symmetry % 4, (-2, -1))


def apply_symmetries(symmetries_B: NDArray[np.int64], *arrays: Tensor) -> tuple[Tensor, ...]:
    """Turn each chip of arrays (B, ..., rows, columns), as many rows as columns, by its own symmetry."""
    orders_KP = _pixel_orders(arrays[0].shape[-1], arrays[0].device)
    # One gather for all chips: a kernel for each symmetry, with its own chips, would wait for their numbers.
    order_BP = orders_KP[to_device(symmetries_B, arrays[0].device)]
    return tuple(_in_order(array, order_BP) for array in arrays)


def _in_order(array: Tensor, order_BP: Tensor) -> Tensor:
    """Bring each chip's pixels into its order."""
    if array.dtype == torch.uint16:  # torch cannot gather uint16; as int16 the same bytes move
        return _in_order(array.view(torch.int16), order_BP).view(torch.uint16)
    pixels_BNP = array.flatten(-2).unflatten(0, (len(array), 1)).flatten(1, -2)
    turned_BNP: Tensor = pixels_BNP.gather(2, order_BP[:, None].expand(pixels_BNP.shape))
    return turned_BNP.view_as(array)


@lru_cache(maxsize=4)
def _pixel_orders(side: int, device: torch.device) -> Tensor:
    """Return orders_KP: by symmetry, the number of the pixel that comes to each place of a square chip."""
    with torch.inference_mode(False):  # they stay, and training uses them as well
        pixels_HW = torch.arange(side * side).view(side, side)
        orders = [turned(pixels_HW, symmetry).flatten() for symmetry in range(SYMMETRIES)]
        return torch.stack(orders).to(device)
