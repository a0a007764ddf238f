"""A value that fills all bands is named, whatever else the pixels have."""

import numpy as np
import pytest
from numpy.typing import NDArray

from shards.raster.filled import SomePixels, filled_by


def scene(fills: dict[int, float], dtype: str = "uint16") -> NDArray[np.generic]:
    """4 x 10,000 honest pixels, shares of which have one value in all bands."""
    rng = np.random.default_rng(3)
    stored_BN = rng.normal([[60], [80], [90], [150]], 12, (4, 10_000)).clip(2, 200).astype(dtype)
    first = 0
    for value, share in fills.items():
        stored_BN[:, first : first + round(share * 10_000)] = value
        first += round(share * 10_000)
    return stored_BN


def value_of(stored_BN: NDArray[np.generic]) -> object:
    found = filled_by(SomePixels(stored_BN, stored_BN.shape[1]))
    return found[0] if found else None


@pytest.mark.parametrize(
    ("fills", "named"),
    [
        ({}, None),
        ({0: 0.47}, 0),
        ({0: 0.47, 1: 0.08}, 0),
        ({0: 0.08, 1: 0.47}, 1),
        ({0: 0.47, 65535: 0.08}, 0),
        ({0: 0.1, 200: 0.4}, 0),
        ({200: 0.4}, None),
        ({0: 0.005}, None),
    ],
    ids=str,
)
def test_the_value_that_fills_is_named(fills: dict[int, float], named: int | None) -> None:
    """200 is about the largest value of the other pixels: where it fills all bands, a cloud is too bright."""
    assert value_of(scene(fills)) == named


def test_a_grey_image_is_not_filled() -> None:
    grey_N = np.random.default_rng(4).integers(0, 256, 10_000).astype(np.uint8)
    assert value_of(np.stack([grey_N] * 3)) is None
