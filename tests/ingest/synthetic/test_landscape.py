"""The synthetic landscape: repeatable, skewed heights, honest shadows, colours that do not betray height."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio

from ingest.synthetic import landscape
from ingest.synthetic.landscape import Landscape, Plants, Sun

SHAPE_PX = (384, 320)


@pytest.fixture(scope="module")
def scenes() -> list[Landscape]:
    return [landscape.make_landscape(seed, shape_px=SHAPE_PX) for seed in range(6)]


def one_tree(height_m: float) -> npt.NDArray[np.floating]:
    """A canopy (200, 200) in metres with one spruce in its middle."""
    row_m, col_m, tall_m, radius_m = np.array([[100.5], [100.5], [height_m], [0.175 * height_m]], np.float32)
    return landscape.stamp_crowns((200, 200), Plants(row_m, col_m, tall_m, radius_m), landscape.cone)


def linear_r2(scene: Landscape) -> float:
    """Share of the variance of height that a linear regression on the bands of the same pixel explains."""
    valid_HW = scene.image_CHW[0] != landscape.NODATA
    bands_NC = np.c_[scene.image_CHW[:, valid_HW].T.astype(float), np.ones(valid_HW.sum())]
    height_m_N = scene.height_m_HW[valid_HW].astype(float)
    weights = np.linalg.lstsq(bands_NC, height_m_N, rcond=None)[0]
    return float(1 - np.var(height_m_N - bands_NC @ weights) / np.var(height_m_N))


def test_the_same_seed_gives_the_same_arrays_and_another_seed_or_scene_gives_others() -> None:
    first, again, other_seed, other_scene = (
        landscape.make_landscape(seed, scene_number, (128, 96))
        for seed, scene_number in [(3, 1), (3, 1), (4, 1), (3, 2)]
    )
    assert first.sun == again.sun
    assert np.array_equal(first.image_CHW, again.image_CHW)
    assert np.array_equal(first.height_m_HW, again.height_m_HW)
    for other in (other_seed, other_scene):
        assert not np.array_equal(first.image_CHW, other.image_CHW)
        assert not np.array_equal(first.height_m_HW, other.height_m_HW)


def test_heights_are_mostly_zero_with_a_long_tail(scenes: list[Landscape]) -> None:
    for scene in scenes:
        height_m_HW = scene.height_m_HW
        assert height_m_HW.dtype == np.float32
        assert height_m_HW.shape == SHAPE_PX
        assert np.mean(height_m_HW == 0) >= 0.45
        assert np.percentile(height_m_HW, 99) > 6
        assert 12 < height_m_HW.max() < 25
        assert height_m_HW[height_m_HW > 0].min() >= 0.3


def test_the_bands_of_one_pixel_say_little_about_its_height(scenes: list[Landscape]) -> None:
    assert max(linear_r2(scene) for scene in scenes) < 0.4


@pytest.mark.parametrize("sun", [Sun(180, 35), Sun(225, 45), Sun(150, 30), Sun(90, 40)])
@pytest.mark.parametrize("height_m", [6.0, 18.0])
def test_a_tree_casts_its_shadow_away_from_the_sun_as_long_as_geometry_says(
    sun: Sun, height_m: float
) -> None:
    canopy_m_HW = one_tree(height_m)
    depth_m_HW = landscape.shadow_depth(canopy_m_HW, np.zeros_like(canopy_m_HW), sun, cell_m=1.0)
    row, col = np.nonzero((depth_m_HW > 0) & (canopy_m_HW == 0))
    azimuth = math.radians(sun.azimuth_deg)
    south_m, east_m = row - 100, col - 100
    away_m = south_m * math.cos(azimuth) - east_m * math.sin(azimuth)
    aside_m = south_m * math.sin(azimuth) + east_m * math.cos(azimuth)
    assert away_m.min() > -1  # a cell beside the crown at most
    assert np.abs(aside_m).max() <= 0.175 * height_m + 1
    assert away_m.max() == pytest.approx(
        height_m / math.tan(math.radians(sun.elevation_deg)), abs=landscape.PIXEL_M
    )


def test_a_shadow_that_leaves_the_scene_comes_back_on_the_other_side() -> None:
    sun = Sun(180, 35)
    canopy_m_HW = one_tree(18.0)
    flat_HW = np.zeros_like(canopy_m_HW)
    shift = (-95, 40)
    moved = landscape.shadow_depth(np.roll(canopy_m_HW, shift, (0, 1)), flat_HW, sun, cell_m=1.0)
    assert np.array_equal(
        moved, np.roll(landscape.shadow_depth(canopy_m_HW, flat_HW, sun, 1.0), shift, (0, 1))
    )


def test_taller_spruce_have_wider_crowns_and_every_stem_keeps_its_height() -> None:
    small_m_HW, tall_m_HW = one_tree(5.0), one_tree(15.0)
    assert np.count_nonzero(tall_m_HW) > 4 * np.count_nonzero(small_m_HW)
    assert small_m_HW.max() == 5
    assert tall_m_HW.max() == 15


def test_a_slope_that_faces_the_sun_is_brighter_than_flat_ground_and_that_brighter_than_its_back() -> None:
    ridge_m_HW = np.minimum(np.arange(40), np.arange(40)[::-1])[:, None] * np.full((1, 30), 0.2, np.float32)
    shade_HW = landscape.hill_shade(ridge_m_HW, Sun(180, 40), cell_m=1.0)
    assert shade_HW[5:15].max() < 1 < shade_HW[25:35].min()
    assert np.allclose(landscape.hill_shade(np.zeros((8, 8)), Sun(180, 40), cell_m=1.0), 1)


def test_nodata_is_there_in_all_bands_alike_and_a_cloud_covers_a_small_part(scenes: list[Landscape]) -> None:
    for scene in scenes:
        missing_CHW = scene.image_CHW == landscape.NODATA
        assert scene.image_CHW.dtype == np.int16
        assert 0 < missing_CHW[0].mean() < 0.2
        assert (missing_CHW == missing_CHW[0]).all()
        assert scene.image_CHW[~missing_CHW].min() > 0
        assert 0.001 < (scene.image_CHW[0] > 2500).mean() < 0.08
        assert np.isfinite(scene.height_m_HW).all()


def test_a_scene_too_small_for_the_landscape_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 64 pixels"):
        landscape.make_landscape(0, shape_px=(64, 63))


def test_written_files_say_what_they_hold_and_repeat_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    written = landscape.write_scene(tmp_path, 17, seed=5, shape_px=(128, 96))
    again = landscape.write_scene(tmp_path / "again", 17, seed=5, shape_px=(128, 96))
    expected = landscape.make_landscape(5, 17, (128, 96))
    with rasterio.open(written.image) as image, rasterio.open(written.height) as height:
        assert (image.count, image.dtypes[0], height.count, height.dtypes[0]) == (4, "int16", 1, "float32")
        assert image.descriptions == ("blue", "green", "red", "nir")
        assert image.shape == height.shape == (128, 96)
        assert image.crs == height.crs == "EPSG:3338"
        assert image.nodata == height.nodata == -9999
        assert image.res == (2.0, 2.0)
        assert image.transform == height.transform
        assert image.profile["tiled"]
        assert image.profile["compress"] == "deflate"
        assert np.array_equal(image.read(), expected.image_CHW)
        assert np.array_equal(height.read(1), expected.height_m_HW)
    assert [path.name for path in written] == [path.name for path in again]
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]
    assert sorted(path for path in tmp_path.iterdir() if path.is_file()) == sorted(written)


def test_neighbouring_scenes_touch_and_do_not_overlap(tmp_path: Path) -> None:
    bounds = []
    for scene_number in (0, 1, 16):
        with rasterio.open(landscape.write_scene(tmp_path, scene_number, 5, (64, 96)).image) as image:
            bounds.append(image.bounds)
    first, beside, below = bounds
    assert (first.left, first.top) == (-100_000, 1_500_000)
    assert (beside.left, beside.top) == (first.right, first.top)
    assert (below.left, below.top) == (first.left, first.bottom)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        landscape.write_scene(tmp_path, 0, 5, (64, 64))
    assert not list(tmp_path.iterdir())
