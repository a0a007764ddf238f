"""Heights that were moved are found where they were moved to, from the image alone.

- the sign, on heights and an image that are made of each other
- shifts of the synthetic landscape and of real lidar, within stated bounds; nothing moved, nothing found
- unit, origin and type of heights, scale and mixture of bands, sizes and missing pixels change no shift
- no texture, no answer; equal scores, the smallest shift; wrong shapes are refused
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from ingest.chips.registration import MAX_SHIFT, MIN_SIDE, Shift, best_shift
from ingest.synthetic.landscape import NODATA, make_landscape
from shards.errors import InputError

SHIFTS = range(-MAX_SHIFT, MAX_SHIFT + 1)


class Pair(NamedTuple):
    """An image and heights, of which the heights lie `row` rows below and `column` columns right."""

    image_CHW: NDArray[Any]
    height_m_HW: NDArray[Any]
    row: int = 0
    column: int = 0


def chips_of(scene: Pair, moved: bool, stride: int = 64, side: int = 64) -> Iterator[Pair]:
    """Chips with over 5 % of pixels above 2 m and at most 30 % without an image; moved heights at random."""
    rng = np.random.default_rng(7)
    num_rows, num_columns = scene.height_m_HW.shape
    for top, left in itertools.product(
        range(MAX_SHIFT, num_rows - side - MAX_SHIFT + 1, stride),
        range(MAX_SHIFT, num_columns - side - MAX_SHIFT + 1, stride),
    ):
        row, column = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, 2) * moved
        image_CHW = scene.image_CHW[:, top : top + side, left : left + side]
        height_m_HW = scene.height_m_HW[top - row :, left - column :][:side, :side]
        if np.mean(height_m_HW > 2) > 0.05 and np.mean(image_CHW[0] == NODATA) <= 0.3:
            yield Pair(image_CHW, height_m_HW, int(row), int(column))


def errors_of(pairs: list[Pair], nodata: float | None) -> NDArray[np.int64]:
    """(pairs,) pixels, the larger of both ways, that the found shift is off."""
    found = [best_shift(pair.image_CHW, pair.height_m_HW, nodata) for pair in pairs]
    assert None not in found
    return np.array(
        [
            max(abs(shift.row - pair.row), abs(shift.column - pair.column))
            for shift, pair in zip(found, pairs, strict=True)
            if shift
        ]
    )


def found(image_CHW: NDArray[Any], height_HW: NDArray[Any], nodata: float | None = None) -> Shift:
    shift = best_shift(image_CHW, height_HW, nodata)
    assert shift is not None
    return shift


def made_of_heights(shape_HW: tuple[int, int] = (64, 64), bands: int = 3) -> Pair:
    """Bands of the same random light, coloured by random heights."""
    rng = np.random.default_rng(11)
    height_m_HW, light_HW = rng.gamma(1, 3, shape_HW), rng.normal(0, 100, shape_HW)
    colour_C11 = np.linspace(-40, 100, bands)[:, None, None]
    return Pair(500 + light_HW + colour_C11 * height_m_HW, height_m_HW)


@pytest.fixture(scope="module")
def scenes() -> list[Pair]:
    landscapes = [make_landscape(seed, shape_px=(326, 326)) for seed in (21, 22, 23)]
    return [Pair(landscape.image_CHW, landscape.height_m_HW) for landscape in landscapes]


@pytest.fixture(scope="module")
def wooded(scenes: list[Pair]) -> Pair:
    """One chip of the landscape without missing pixels, heights moved."""
    pairs = [pair for scene in scenes for pair in chips_of(scene, moved=True)]
    return next(pair for pair in pairs if (pair.image_CHW != NODATA).all() and pair.row and pair.column)


def test_heights_rolled_down_and_right_are_found_below_and_right() -> None:
    image_CHW, height_m_HW, *_ = made_of_heights()
    for row, column in itertools.product(SHIFTS, SHIFTS):
        moved_m_HW = np.roll(height_m_HW, (row, column), (0, 1))
        shift = found(image_CHW, moved_m_HW)
        assert shift[:2] == (row, column)
        assert 0.5 < shift.score <= 1
        assert shift.gain > 0.5 or (row == column == shift.gain == 0)
        back = found(image_CHW, np.roll(moved_m_HW, (-shift.row, -shift.column), (0, 1)))
        assert back == Shift(0, 0, back.score, 0)


def test_shifts_of_the_landscape_are_found_although_it_has_shadows(scenes: list[Pair]) -> None:
    off = errors_of([pair for scene in scenes for pair in chips_of(scene, moved=True)], NODATA)
    assert off.size >= 50
    assert np.mean(off == 0) > 0.8
    assert np.mean(off <= 1) > 0.97


def test_heights_in_their_place_are_left_there(scenes: list[Pair]) -> None:
    off = errors_of([pair for scene in scenes for pair in chips_of(scene, moved=False)], NODATA)
    assert np.mean(off == 0) > 0.8
    assert np.mean(off <= 1) > 0.97


def test_the_score_tells_the_heights_of_this_place_from_those_of_another(scenes: list[Pair]) -> None:
    pairs = [pair for scene in scenes for pair in chips_of(scene, moved=True)]
    others = pairs[len(pairs) // 2 :] + pairs[: len(pairs) // 2]
    own = [found(pair.image_CHW, pair.height_m_HW, NODATA).score for pair in pairs]
    foreign = [
        found(pair.image_CHW, other.height_m_HW, NODATA).score
        for pair, other in zip(pairs, others, strict=True)
    ]
    assert np.mean(np.array(own) > 0.1) > 0.9
    assert np.mean(np.array(foreign) > 0.1) < 0.05


@pytest.mark.real
@pytest.mark.parametrize("pixels", [1, 4], ids=["half a metre", "two metres"])
def test_shifts_of_real_lidar_are_found_to_a_pixel(tahoe: Path, pixels: int) -> None:
    with (
        rasterio.open(tahoe / "tahoe_highrez.tif") as image,
        rasterio.open(tahoe / "tahoe_lidar_highesthit.tif") as surface,
        rasterio.open(tahoe / "tahoe_lidar_bareearth.tif") as ground,
    ):
        image_CHW, height_m_HW = image.read(), surface.read(1) - ground.read(1)
    quads_CHW = image_CHW.reshape(3, 400 // pixels, pixels, 400 // pixels, pixels).mean((2, 4))
    quads_m_HW = height_m_HW.reshape(400 // pixels, pixels, 400 // pixels, pixels).max((1, 3))
    off = errors_of(list(chips_of(Pair(quads_CHW, quads_m_HW), moved=True, stride=60 // pixels)), None)
    assert off.size >= 9
    assert np.mean(off <= 1) > 0.9


@pytest.mark.parametrize(
    "change",
    [
        lambda height_m_HW: height_m_HW + 1000,
        lambda height_m_HW: height_m_HW - 7,
        lambda height_m_HW: 10 * height_m_HW,
        lambda height_m_HW: height_m_HW / 1000,
    ],
    ids=["higher", "lower", "decimetres", "kilometres"],
)
def test_heights_may_have_any_unit_and_origin(wooded: Pair, change: Any) -> None:
    height_m_HW = wooded.height_m_HW.astype(np.float64)
    known = found(wooded.image_CHW, height_m_HW)
    other = found(wooded.image_CHW, change(height_m_HW))
    assert other[:2] == known[:2] == (wooded.row, wooded.column)
    assert other[2:] == pytest.approx(known[2:], abs=2e-6)


def test_bands_may_have_any_scale_and_order(wooded: Pair) -> None:
    known = found(wooded.image_CHW, wooded.height_m_HW)
    scale_C11 = np.array([3, 0.01, 20, 1])[:, None, None]
    for image_CHW in (scale_C11 * wooded.image_CHW + 50, wooded.image_CHW[::-1]):
        other = found(image_CHW, wooded.height_m_HW)
        assert other[:2] == known[:2]
        assert other[2:] == pytest.approx(known[2:], abs=2e-6)


def test_the_type_of_numbers_changes_nothing(wooded: Pair) -> None:
    centimetres_HW = np.rint(100 * wooded.height_m_HW)
    results = {
        found(wooded.image_CHW.astype(image_type), centimetres_HW.astype(height_type), NODATA)
        for image_type in (np.int16, np.uint16, np.int32, np.float32, np.float64)
        for height_type in (np.int16, np.float32, np.float64)
    }
    assert len(results) == 1


@pytest.mark.parametrize("shape_HW", [(16, 16), (16, 80), (33, 47), (128, 128)])
@pytest.mark.parametrize("bands", [1, 2, 4, 8])
def test_any_size_and_number_of_bands(shape_HW: tuple[int, int], bands: int) -> None:
    image_CHW, height_m_HW, *_ = made_of_heights(shape_HW, bands)
    for row, column in ((0, 0), (-2, 3), (3, 1)):
        assert found(image_CHW, np.roll(height_m_HW, (row, column), (0, 1)))[:2] == (row, column)


def test_equal_bands_are_one_band(wooded: Pair) -> None:
    red_CHW = wooded.image_CHW[2:3]
    one, many = (found(np.repeat(red_CHW, bands, 0), wooded.height_m_HW) for bands in (1, 3))
    assert one[:2] == many[:2]
    assert one[2:] == pytest.approx(many[2:], abs=2e-6)


def test_missing_pixels_are_left_out(wooded: Pair) -> None:
    rng = np.random.default_rng(3)
    image_CHW, height_m_HW = wooded.image_CHW.astype(np.float32), wooded.height_m_HW.copy()
    image_CHW[1, 20:40, 10:30] = np.nan
    image_CHW[:, :4] = NODATA
    height_m_HW[rng.random(height_m_HW.shape) < 0.03] = np.nan
    height_m_HW[50:, 50:] = NODATA
    shift = found(image_CHW, height_m_HW, NODATA)
    assert shift[:2] == (wooded.row, wooded.column)
    # What lies under a mark of absence is nobody's business.
    image_CHW[1, 20:40, 10:30] = NODATA
    height_m_HW[50:, 50:] = np.inf
    assert found(image_CHW, height_m_HW, NODATA) == shift


def test_zero_is_a_height_even_where_it_marks_absent_pixels(wooded: Pair) -> None:
    assert (wooded.height_m_HW == 0).any()
    assert found(wooded.image_CHW, wooded.height_m_HW, 0) == found(wooded.image_CHW, wooded.height_m_HW)


def test_no_texture_no_answer() -> None:
    image_CHW, height_m_HW, *_ = made_of_heights()
    absent_HW = np.full_like(height_m_HW, np.nan)
    half_HW = np.where(np.arange(64) < 32, height_m_HW, 0.1)
    half_CHW = np.where(np.arange(64) < 42, NODATA, image_CHW)
    for image, height in (
        (image_CHW, np.full_like(height_m_HW, 0.1)),
        (image_CHW, absent_HW),
        (np.full_like(image_CHW, 0.3), height_m_HW),
        (np.full_like(image_CHW, NODATA), height_m_HW),
        (np.full(image_CHW.shape, NODATA, np.int16), absent_HW),
        (half_CHW, half_HW),  # heights vary only where the image is missing
    ):
        assert best_shift(image, height, NODATA) is None


def test_of_equal_scores_the_smallest_shift_counts() -> None:
    stripes_W = np.random.default_rng(5).integers(0, 9, 64)
    height_m_HW = np.tile(stripes_W, (64, 1))  # alike in all rows, so any shift of rows fits as well
    shift = found(height_m_HW[None], np.roll(height_m_HW, 2, 1))
    assert shift[:2] == (0, 2)
    still = found(height_m_HW[None], height_m_HW)
    assert still == Shift(0, 0, still.score, 0)
    assert still.score > 0.99


@pytest.mark.parametrize(
    ("image_shape", "height_shape"),
    [
        ((64, 64), (64, 64)),
        ((4, 64, 64), (64, 63)),
        ((0, 64, 64), (64, 64)),
        ((4, MIN_SIDE - 1, 64), (MIN_SIDE - 1, 64)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    image_shape: tuple[int, ...], height_shape: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match=r"^registration: .*; give "):
        best_shift(np.ones(image_shape), np.ones(height_shape), None)
