"""Augmentation: flips, quarter turns, brightness and missing bands.

Random numbers depend on (seed, epoch, chips of the epoch seen before) alone.
"""

import numpy as np
from numpy.typing import NDArray

from trainer.model.symmetries import SYMMETRIES


def symmetries_of(count: int, seed: int, epoch: int, seen: int) -> NDArray[np.int64]:
    """Draw (count,) symmetries 0..7, one for each chip of a global batch, whatever the number of ranks."""
    return np.random.default_rng((seed, epoch, seen, SYMMETRIES)).integers(SYMMETRIES, size=count)


def band_changes(
    shape: tuple[int, int], at: tuple[int, int, int], brightness: float, band_dropout: float
) -> NDArray[np.float32] | None:
    """Draw the changes of a global batch's bands, (chips, bands, 2), as Normalise takes them.

    Args:
        shape: chips and bands.
        at: seed, epoch, chips of the epoch seen before.
        brightness: standard deviation of the factors, which are around 1 and not below 0.
        band_dropout: share of bands that are left out; each chip keeps at least one.

    Returns:
        None if nothing changes.
    """
    if not brightness and not band_dropout:
        return None
    generator = np.random.default_rng((*at, SYMMETRIES + shape[1]))
    factors_BC = np.maximum(generator.normal(1.0, brightness, shape), 0.0)
    kept_BC = generator.random(shape) >= band_dropout
    kept_BC[np.arange(shape[0]), generator.integers(shape[1], size=shape[0])] = True
    return np.stack([factors_BC, kept_BC], -1).astype(np.float32)
