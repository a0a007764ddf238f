"""A raster on another grid: the four rules that say which value a pixel gets keep the same promises.

- A pixel is the same, to the last bit, whichever window it is read in.
- On the raster's own grid every rule gives what is stored; a hole stays a hole.
- In another CRS a plane stays the plane: values belong to the same ground.
- On real lidar GDAL's average and the mean over areas differ, and by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import calculate_default_transform
from rasterio.windows import Window

from shards.errors import InputError
from shards.raster.grid import Grid, in_crs
from shards.raster.on_grid import Areas, Bilinear, area_means, nearest_values, read_on_grid, resampled
from shards.raster.opening import OpenRasters

UTM, ALBERS = CRS.from_epsg(32606), CRS.from_epsg(3338)
NODATA = -9999
SIDE = 2.0
OWN = Grid(UTM, Affine(SIDE, 0, 520_000, 0, -SIDE, 7_200_000), 600, 700)
OTHER = Grid(
    ALBERS, *(lambda affine, width, height: (affine, height, width))(
        *calculate_default_transform(UTM, ALBERS, OWN.width, OWN.height, *OWN.bounds, resolution=1.9)
    )
)  # fmt: skip
"""Larger than a tile of `Bilinear` and than a block in which GDAL resamples."""
RULES = ("nearest", "bilinear", "average", "Bilinear", "area_means", "nearest_values")

Read = Callable[[Window], NDArray[Any]]


def reader(rule: str, raster: Any, grid: Grid, opened: ExitStack) -> Read:
    """Return what reads windows of an open raster on a grid by a rule; NaN where there is no value."""
    if rule == "Bilinear":
        whole = Window(0, 0, grid.width, grid.height)
        return Bilinear(raster, 1, NODATA, grid.crs, grid.transform, whole, (1.0, 1.0)).read
    if rule == "nearest_values":

        def nearest(window: Window) -> NDArray[Any]:
            rows = window.row_off + 0.5 + np.arange(window.height)
            columns = window.col_off + 0.5 + np.arange(window.width)
            middle_2HW = grid.corners(rows, columns, raster.crs)
            wanted_HW = np.ones((window.height, window.width), np.bool_)
            return nearest_values(
                lambda part: known(raster.read(1, window=part)), Grid.of(raster), middle_2HW, wanted_HW
            )

        return nearest
    if rule == "area_means":

        def mean(window: Window) -> NDArray[Any]:
            rows = range(window.row_off, window.row_off + window.height)
            columns = range(window.col_off, window.col_off + window.width)
            areas = Areas.of(grid, rows, columns, raster.crs)
            wanted_HW = np.ones((window.height, window.width), np.bool_)
            return area_means(
                lambda part: known(raster.read(1, window=part)), Grid.of(raster), areas, wanted_HW
            )

        return mean
    nodata = {"src_nodata": NODATA, "nodata": NODATA, "dtype": "float32"}
    warped = opened.enter_context(resampled(raster, grid, Resampling[rule], **nodata))
    return lambda window: known(read_on_grid(warped, 1, window))


def known(stored_HW: NDArray[Any]) -> NDArray[np.float64]:
    return np.where(stored_HW == NODATA, np.nan, stored_HW.astype(np.float64))


def write(path: Path, height_HW: NDArray[np.float32], grid: Grid = OWN) -> Path:
    profile = {"crs": grid.crs, "transform": grid.transform, "height": grid.height, "width": grid.width}
    with rasterio.open(path, "w", "GTiff", count=1, dtype="float32", nodata=NODATA, **profile) as raster:
        raster.write(height_HW, 1)
    return path


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heights of 0 to 30 m, no two neighbours alike, a tenth of them missing."""
    generator = np.random.default_rng(0)
    height_HW = generator.uniform(0, 30, (OWN.height, OWN.width)).astype(np.float32)
    height_HW[generator.random(height_HW.shape) < 0.1] = NODATA
    return write(tmp_path_factory.mktemp("noise") / "noise.tif", height_HW)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("rule", RULES)
def test_a_pixel_is_the_same_whichever_window_it_is_read_in(
    noise: Path, opened: ExitStack, rule: str
) -> None:
    read = reader(rule, opened.enter_context(rasterio.open(noise)), OTHER, opened)
    whole_HW, generator = read(Window(0, 0, OTHER.width, OTHER.height)), np.random.default_rng(1)
    assert 0.5 < np.isfinite(whole_HW).mean() < 0.99
    # Another opening: what a first one keeps in memory must not decide.
    again = reader(rule, opened.enter_context(rasterio.open(noise)), OTHER, opened)
    for most in (1, 40, 200, 700, 700):
        row, column = (int(generator.integers(0, side - 1)) for side in whole_HW.shape)
        height, width = (
            int(generator.integers(1, 1 + min(most, side - first)))
            for side, first in zip(whole_HW.shape, (row, column), strict=True)
        )
        part_HW = again(Window(column, row, width, height))
        assert np.array_equal(part_HW, whole_HW[row : row + height, column : column + width], equal_nan=True)


@pytest.mark.parametrize("rule", RULES)
def test_on_its_own_grid_a_raster_is_what_is_stored(noise: Path, opened: ExitStack, rule: str) -> None:
    raster = opened.enter_context(rasterio.open(noise))
    read = reader(rule, raster, OWN, opened)
    assert np.array_equal(read(Window(5, 7, 600, 90)), known(raster.read(1))[7:97, 5:605], equal_nan=True)


@pytest.mark.parametrize("rule", RULES)
def test_a_plane_stays_a_plane_in_another_crs(tmp_path: Path, opened: ExitStack, rule: str) -> None:
    def plane(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Metres: 0.2 m for each pixel."""
        return 500 + 0.1 * (x - OWN.transform.c) + 0.1 * (y - OWN.transform.f)

    middles = [np.arange(side) + 0.5 for side in (OWN.height, OWN.width)]
    path = write(tmp_path / "plane.tif", plane(*OWN.corners(*middles, UTM)).astype(np.float32))
    read = reader(rule, opened.enter_context(rasterio.open(path)), OTHER, opened)
    window = Window(150, 150, 400, 200)
    middles = [150.5 + np.arange(200), 150.5 + np.arange(400)]
    error_HW = read(window) - plane(*OTHER.corners(*middles, UTM))
    assert np.isfinite(error_HW).all()
    most = 0.2 if rule in ("nearest", "nearest_values") else 0.025  # an eighth of a pixel
    assert np.abs(error_HW).max() < most
    assert abs(error_HW.mean()) < 0.01


@pytest.mark.real
def test_on_real_lidar_an_average_by_gdal_is_not_the_mean_over_areas(tahoe: Path, opened: ExitStack) -> None:
    """From pixels of half a metre in degrees to 2 m in UTM; why maps are scored by the latter."""
    zone = CRS.from_epsg(32610)
    means = {}
    for name in ("highesthit", "bareearth"):
        raster = opened.enter_context(rasterio.open(tahoe / f"tahoe_lidar_{name}.tif"))
        place = calculate_default_transform(
            raster.crs, zone, raster.width, raster.height, *raster.bounds, resolution=2.0
        )
        grid = Grid(zone, place[0], place[2], place[1])
        for rule in ("average", "area_means"):
            read = reader(rule, raster, grid, opened)
            means[name, rule] = read(Window(0, 0, grid.width, grid.height))
    theirs_HW, ours_HW = (
        means["highesthit", rule] - means["bareearth", rule] for rule in ("average", "area_means")
    )
    assert not (np.isfinite(ours_HW) & np.isnan(theirs_HW)).any()
    only_theirs = (np.isfinite(theirs_HW) & np.isnan(ours_HW)).sum() / np.isfinite(ours_HW).sum()
    assert 0.01 < only_theirs < 0.03, "slivers of pixels at the edge"
    assert 0.05 < np.sqrt(np.nanmean((theirs_HW - ours_HW) ** 2)) < 0.12
    assert np.nanmean(ours_HW) == pytest.approx(6.1, abs=0.1)


# --- places, and open files ---


def test_places_that_another_crs_does_not_have_are_nan() -> None:
    degrees = CRS.from_epsg(4326)
    there = in_crs(np.array([[-147.0, -146.0], [65.0, 64.0]]), degrees, UTM)
    assert np.isfinite(there).all()
    np.testing.assert_allclose(in_crs(there, UTM, degrees), [[-147, -146], [65, 64]], atol=1e-9)
    # PROJ refuses a place a quarter of the globe away from the zone; GDAL says so twenty times, then no more.
    for _ in range(30):
        found_2N = in_crs(np.array([[-147.0, -57.0], [65.0, 0.0]]), degrees, UTM)
        assert np.isnan(found_2N).tolist() == [[False, True], [False, True]]
        assert found_2N[:, 0].tolist() == there[:, 0].tolist()


def test_few_rasters_are_open_and_the_one_not_used_for_longest_is_closed(tmp_path: Path) -> None:
    ones_HW = np.ones((OWN.height, OWN.width), np.float32)
    paths = [str(write(tmp_path / f"{number}.tif", ones_HW)) for number in range(3)]
    rasters = OpenRasters(2)
    first, second = rasters[paths[0]], rasters[paths[1]]
    assert rasters[paths[0]] is first
    third = rasters[paths[2]]
    assert [raster.closed for raster in (first, second, third)] == [False, True, False]
    assert len(rasters) == 2
    with pytest.raises(InputError, match=r"absent\.tif: cannot be read"):
        rasters[str(tmp_path / "absent.tif")]
    rasters.close()
    assert first.closed
    assert third.closed
    assert not len(rasters)
