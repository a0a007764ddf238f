"""Overlapping maps -> one, from real GeoTIFFs to real GeoTIFFs.

- Every method gives what a computation of the whole in NumPy gives, holes and all.
- The mosaic is the same, byte for byte, for any blocks and any order of the maps' names; of a part (--bounds)
  it has the same pixels as the whole.
- Pixels of a map that lies on the grid are taken unchanged; others are as GDAL resamples a map by itself.
- What is read at a time, and what is open, does not grow with the mosaic.
- What cannot be used is refused in one line, and nothing is left behind.
"""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from in_process import treeline
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform
from servers import S3Server, environment_of

import inference.mosaic.placed_map
from inference.config import MosaicConfig
from inference.maps.height_map import height_map
from inference.maps.map_file import HEIGHT, NODATA, SPREAD, map_writer
from inference.mosaic.combine_heights import BANDS, Observation, combine
from inference.mosaic.common_grid import EndlessGrid, PlacedMap, placed
from inference.mosaic.edge_distance import edge_distance
from inference.mosaic.placed_map import OpenMaps, Pixels
from inference.mosaic.run import mosaic, plan
from inference.tiling.windows import Block, Span
from shards.errors import InputError
from shards.raster.grid import Grid
from shards.storage.objects import find_files, read_bytes

CRS = "EPSG:32606"
LEFT, TOP, SIDE = 500_000.0, 7_200_000.0, 2.0
METHODS = ("weighted", "median", "newest", "least-uncertain")
SCENES = {
    "WV02_20200722_M1BS_10300100AB1FD100-sr-02m.chm.tif": (0, 0, 61, 83),
    "WV02_20150802_M1BS_1030010047ADDD00-sr-02m.chm.tif": (17, 29, 70, 64),
    "WV03_20200722_M1BS_104001003234CE00-sr-02m.chm.tif": (-20, 40, 55, 90),
    "undated.chm.tif": (30, -15, 50, 70),
}
"""Row and column of the first pixel, rows, columns."""
DAYS = (18_465, 16_649, 18_465, None)
"""Since 1970-01-01."""


def heights(seed: int, rows: int, columns: int, missing: float = 0.01) -> NDArray[np.int16]:
    """Decimetres, with single pixels and a corner missing."""
    generator = np.random.default_rng(seed)
    height_HW = generator.integers(0, 300, (rows, columns)).astype(np.int16)
    height_HW[generator.random((rows, columns)) < missing] = NODATA
    height_HW[: rows // 5, : columns // 5] = NODATA
    return height_HW


def write_map(
    path: Path,
    height_HW: NDArray[np.int16],
    row: float = 0,
    column: float = 0,
    spread_HW: NDArray[np.int16] | None = None,
    **other: Any,
) -> Path:
    """A map as `treeline predict` writes them, its first pixel at (row, column) of 2 m."""
    affine = other.get("transform", Affine(SIDE, 0, LEFT + SIDE * column, 0, -SIDE, TOP - SIDE * row))
    grid = Grid(rasterio.CRS.from_user_input(other.get("crs", CRS)), affine, *height_HW.shape)
    bands = (HEIGHT,) if spread_HW is None else (HEIGHT, SPREAD)
    tags = {"TREELINE_VERSION": "0.test", "AREA_OR_POINT": "Area", **other.get("tags", {})}
    with map_writer(str(path), grid, bands, tags) as write:
        block = Block(Span(0, grid.height), Span(0, grid.width))
        write(block, np.stack([height_HW] if spread_HW is None else [height_HW, spread_HW]))
    return path


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four maps of one grid that overlap, with spreads that are often equal."""
    folder = tmp_path_factory.mktemp("maps")
    paths = []
    for seed, (name, (row, column, *shape)) in enumerate(SCENES.items()):
        height_HW = heights(seed, *shape)
        spread_HW = np.random.default_rng(99 + seed).integers(0, 4, shape).astype(np.int16)
        spread_HW[height_HW == NODATA] = NODATA
        paths.append(write_map(folder / name, height_HW, row, column, spread_HW))
    return paths


def made(out: Path, *maps: Path, **options: Any) -> Path:
    """The mosaic of these maps, which is all that is in its folder."""
    path = out / "mosaic.tif"
    mosaic(MosaicConfig(tuple(map(str, maps)), str(path), **options))
    assert sorted(out.iterdir()) == [path.with_suffix(".qml"), path]
    return path


def stored(path: Path) -> NDArray[np.int16]:
    with rasterio.open(path) as raster:
        bands_CHW: NDArray[np.int16] = raster.read()
    return bands_CHW


# --- every method, against the whole at once ---


def steps_to_the_end(valid_HW: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Steps along rows and columns to the nearest invalid pixel; those around the array are invalid."""
    framed_HW = np.pad(valid_HW, 1)
    pixels_N2, ends_M2 = np.argwhere(framed_HW), np.argwhere(~framed_HW)
    steps_HW = np.zeros(framed_HW.shape, int)
    nearest_N = [np.abs(ends_M2 - pixel_2).sum(1).min() for pixel_2 in pixels_N2]
    steps_HW[tuple(pixels_N2.T)] = nearest_N
    return steps_HW[1:-1, 1:-1]


def brute_force(paths: list[Path], method: str, feather: int) -> NDArray[np.int16]:
    """The four bands of the mosaic of maps on one grid, from stacks as large as the mosaic."""
    paths = sorted(paths, key=lambda path: path.name)
    places = np.array([SCENES[path.name] for path in paths])
    top, left = places[:, :2].min(0)
    shape = tuple((places[:, :2] + places[:, 2:]).max(0) - (top, left))
    height_NHW = np.full((len(paths), *shape), np.nan)
    spread_NHW, weight_NHW = height_NHW.copy(), np.zeros_like(height_NHW)
    day_N = np.array([DAYS[list(SCENES).index(path.name)] or -1 for path in paths])
    for number, (path, (row, column, rows, columns)) in enumerate(zip(paths, places, strict=True)):
        bands_CHW, valid_HW = stored(path), stored(path)[0] != NODATA
        place = number, slice(row - top, row - top + rows), slice(column - left, column - left + columns)
        height_NHW[place] = np.where(valid_HW, bands_CHW[0], np.nan)
        spread_NHW[place] = np.where(valid_HW, bands_CHW[1], np.nan)
        weight_NHW[place] = np.minimum(steps_to_the_end(valid_HW), feather)
    valid_NHW = ~np.isnan(height_NHW)
    seen_HW = valid_NHW.any(0)
    filled_NHW = np.where(valid_NHW, height_NHW, 0)
    if method == "weighted":
        height_HW = (weight_NHW * filled_NHW).sum(0) / np.where(seen_HW, weight_NHW.sum(0), 1)
    elif method == "median":
        height_HW = np.nanmedian(np.where(seen_HW, height_NHW, 0), axis=0)
    else:
        merit_NHW = day_N[:, None, None] if method == "newest" else -spread_NHW
        best_HW = np.argmax(np.where(valid_NHW, merit_NHW, -np.inf), axis=0)
        height_HW = np.take_along_axis(filled_NHW, best_HW[None], axis=0)[0]
    count_HW = valid_NHW.sum(0)
    newest_HW = np.where(valid_NHW, day_N[:, None, None], -1).max(0)
    spread_HW = 10 * np.nanstd(np.where(seen_HW, height_NHW, 0), axis=0)
    bands = [np.rint(height_HW), count_HW, np.rint(spread_HW), np.where(newest_HW < 0, NODATA, newest_HW)]
    return np.where(seen_HW, np.stack(bands), NODATA).astype(np.int16)


@pytest.mark.parametrize("method", METHODS)
def test_a_mosaic_is_that_of_the_whole_at_once(maps: list[Path], tmp_path: Path, method: Any) -> None:
    expected_CHW = brute_force(maps, method, feather=12)
    assert set(np.unique(expected_CHW[1])) == {NODATA, 1, 2, 3, 4}, "else this proves little"
    ours_CHW = stored(made(tmp_path / "out", *maps, method=method, feather=12, block=40))
    difference_CHW = np.abs(ours_CHW.astype(int) - expected_CHW)
    assert difference_CHW[[0, 1, 3]].max() == 0
    assert difference_CHW[2].max() <= 1
    assert (difference_CHW[2] > 0).mean() < 1e-3, "spreads that lie half way between two centimetres"


@pytest.mark.parametrize("cap", [1, 5, 100])
def test_distances_are_steps_to_the_nearest_hole(cap: int) -> None:
    valid_HW = np.random.default_rng(cap).random((33, 21)) > 0.02
    framed_HW = np.pad(valid_HW, 1)
    ours_HW = edge_distance(framed_HW, cap)[1:-1, 1:-1]
    assert np.array_equal(ours_HW, np.minimum(steps_to_the_end(valid_HW), cap))
    assert not edge_distance(np.zeros((3, 4), bool), cap).any()
    assert (edge_distance(np.ones((3, 4), bool), cap) == cap).all()


@pytest.mark.parametrize("method", METHODS)
def test_one_map_alone_is_unchanged(tmp_path: Path, method: Any) -> None:
    """Bit for bit, the largest values too."""
    height_HW = heights(3, 50, 70)
    height_HW[-1] = np.iinfo(np.int16).max
    path = write_map(tmp_path / "WV02_alone.chm.tif", height_HW, spread_HW=np.abs(height_HW))
    ours_CHW = stored(made(tmp_path / "out", path, method=method, block=33))
    valid_HW = height_HW != NODATA
    assert np.array_equal(ours_CHW[0], height_HW)
    for band, value in ((1, 1), (2, 0), (3, NODATA)):
        assert np.array_equal(ours_CHW[band], np.where(valid_HW, value, NODATA))


def test_where_maps_differ_by_a_constant_the_mosaic_goes_over_without_a_step(tmp_path: Path) -> None:
    """Two maps side by side, the right one 10 m higher: it rises a little with each pixel."""
    overlap, rows = 50, 40
    left = write_map(tmp_path / "left.chm.tif", np.full((rows, 90), 20, np.int16))
    right = write_map(tmp_path / "right.chm.tif", np.full((rows, 90), 120, np.int16), column=90 - overlap)
    middle_W = stored(made(tmp_path / "out", left, right, block=32))[0][rows // 2].astype(int)
    assert (middle_W[:40] == 20).all()
    assert (middle_W[90:] == 120).all()
    steps_W = np.diff(middle_W)
    assert steps_W.min() >= 0
    # Farther than 20 rows from the side edges the nearest edge is above or below: then weights are equal.
    assert steps_W.max() <= 100 / 21 + 1
    newest_W = stored(made(tmp_path / "newest", left, right, method="newest"))[0][rows // 2].astype(int)
    assert np.diff(newest_W).max() == 100, "as it would be without weights"


def test_a_pixel_whose_spread_is_not_known_is_taken_last(tmp_path: Path) -> None:
    known, unknown = (np.full((4, 4), height, np.int16) for height in (10, 20))
    spread_HW = np.full((4, 4), NODATA, np.int16)
    spread_HW[0] = 5
    paths = [
        write_map(tmp_path / "a.chm.tif", unknown, spread_HW=spread_HW),
        write_map(tmp_path / "b.chm.tif", known, spread_HW=np.full((4, 4), 3000, np.int16)),
    ]
    ours_CHW = stored(made(tmp_path / "out", *paths, method="least-uncertain"))
    assert np.array_equal(ours_CHW[0], np.where(np.arange(4)[:, None] == 0, unknown, known))
    assert (ours_CHW[1] == 2).all()


def test_the_median_of_many_keeps_to_the_middle() -> None:
    values_N = np.array([7, 1, 9, 300, 2], np.float32)
    for count, expected in ((1, 7), (2, 4), (3, 7), (4, 8), (5, 7)):
        seen = [Observation(np.full((1, 1), value), 1.0, None) for value in values_N[:count]]
        assert combine(seen, (1, 1), "median")[0, 0, 0] == expected


# --- the same however it is made ---


@pytest.mark.parametrize("method", METHODS)
def test_the_bytes_depend_on_neither_blocks_nor_the_order_of_names(
    maps: list[Path], tmp_path: Path, method: Any
) -> None:
    """One map is shifted by parts of a pixel, and one comes from the next UTM zone."""
    x, y = transform(CRS, "EPSG:32605", [LEFT + 20], [TOP - 20])
    spread_HW = np.full((60, 50), 2, np.int16)
    zone = Affine(SIDE, 0, x[0], 0, -SIDE, y[0])
    others = [
        write_map(
            tmp_path / "WV02_z_other_zone.chm.tif",
            heights(8, 60, 50),
            0,
            0,
            spread_HW,
            transform=zone,
            crs="EPSG:32605",
        ),
        write_map(tmp_path / "z_shifted.chm.tif", heights(9, 60, 50), 3.3, 20.7, spread_HW),
    ]
    paths = [*maps, *others]
    orders = list(itertools.permutations(range(len(paths))))
    digests = set()
    for number, block in enumerate((29, 64, 100, 1024)):
        order = orders[(number * 211) % len(orders)]
        out = made(tmp_path / str(block), *(paths[n] for n in order), method=method, feather=20, block=block)
        digests.add(out.read_bytes())
    assert len(digests) == 1


def test_warped_pixels_do_not_depend_on_what_is_read_with_them(tmp_path: Path) -> None:
    """Of a map larger than what is resampled at a time."""
    x, y = transform(CRS, "EPSG:3338", [LEFT], [TOP])
    path = write_map(
        tmp_path / "far.chm.tif",
        heights(2, 800, 900, missing=0.1),
        transform=Affine(3, 0, x[0], 0, -3, y[0]),
        crs="EPSG:3338",
    )
    planned = plan(MosaicConfig((str(path),), str(tmp_path / "mosaic.tif"), crs=CRS))
    (one,), rng = planned.maps, np.random.default_rng(0)
    with OpenMaps(planned.grid) as opened:
        whole_HW = opened.read(one, one.place).height_HW
    assert 0.5 < np.isfinite(whole_HW).mean() < 0.9
    with OpenMaps(planned.grid) as opened:
        for _ in range(20):
            row, column = (int(rng.integers(0, side - 1)) for side in whole_HW.shape)
            rows, columns = (int(rng.integers(1, 600)) for _ in range(2))
            start, left = one.place.rows.start + row, one.place.columns.start + column
            part = Block(Span(start, start + rows), Span(left, left + columns))
            part_HW = opened.read(one, part).height_HW
            there_HW = whole_HW[row : row + rows, column : column + columns]
            inside_HW = part_HW[: there_HW.shape[0], : there_HW.shape[1]]
            assert np.array_equal(inside_HW, there_HW, equal_nan=True)
            assert np.isnan(part_HW).sum() == np.isnan(there_HW).sum() + part_HW.size - there_HW.size


def test_a_part_has_the_pixels_of_the_whole(maps: list[Path], tmp_path: Path) -> None:
    """Distances to edges beyond the bounds count as well."""
    whole = made(tmp_path / "whole", *maps)
    bounds = (LEFT + 30.5, TOP - 99, LEFT + 131, TOP - 30)
    part = made(tmp_path / "part", *maps, bounds=bounds)
    with rasterio.open(whole) as raster, rasterio.open(part) as cut:
        assert cut.bounds == (LEFT + 30, TOP - 100, LEFT + 132, TOP - 30), "pixels that touch the bounds"
        window = raster.window(*cut.bounds)
        assert np.array_equal(raster.read(window=window), cut.read())
        assert (cut.read(2) > 1).any()


# --- grids ---


def test_maps_of_another_zone_are_as_gdal_resamples_them(tmp_path: Path) -> None:
    """Within a centimetre of rasterio's reproject of the whole at once."""
    rows, columns = 120, 150
    row_HW, column_HW = np.indices((rows, columns))
    height_HW = np.rint(150 + 100 * np.sin(row_HW / 9) * np.cos(column_HW / 7)).astype(np.int16)
    height_HW[50:60, 70:90] = NODATA
    x, y = transform(CRS, "EPSG:32605", [LEFT], [TOP])
    own = Affine(SIDE, 0, x[0], 0, -SIDE, y[0])
    path = write_map(tmp_path / "zone.chm.tif", height_HW, transform=own, crs="EPSG:32605")
    planned = plan(MosaicConfig((str(path),), str(tmp_path / "out.tif"), crs=CRS))
    with OpenMaps(planned.grid) as opened:
        ours_HW = opened.read(planned.maps[0], planned.extent).height_HW
    grid = planned.grid.part(planned.extent)
    theirs_HW = np.full((grid.height, grid.width), np.nan, np.float32)
    reproject(
        height_HW.astype(np.float32),
        theirs_HW,
        src_transform=own,
        src_crs="EPSG:32605",
        src_nodata=NODATA,
        dst_transform=grid.transform,
        dst_crs=CRS,
        dst_nodata=np.nan,
        resampling=Resampling.bilinear,
        tolerance=0,
    )
    assert np.array_equal(np.isnan(ours_HW), np.isnan(theirs_HW))
    assert np.nanmax(np.abs(ours_HW - theirs_HW)) <= 0.1, "decimetres"
    assert np.isfinite(ours_HW).sum() == pytest.approx((height_HW != NODATA).sum(), rel=0.01)
    stored_HW = stored(made(tmp_path / "out", path, crs=CRS))[0]
    expected_HW = np.where(np.isnan(ours_HW), NODATA, np.rint(ours_HW)).astype(np.int16)
    assert np.array_equal(stored_HW, expected_HW)


def test_a_coarser_mosaic_averages(tmp_path: Path) -> None:
    """A chessboard of 0 and 20 m is 10 m everywhere at five times the size of the pixels."""
    board_HW = (np.indices((100, 100)).sum(0) % 2 * 200).astype(np.int16)
    path = write_map(tmp_path / "board.chm.tif", board_HW, row=0.2)
    ours_CHW = stored(made(tmp_path / "out", path, resolution=10.0, block=7))
    inner_HW = ours_CHW[0, 2:-2, 2:-2]
    assert inner_HW.shape[0] >= 15
    assert np.abs(inner_HW - 100).max() <= 2


def test_a_coarser_mosaic_of_a_part_of_a_map_has_the_pixels_of_the_whole(tmp_path: Path) -> None:
    """How far a pixel reaches does not depend on where its map ends."""
    height_HW = heights(5, 200, 200)
    whole = write_map(tmp_path / "whole.chm.tif", height_HW)
    part = write_map(tmp_path / "part.chm.tif", height_HW[:83, 60:], column=60)
    bounds = (LEFT + 130, TOP - 150, LEFT + 400, TOP)
    ours = [
        stored(made(tmp_path / path.stem, path, crs=CRS, resolution=6.8, bounds=bounds))
        for path in (whole, part)
    ]
    assert np.array_equal(ours[0][0, :-1, 2:], ours[1][0, :-1, 2:])
    assert (ours[0][0] != NODATA).any()


def test_heights_between_pixels_do_not_depend_on_spreads(tmp_path: Path) -> None:
    """Where either is missing, the other is resampled all the same; a hole stays a hole."""
    height_HW, spread_HW = heights(6, 50, 60), np.abs(heights(7, 50, 60, missing=0.05))
    spread_HW[spread_HW == -NODATA] = NODATA
    alone = write_map(tmp_path / "alone.chm.tif", height_HW, 0.4, 0.3)
    beside = write_map(tmp_path / "beside.chm.tif", height_HW, 0.4, 0.3, spread_HW)
    grid = EndlessGrid(rasterio.CRS.from_user_input(CRS), Affine(SIDE, 0, LEFT, 0, -SIDE, TOP))
    read = []
    for path, with_spread in ((alone, False), (beside, False), (beside, True)):
        one = placed(height_map(str(path)), grid)
        assert not one.is_aligned
        with OpenMaps(grid) as opened:
            read.append(opened.read(one, one.place, with_spread))
    assert np.array_equal(read[0].height_HW, read[1].height_HW, equal_nan=True)
    assert np.array_equal(read[0].height_HW, read[2].height_HW, equal_nan=True)
    assert read[2].spread_HW is not None
    assert np.nanmin(read[2].spread_HW) >= 0
    assert (np.isnan(read[2].height_HW) ^ np.isnan(read[2].spread_HW)).sum() > 0


@pytest.mark.parametrize(
    ("options", "side", "corner"),
    [
        ({}, 2.0, (LEFT + 2, TOP - 6)),
        ({"crs": CRS, "resolution": 2.0}, 2.0, (LEFT + 2, TOP - 6)),
        ({"resolution": 5.0}, 5.0, (LEFT, TOP - 5)),
    ],
)
def test_the_grid_is_the_first_maps_or_lies_at_multiples_of_the_resolution(
    tmp_path: Path, options: dict[str, Any], side: float, corner: tuple[float, float]
) -> None:
    """The first by name, not the first that is named."""
    first = write_map(tmp_path / "a.chm.tif", heights(0, 20, 30), row=3.0, column=1.0)
    second = write_map(tmp_path / "b.chm.tif", heights(1, 20, 30), row=7.4, column=5.3)
    with rasterio.open(made(tmp_path / "out", second, first, **options)) as raster:
        assert raster.res == (side, side)
        assert (raster.transform.c, raster.transform.f) == corner
        assert raster.bounds.right >= LEFT + 2 * 35.3
        assert raster.crs.to_string() == CRS


def test_a_map_that_is_not_north_up_finds_its_place(tmp_path: Path) -> None:
    """Stored from south to north, it has the same mosaic as stored from north to south."""
    height_HW = heights(4, 30, 40)
    straight = write_map(tmp_path / "straight.chm.tif", height_HW)
    turned = Affine(SIDE, 0, LEFT, 0, SIDE, TOP - 30 * SIDE)
    upside_down = write_map(tmp_path / "turned.chm.tif", height_HW[::-1], transform=turned)
    ours = [stored(made(tmp_path / path.stem, path)) for path in (straight, upside_down)]
    assert np.array_equal(*ours)


# --- bounded ---


class Counting(OpenMaps):
    """Remembers what was read and how many were open."""

    largest = 0
    open_at_once = 0
    calls = 0

    def read(self, one: PlacedMap, window: Block, with_spread: bool = False) -> Pixels:
        pixels = super().read(one, window, with_spread)
        Counting.calls += 1
        Counting.largest = max(Counting.largest, pixels.height_HW.size)
        Counting.open_at_once = max(Counting.open_at_once, len(self._open))
        return pixels


def test_what_is_read_at_a_time_does_not_grow_with_the_mosaic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of overlapping maps, ever longer: blocks and their halo, and a few files."""
    monkeypatch.setattr("inference.mosaic.run.OpenMaps", Counting)
    monkeypatch.setattr(inference.mosaic.placed_map.OpenMaps.__init__, "__defaults__", (3,))
    for number in range(24):
        write_map(
            tmp_path / "maps" / f"map_{number:02d}.chm.tif", heights(number, 40, 60), column=30 * number
        )
    seen = []
    for count in (6, 24):
        Counting.largest = Counting.open_at_once = Counting.calls = 0
        paths = sorted((tmp_path / "maps").iterdir())[:count]
        made(tmp_path / str(count), *paths, block=32, feather=10)
        seen.append((Counting.largest, Counting.open_at_once, Counting.calls))
    assert seen[0][:2] == seen[1][:2] == ((32 + 2 * 10) ** 2, 3)
    assert seen[1][2] < 5 * seen[0][2], "a map is read where it is, not everywhere"


def test_a_block_without_a_map_is_nodata(tmp_path: Path) -> None:
    paths = [
        write_map(tmp_path / f"{name}.chm.tif", heights(1, 20, 20), column=column)
        for name, column in (("a", 0), ("b", 300))
    ]
    planned = plan(MosaicConfig(tuple(map(str, paths)), str(tmp_path / "out.tif"), block=16))
    touching = [maps for _, maps in planned.blocks()]
    assert len(touching) == planned.block_count
    assert sum(not maps for maps in touching) > 20
    ours_CHW = stored(made(tmp_path / "out", *paths, block=16))
    assert (ours_CHW[:, :, 20:300] == NODATA).all()
    assert np.array_equal(ours_CHW[0, :, 300:], heights(1, 20, 20))


# --- what a mosaic is ---


def test_a_mosaic_says_what_it_holds_and_what_made_it(maps: list[Path], tmp_path: Path, capsys: Any) -> None:
    with rasterio.open(made(tmp_path / "out", *maps)) as raster:
        assert (raster.count, set(raster.dtypes), raster.nodata) == (4, {"int16"}, NODATA)
        assert raster.descriptions == tuple(band.name for band in BANDS)
        assert raster.units == ("m", None, "m", "days since 1970-01-01")
        assert raster.scales == (0.1, 1.0, 0.01, 1.0)
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        tags = raster.tags()
    assert (tags["TREELINE_METHOD"], tags["TREELINE_FEATHER"]) == ("weighted", "256")
    assert json.loads(tags["TREELINE_MAPS"]) == [
        {"name": name, "version": "0.test"} for name in sorted(SCENES)
    ]
    assert capsys.readouterr().err.count("1 of 4 maps have no known day") == 1


def test_larger_mosaics_have_overviews_without_nodata_in_the_average(tmp_path: Path) -> None:
    height_HW = np.full((700, 1100), 40, np.int16)
    height_HW[:, :511] = NODATA
    path = made(tmp_path / "out", write_map(tmp_path / "a.chm.tif", height_HW))
    with rasterio.open(path) as raster:
        assert raster.overviews(1)
    with rasterio.open(path, overview_level=0) as overview:
        assert set(np.unique(overview.read(1))) == {NODATA, 40}


def test_a_tag_says_the_day_where_the_name_does_not(tmp_path: Path, capsys: Any) -> None:
    old = write_map(tmp_path / "a.chm.tif", heights(0, 9, 9), tags={"TREELINE_ACQUIRED": "2001-02-03"})
    new = write_map(tmp_path / "b.chm.tif", heights(1, 9, 9), tags={"TREELINE_ACQUIRED": "2011-02-03"})
    ours_CHW = stored(made(tmp_path / "out", old, new, method="newest"))
    both_HW = (heights(0, 9, 9) != NODATA) & (heights(1, 9, 9) != NODATA)
    assert np.array_equal(ours_CHW[0][both_HW], heights(1, 9, 9)[both_HW])
    assert (ours_CHW[3][both_HW] == 15_008).all()
    assert "no day" not in capsys.readouterr().err


def test_a_map_of_other_steps_counts_in_metres(tmp_path: Path) -> None:
    """Heights in whole metres and spreads in millimetres, as the file says."""
    path = write_map(
        tmp_path / "a.chm.tif", np.full((5, 5), 7, np.int16), spread_HW=np.full((5, 5), 9, np.int16)
    )
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.scales = (1.0, 0.001)
    other = write_map(
        tmp_path / "b.chm.tif", np.full((5, 5), 50, np.int16), spread_HW=np.full((5, 5), 1, np.int16)
    )
    ours_CHW = stored(made(tmp_path / "out", path, other, method="least-uncertain"))
    assert (ours_CHW[0] == 70).all(), "0.9 cm is less than 1 cm"
    assert (ours_CHW[2] == 100).all()


def test_maps_in_a_list_or_a_folder(maps: list[Path], tmp_path: Path) -> None:
    """As if each were named; what a killed mosaic left of its file goes."""
    expected = made(tmp_path / "named", *maps)
    listed = tmp_path / "maps.txt"
    listed.write_text("".join(f"{path}\n" for path in maps))
    for number, given in enumerate((listed, maps[0].parent)):
        out = tmp_path / str(number) / "mosaic.tif"
        out.parent.mkdir()
        left = out.parent / f".treeline-0123456789abcdef-{out.name}"
        left.touch()
        mosaic(MosaicConfig((str(given),), str(out)))
        assert out.read_bytes() == expected.read_bytes()
        assert sorted(out.parent.iterdir()) == sorted((out, out.with_suffix(".qml")))


def test_a_map_that_is_named_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_map(tmp_path / "a.chm.tif", heights(0, 9, 9))
    monkeypatch.chdir(tmp_path)
    ours_CHW = stored(made(tmp_path / "out", path, Path("a.chm.tif"), Path("*.chm.tif")))
    assert set(np.unique(ours_CHW[1])) == {NODATA, 1}


def test_on_s3_as_on_disk(maps: list[Path], tmp_path: Path, moto: S3Server) -> None:
    local = made(tmp_path / "local", *maps)
    with environment_of(moto):
        import fsspec

        filesystem = fsspec.filesystem("s3")
        for path in maps:
            filesystem.put_file(str(path), f"bucket/mosaic/maps/{path.name}")
        options = MosaicConfig(
            ("s3://bucket/mosaic/maps/*.tif",), "s3://bucket/mosaic/out/mosaic.tif", block=50
        )
        mosaic(options)
        assert find_files("s3://bucket/mosaic/out") == ["mosaic.qml", "mosaic.tif"]
        assert read_bytes(options.out) == local.read_bytes()
        with pytest.raises(InputError, match="already exists"):
            mosaic(options)


def test_the_command(maps: list[Path], tmp_path: Path) -> None:
    words = ["mosaic", *map(str, maps), "--method", "median", "--out", str(tmp_path / "mosaic.tif")]
    bounds = ["--bounds", str(LEFT), str(TOP - 100), str(LEFT + 100), str(TOP)]
    for code in (0, 2):
        run = treeline(*words, *bounds)
        assert run.returncode == code, run.stderr
    assert "already exists" in run.stderr
    assert stored(tmp_path / "mosaic.tif").shape == (4, 50, 50)


# --- refused, with nothing left behind ---


def assert_refused(match: str, folder: Path, *maps: Path, **options: Any) -> None:
    out = folder / "out"
    out.mkdir()
    config = MosaicConfig(tuple(map(str, maps)), str(out / "mosaic.tif"), block=16)
    with pytest.raises(InputError, match=match) as refused:
        mosaic(replace(config, **options))
    assert "\n" not in str(refused.value)
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"maps": ()}, "name at least one"),
        ({"block": 0}, "--block 0"),
        ({"feather": 0}, "--feather 0"),
        ({"resolution": -1.0}, "--resolution -1"),
        ({"resolution": 1e-9}, "too many pixels"),
        ({"crs": "EPSG:1"}, "--crs EPSG:1"),
        ({"crs": "EPSG:4326"}, "--resolution"),
        ({"bounds": (1.0, 2.0)}, "--bounds 1 2: give left"),
        ({"bounds": (5.0, 5.0, 4.0, 6.0)}, "--bounds 5 5 4 6: give left"),
        (
            {"bounds": (0.0, 0.0, 9.0, 9.0)},
            "no map is there; the maps lie within 500000 7199982 500018 7200000",
        ),
        ({"method": "least-uncertain"}, r"a\.chm\.tif: has no spread band"),
        ({"out": "folder/"}, "--out folder/: give a file"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    path = write_map(tmp_path / "a.chm.tif", heights(0, 9, 9))
    assert_refused(match, tmp_path, path, **options)


def other_raster(path: Path, **other: Any) -> Path:
    profile = {"count": 1, "dtype": "int16", "nodata": NODATA, "crs": CRS, "unit": "m", "name": HEIGHT.name}
    profile |= other
    unit, name = profile.pop("unit"), profile.pop("name")
    affine = Affine(SIDE, 0, LEFT, 0, -SIDE, TOP)
    with rasterio.open(path, "w", driver="GTiff", height=9, width=9, transform=affine, **profile) as raster:
        raster.units, raster.descriptions = (unit,) * raster.count, (name,) * raster.count
        raster.write(np.ones((raster.count, 9, 9), raster.dtypes[0]))
    return path


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"dtype": "float32"}, "is no canopy height map.*but is float32"),
        ({"unit": "ft"}, "unit 'ft'"),
        ({"name": "elevation"}, "elevation"),
        ({"nodata": None}, "nodata None"),
        ({"crs": None}, "no CRS"),
    ],
)
def test_other_rasters_are_refused(tmp_path: Path, other: dict[str, Any], match: str) -> None:
    good = write_map(tmp_path / "good.chm.tif", heights(0, 9, 9))
    assert_refused(rf"other\.tif.*{match}", tmp_path, good, other_raster(tmp_path / "other.tif", **other))


def test_a_raster_like_a_map_is_one(tmp_path: Path) -> None:
    assert (stored(made(tmp_path / "out", other_raster(tmp_path / "other.tif")))[0] == 10).all()


def test_no_day_in_a_tag_is_refused(tmp_path: Path) -> None:
    path = write_map(tmp_path / "a.chm.tif", heights(0, 9, 9), tags={"TREELINE_ACQUIRED": "summer"})
    assert_refused("its tag TREELINE_ACQUIRED is 'summer'", tmp_path, path)


def test_what_is_no_raster_or_absent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no raster")
    assert_refused(r"text\.tif: cannot be read", tmp_path, tmp_path / "text.tif")
    (tmp_path / "out").rmdir()
    assert_refused(r"absent\.tif: no file matches", tmp_path, tmp_path / "absent.tif")


@pytest.mark.parametrize("shifted", [0.0, 0.5])
def test_a_map_that_ends_early_leaves_nothing_behind(tmp_path: Path, shifted: float) -> None:
    """The second that is read, also where it is resampled."""
    good = write_map(tmp_path / "a.chm.tif", heights(0, 90, 90))
    noise_HW = np.random.default_rng(0).integers(0, 9999, (90, 90)).astype(np.int16)
    short = write_map(tmp_path / "short.chm.tif", noise_HW, row=shifted)
    short.write_bytes(short.read_bytes()[:-4000])
    assert_refused(rf"{short}: cannot be read", tmp_path, good, short)
