"""Augmentation: flips, quarter turns, brightness and missing bands, by (seed, epoch, chips met) alone."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SYMMETRIES = 8


def symmetries_of(count: int, seed: int, epoch: int, seen: int) -> NDArray[np.int64]:
    """(count,) numbers 0..7, one for each chip of a global batch, whatever the number of ranks."""
    return np.random.default_rng((seed, epoch, seen, SYMMETRIES)).integers(SYMMETRIES, size=count)


def band_changes(
    shape: tuple[int, int], at: tuple[int, int, int], brightness: float, band_dropout: float
) -> NDArray[np.float32] | None:
    """(chips, bands, 2) of a global batch, as Normalise takes them; None if nothing is to be changed.

    Args:
        shape: chips and bands.
        at: seed, epoch, chips of it met before.
        brightness: standard deviation of the factors, which are around 1 and not below 0.
        band_dropout: share of bands that are left out; of each chip at least one stays.
    """
    if not brightness and not band_dropout:
        return None
    generator = np.random.default_rng((*at, SYMMETRIES + shape[1]))
    factors_BC = np.maximum(generator.normal(1.0, brightness, shape), 0.0)
    kept_BC = generator.random(shape) >= band_dropout
    kept_BC[np.arange(shape[0]), generator.integers(shape[1], size=shape[0])] = True
    return np.stack([factors_BC, kept_BC], -1).astype(np.float32)


def turned(array: Tensor, symmetry: int) -> Tensor:
    """`array` (..., rows, columns) after `symmetry` (0..7): quarter turns, the upper four also mirrored."""
    turned_array = torch.rot90(array, symmetry % 4, (-2, -1))
    return turned_array.flip(-1) if symmetry >= 4 else turned_array


def turned_back(array: Tensor, symmetry: int) -> Tensor:
    """The inverse of `turned`."""
    upright = array.flip(-1) if symmetry >= 4 else array
    return torch.rot90(upright, -symmetry % 4, (-2, -1))


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
