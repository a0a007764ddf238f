"""Augmentation: flips, quarter turns, crops, brightness and missing bands.

Random numbers depend on (seed, epoch, chips of the epoch seen before) alone.
"""

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from trainer.chip_options import AugmentOptions
from trainer.model.symmetries import SYMMETRIES

_CROP_KEY = 0xC409
"""Part of the generator's key that sets crops apart from the others, which share the other parts."""


def symmetries_of(count: int, seed: int, epoch: int, seen: int) -> NDArray[np.int64]:
    """Draw (count,) symmetries 0..7, one for each chip of a global batch, whatever the number of ranks."""
    return np.random.default_rng((seed, epoch, seen, SYMMETRIES)).integers(SYMMETRIES, size=count)


def check_crop(crop: int, patch: int) -> None:
    """Refuse crops that are not made of whole patches of `patch` pixels.

    Raises:
        InputError: they are not.
    """
    if crop % patch:
        raise InputError(f"--crop {crop}: is no multiple of the backbone's patch, {patch} pixels")


def corners_of(count: int, room: int, seed: int, epoch: int, seen: int) -> NDArray[np.int64]:
    """Draw (count, 2) first rows and columns, 0 to `room`, of the crops of a global batch."""
    return np.random.default_rng((seed, epoch, seen, _CROP_KEY)).integers(room + 1, size=(count, 2))


def band_changes(
    shape: tuple[int, int], at: tuple[int, int, int], augment: AugmentOptions
) -> NDArray[np.float32] | None:
    """Draw the changes of a global batch's bands, (chips, bands, 4), as Normalise takes them.

    Args:
        shape: chips and bands.
        at: seed, epoch, chips of the epoch seen before.
        augment: options. Factors of brightness are not below 0; each chip keeps at least one band.

    Returns:
        None if nothing changes.
    """
    jitter = augment.jitter
    if not augment.brightness and not augment.band_dropout and not jitter:
        return None
    generator = np.random.default_rng((*at, SYMMETRIES + shape[1]))
    factors_BC = np.maximum(generator.normal(1.0, augment.brightness, shape), 0.0)
    kept_BC = generator.random(shape) >= augment.band_dropout
    kept_BC[np.arange(shape[0]), generator.integers(shape[1], size=shape[0])] = True
    gains_BC, offsets_BC = generator.normal(1.0, jitter, shape), generator.normal(0.0, jitter, shape)
    return np.stack([factors_BC, kept_BC, gains_BC, offsets_BC], -1).astype(np.float32)
