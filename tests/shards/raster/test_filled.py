"""A value that fills all bands is named, whatever else the pixels have."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.windows import Window

from shards.raster.filled import SomePixels, filled_by
from shards.raster.sample_windows import edge_windows, sample_windows


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


Shape = Callable[[float], NDArray[np.bool_]]
SIDE = 1024
ROW_HW, COLUMN_HW = np.indices((SIDE, SIDE)) + 0.5
SHAPES: dict[str, tuple[float, Shape]] = {
    "strip": (0.012, lambda share: share * SIDE > COLUMN_HW),
    "wedge along an edge": (0.012, lambda share: 2 * share * ROW_HW > COLUMN_HW),
    "wedge along half of an edge": (0.015, lambda share: 8 * share * (ROW_HW - SIDE / 2) > COLUMN_HW),
    "corner": (0.012, lambda share: np.sqrt(2 * share) * SIDE > ROW_HW + COLUMN_HW),
}
"""Shapes of a given share of a scene, and the share from which docs/prediction.md promises to find them."""


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("block_shape", [(1, SIDE), (256, 256)], ids=str)
def test_fills_at_edges_are_found_from_the_share_that_is_promised(
    kind: str, turns: int, block_shape: tuple[int, int]
) -> None:
    share, of_share = SHAPES[kind]
    is_filled_HW = np.rot90(of_share(share), turns)
    assert is_filled_HW.mean() == pytest.approx(share, rel=0.05)
    honest_HW = np.random.default_rng(0).integers(100, 2000, (SIDE, SIDE)).astype(np.int16)
    image_CHW = np.where(is_filled_HW, 0, np.stack([honest_HW, honest_HW + 9, honest_HW // 2]))

    def pixels(windows: Iterable[Window], share: float = 1.0) -> SomePixels:
        parts = [image_CHW[:, *window.toslices()].reshape(3, -1) for window in windows]
        stored_BN = np.concatenate(parts, axis=1)
        return SomePixels(stored_BN, stored_BN.shape[1], share)

    edges = tuple(pixels(*edge) for edge in edge_windows((SIDE, SIDE)))
    found = filled_by(pixels(sample_windows((SIDE, SIDE), block_shape)), edges)
    assert found is not None
    assert found[0] == 0
