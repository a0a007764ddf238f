"""Rasters are listed from their headers, matched to what serves them, and read once.

- candidates are every whole chip of every image, strip after strip; refused ones say why
- what is read of a chip does not depend on which chips are read with it, nor on where it is read
- no row is read twice, and no column that is not wanted
- heights too far in time, images of other seasons, clouds: left out, and only those
- a damaged file costs the chips that lie on the damage; an outage is an error
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.warp
from rasterio import Affine
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from servers import S3Server, environment_of

import shards.raster.on_grid
from cluster import cli
from ingest.chips.check import Rejected
from ingest.chips.source import GROUP, Raw
from ingest.config import ScenesConfig
from ingest.scenes.scenes_source import ScenesSource
from ingest.work.plan import Present, make_plan
from shards.errors import InputError
from shards.format.scene_names import day_in, images_of_masks
from shards.raster.footprints import RasterFootprints
from shards.raster.grid import Grid
from shards.storage.objects import publish

SCENE = "WV02_20200708_M1BS_103001012FDE4E52"
ALBERS, UTM = "EPSG:3338", "EPSG:32606"
NODATA = -9999
X_M, Y_M = 200_000.0, 1_700_000.0
SHAPE = (160, 224)
SIZE = 32


def write(path: Path, array: np.ndarray, crs: str = ALBERS, scale: float = 2.0, **profile: Any) -> str:
    """An array (rows, columns) or (bands, rows, columns) as a tiled GeoTIFF with pixels of `scale` metres."""
    array_CHW = array.reshape(-1, *array.shape[-2:])
    bands, rows, columns = array_CHW.shape
    given = {"transform": Affine(scale, 0, X_M, 0, -scale, Y_M), "nodata": NODATA, **profile}
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    shape = {"count": bands, "height": rows, "width": columns, "dtype": array.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, **tiles, **shape, **given) as raster:
        raster.write(array_CHW)
    return str(path)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Pixels of four bands, or heights of 1 to 20 m: no two neighbours are alike."""
    rng = np.random.default_rng(seed)
    if len(shape) == 3:
        return rng.integers(1, 5000, shape).astype(np.int16)
    return rng.uniform(1, 20, shape).astype(np.float32)


@pytest.fixture
def image(tmp_path: Path) -> str:
    return write(tmp_path / f"{SCENE}-sr-02m.tif", numbers(4, *SHAPE))


@pytest.fixture
def height(tmp_path: Path) -> str:
    return write(tmp_path / "lidar_20200710.tif", numbers(*SHAPE, seed=1))


def source(image: str, *heights: str, **options: Any) -> ScenesSource:
    given = {"images": (image,), "heights": heights, "chip_size": SIZE, "out": "unused"}
    return ScenesSource(ScenesConfig(**{**given, **options}))


def all_of(scenes: ScenesSource) -> dict[str, Raw | Rejected]:
    """Everything that is read, by key."""
    table = scenes.candidates().table
    return dict(zip(table["key"].to_pylist(), scenes.read(table), strict=True))


def pixels_of(path: str) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read()


def cut(array: np.ndarray, key: str, size: int = SIZE) -> np.ndarray:
    row, column = map(int, key.split("_")[-2:])
    return array[..., row : row + size, column : column + size]


def same(one: Raw | Rejected, other: Raw | Rejected) -> bool:
    if isinstance(one, Rejected) or isinstance(other, Rejected):
        return str(one) == str(other)
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.height, other.height)
    return one.facts == other.facts


def why_refused(scenes: ScenesSource) -> set[str]:
    listed = scenes.candidates()
    assert listed.table.num_rows == 0
    return {refused.reason for refused in listed.refused}


# Candidates


@pytest.mark.parametrize("stride", [0, 16, 40])
def test_candidates_are_every_whole_chip_strip_after_strip(
    image: str, height: str, tmp_path: Path, stride: int
) -> None:
    other = write(tmp_path / "second.tif", numbers(4, 64, 96))
    table = source(image, height, images=(image, other), stride=stride).candidates().table
    step = stride or SIZE
    corners = [
        (path, row, column)
        for path, (rows, columns) in ((image, SHAPE), (other, (64, 96)))
        for row in range(0, rows - SIZE + 1, step)
        for column in range(0, columns - SIZE + 1, step)
    ]
    assert [(row["_image"], row["_row"], row["_column"]) for row in table.to_pylist()] == corners
    assert table["key"].to_pylist() == [f"{Path(p).stem}_{r:05d}_{c:05d}" for p, r, c in corners]
    strips = [len(list(strip)) for _, strip in itertools.groupby(table[GROUP].to_pylist())]
    assert strips == [len(list(strip)) for _, strip in itertools.groupby(corners, key=lambda at: at[:2])]
    assert table[GROUP].to_pylist() == sorted(table[GROUP].to_pylist())
    for row in table.to_pylist():
        middle = (row["_column"] + SIZE / 2, row["_row"] + SIZE / 2)
        assert (row["x"], row["y"]) == Affine(2, 0, X_M, 0, -2, Y_M) @ middle
        assert (row["crs"], row["source"]) == (ALBERS, "lidar_20200710")
    first = table.to_pylist()[0]
    assert (first["scene"], first["sensor"], first["acquired"]) == (Path(image).stem, "WV02", "2020-07-08")


def test_listing_reads_no_pixels(image: str, height: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.raster.on_grid, "read_window", None)
    assert source(image, height).candidates().table.num_rows == 35


def test_a_large_scene_is_listed_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "large.tif")
    profile = {"count": 4, "height": 20_000, "width": 20_000, "dtype": "int16", "crs": ALBERS}
    grid = Affine(2, 0, X_M, 0, -2, Y_M)
    with rasterio.open(path, "w", driver="GTiff", transform=grid, SPARSE_OK=True, tiled=True, **profile):
        pass
    table = source(path, chip_size=64).candidates().table
    assert table.num_rows == 312 * 312
    # Each chip brings its key, its numbers and some short texts along, and not the names of the rasters.
    assert table.nbytes < 250 * table.num_rows


def test_other_rasters_make_another_table(image: str, height: str, tmp_path: Path) -> None:
    again = write(tmp_path / "more.tif", numbers(*SHAPE))
    one, both = (
        make_plan(made.candidates(), made.schema, made.config, Present())
        for made in (source(image, *heights) for heights in ([height], [height, again]))
    )
    # All is the same but what heights serve the image, and an unfinished ingest must not go on with others.
    assert one.table.drop_columns("_rasters").equals(both.table.drop_columns("_rasters"))
    assert one.fingerprint != both.fingerprint


# Reading


@pytest.mark.parametrize("stride", [0, 16, 40])
def test_chips_are_the_pixels_cut_from_the_rasters(image: str, height: str, stride: int) -> None:
    image_CHW, height_HW = pixels_of(image), pixels_of(height)[0]
    for key, raw in all_of(source(image, height, stride=stride)).items():
        assert isinstance(raw, Raw)
        np.testing.assert_array_equal(raw.image, cut(image_CHW, key))
        np.testing.assert_array_equal(raw.height, cut(height_HW, key))
        assert raw.facts == {"source": "lidar_20200710"}


@pytest.mark.parametrize("options", [{}, {"crs": UTM, "pixel_size": 2.0}, {"pixel_size": 1.8}], ids=str)
@pytest.mark.parametrize("size", [24, 144])
def test_a_chip_is_the_same_whichever_others_are_read_and_wherever(
    tmp_path: Path, size: int, options: dict[str, Any]
) -> None:
    # Chips of 144 rows are higher than the blocks in which GDAL warps; chips of 100 are all of the low image.
    for name, shape, side in (("high", (232, 640), size), ("low", (100, 700), min(size, 100))):
        image = write(tmp_path / f"{name}.tif", numbers(4, *shape))
        grid = Affine(1.7, 0.02, X_M - 30, 0.03, -1.7, Y_M + 30)
        height = write(tmp_path / f"{name}_height.tif", numbers(300, 900), transform=grid)
        scenes = source(image, height, chip_size=side, stride=side // 2, **options)
        whole = all_of(scenes)
        assert any(isinstance(raw, Raw) and np.isfinite(raw.height).any() for raw in whole.values())
        table, rng = scenes.candidates().table, np.random.default_rng(3)
        elsewhere = pickle.loads(pickle.dumps(scenes))
        for share in (0.9, 0.2, 0.02):
            some = table.filter(rng.random(table.num_rows) < share)
            for key, raw in zip(some["key"].to_pylist(), elsewhere.read(some), strict=True):
                assert same(raw, whole[key])


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Window]]:
    """The windows of each raster that are read from now on, by the name of its first file."""
    seen: dict[str, list[Window]] = {}
    read = shards.raster.on_grid.read_window

    def counted(raster: Any, **options: Any) -> Any:
        name = Path(getattr(raster, "src_dataset", raster).files[0]).stem
        seen.setdefault(name, []).append(options["window"])
        return read(raster, **options)

    monkeypatch.setattr(shards.raster.on_grid, "read_window", counted)
    return seen


@pytest.mark.parametrize("stride", [8, 16, 24, 32, 40])
def test_no_row_is_read_twice(image: str, height: str, stride: int, windows: dict[str, list[Window]]) -> None:
    table = source(image, height, stride=stride).candidates().table
    assert len(list(source(image, height, stride=stride).read(table))) == table.num_rows
    wanted = {row + n for row in table["_row"].to_pylist() for n in range(SIZE)}
    for read in windows.values():
        rows = [row for window in read for row in range(window.row_off, window.row_off + window.height)]
        assert sorted(rows) == sorted(wanted)
    assert len(windows) == 2


def test_only_columns_between_the_first_and_last_chip_are_read(
    image: str, height: str, windows: dict[str, list[Window]]
) -> None:
    table = source(image, height).candidates().table
    some = table.filter([row["_row"] == 64 and row["_column"] in (32, 96) for row in table.to_pylist()])
    assert len(list(source(image, height).read(some))) == 2
    for read in windows.values():
        assert [(w.col_off, w.width, w.row_off, w.height) for w in read] == [(32, 96, 64, SIZE)]


def test_height_rasters_are_read_where_they_are_and_open_only_then(
    image: str, tmp_path: Path, windows: dict[str, list[Window]]
) -> None:
    heights = []
    for number in range(5):
        grid = Affine(2, 0, X_M, 0, -2, Y_M - 2 * SIZE * number)
        tile = np.full((SIZE, SHAPE[1] // 2), number + 1, np.float32)
        heights.append(write(tmp_path / f"tile{number}.tif", tile, transform=grid))
    for key, raw in all_of(source(image, *heights)).items():
        row, column = map(int, key.split("_")[-2:])
        assert isinstance(raw, Raw)
        if column + SIZE <= SHAPE[1] // 2:
            assert raw.facts == {"source": f"tile{row // SIZE}"}
            assert (raw.height == row // SIZE + 1).all()
        elif column >= SHAPE[1] // 2:
            assert raw.facts == {}
            assert np.isnan(raw.height).all()
    # A margin of some pixels at each side belongs to a raster, too.
    for number in range(5):
        rows = {row for w in windows[f"tile{number}"] for row in range(w.row_off, w.row_off + w.height)}
        assert min(rows) >= SIZE * number - 4
        assert max(rows) < SIZE * (number + 1) + 4


def test_without_heights_chips_have_no_label(image: str) -> None:
    scenes = source(image)
    assert (scenes.schema.label, scenes.schema.label_unit) == ("", "")
    image_CHW = pixels_of(image)
    for key, raw in all_of(scenes).items():
        assert isinstance(raw, Raw)
        assert raw.height is None
        np.testing.assert_array_equal(raw.image, cut(image_CHW, key))


def test_the_source_is_the_first_raster_with_a_value_in_the_chip(image: str, tmp_path: Path) -> None:
    west_HW, east_HW = numbers(*SHAPE), numbers(*SHAPE, seed=2)
    west_HW[:, 100:] = NODATA
    west_HW[:, :10] = np.nan
    heights = [write(tmp_path / f"{name}.tif", a) for name, a in (("west", west_HW), ("east", east_HW))]
    expected_HW = np.where((west_HW > 0), west_HW, east_HW)
    for key, raw in all_of(source(image, *heights)).items():
        assert isinstance(raw, Raw)
        np.testing.assert_array_equal(raw.height, cut(expected_HW, key))
        assert raw.facts["source"] == ("west" if int(key[-5:]) < 100 else "east")


# Place


def test_heights_of_half_the_globe_serve_an_image_in_metres(image: str, height: str, tmp_path: Path) -> None:
    globe = {"crs": "EPSG:4326", "transform": Affine(1, 0, -180, 0, -1, 90)}
    ground = write(tmp_path / "globe.tif", np.full((180, 360), 0.5, np.float32), **globe)
    for crs in ("", UTM):
        direct = all_of(source(image, height, crs=crs, pixel_size=2.0))
        for key, raw in all_of(source(image, height, ground=(ground,), crs=crs, pixel_size=2.0)).items():
            expected = direct[key]
            assert isinstance(raw, Raw)
            assert isinstance(expected, Raw)
            np.testing.assert_allclose(raw.height, expected.height - 0.5, atol=1e-5)


def test_a_raster_over_the_antimeridian_overlaps_on_both_sides(tmp_path: Path) -> None:
    utm_1 = {"crs": "EPSG:32601", "transform": Affine(1000, 0, 200_000, 0, -1000, 7_200_000)}
    crossing = Grid(rasterio.crs.CRS.from_string("EPSG:32601"), utm_1["transform"], 100, 200)

    def found(tiles: dict[str, tuple[float, float]]) -> list[str]:
        """Which of some tiles of 60 x 60 pixels, by western edge and size of a pixel in degrees, overlap."""
        urls = []
        for name, (west, pixel) in tiles.items():
            grid = Affine(pixel, 0, west, 0, -pixel, 65)
            ones = np.ones((60, 60), np.float32)
            urls.append(write(tmp_path / f"{name}.tif", ones, crs="EPSG:4326", transform=grid))
        return [Path(placed.url).stem for placed in RasterFootprints(urls).overlapping(crossing)]

    minute = 1 / 60
    assert found({"e": (-180, minute), "w": (179, minute), "far": (170, minute)}) == ["e", "w"]
    assert found({"half": (-180, 1), "other_half": (120, 1), "far": (0, 1)}) == ["half", "other_half"]


def test_what_reaches_an_image_is_inside_the_part_that_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    image = write(tmp_path / "image.tif", numbers(1, 400, 400))
    with rasterio.open(image) as raster:
        grid = Grid.of(raster)
        for number in range(12):
            column, row = rng.uniform(-100, 400, 2)
            (x,), (y,) = rasterio.warp.transform(
                ALBERS, UTM, *[[v] for v in raster.transform @ (column, row)]
            )
            tile = np.ones(tuple(rng.integers(20, 150, 2)), np.float32)
            path = write(tmp_path / f"{number}.tif", tile, crs=UTM, transform=Affine(2, 0, x, 0, -2, y))
            with (
                rasterio.open(path) as other,
                WarpedVRT(
                    other, crs=ALBERS, transform=grid.transform, width=400, height=400, nodata=NODATA
                ) as warped,
            ):
                reached_HW = warped.read(1) == 1
            placed = RasterFootprints([path]).overlapping(grid)
            if reached_HW.any():
                ((_, top, left, bottom, right),) = placed
                reached_HW[top:bottom, left:right] = False
                assert not reached_HW.any()
                assert (bottom - top) * (right - left) < 4 * (tile.shape[0] + 10) * (tile.shape[1] + 10)


def test_an_image_without_heights_below_it_is_refused_chip_by_chip(
    image: str, height: str, tmp_path: Path
) -> None:
    far = write(tmp_path / "far.tif", numbers(4, 64, 64), transform=Affine(2, 0, X_M + 9e4, 0, -2, Y_M))
    listed = source(image, height, images=(far, image)).candidates()
    assert set(listed.table["scene"].to_pylist()) == {Path(image).stem}
    assert [refused.key for refused in listed.refused] == [
        f"far_{row:05d}_{column:05d}" for row in (0, SIZE) for column in (0, SIZE)
    ]
    assert {refused.reason for refused in listed.refused} == {"no height raster overlaps"}
    assert why_refused(source(far, height)) == {"no height raster overlaps"}


# Time


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("lidar_20200710.tif", "2020-07-10"),
        ("lidar_2020-07-10_b.tif", "2020-07-10"),
        ("2020_fairbanks_ql1_2017.tif", None),
        ("tile_26906_20201350_20190601", "2019-06-01"),
        ("1030010047ADDD00", None),
        ("a20200710b", "2020-07-10"),
        ("120200710", None),
        ("lidar", None),
    ],
)
def test_a_name_says_a_day_or_none(name: str, day: str | None) -> None:
    assert day_in(name) == day


def test_heights_too_far_in_time_are_not_used(image: str, tmp_path: Path) -> None:
    values = {"lidar_20200601": 1, "lidar_20200710": 2, "lidar_2015": 3, "lidar_20200708": 4}
    heights = [write(tmp_path / f"{name}.tif", np.full(SHAPE, v, np.float32)) for name, v in values.items()]

    def used(*chosen: str, max_days: int | None) -> float:
        raw = next(iter(all_of(source(image, *chosen, max_days=max_days)).values()))
        assert isinstance(raw, Raw)
        return float(raw.height.mean())

    assert used(*heights, max_days=None) == 1
    assert used(*heights, max_days=37) == 1
    assert used(*heights, max_days=36) == 2
    assert used(*heights, max_days=2) == 2
    assert used(*heights, max_days=1) == 3  # a year is no day
    assert used(heights[0], heights[1], heights[3], max_days=0) == 4
    assert why_refused(source(image, *heights[:2], max_days=1)) == {"no height raster in time"}


def test_images_of_other_months_are_refused(image: str, height: str, tmp_path: Path) -> None:
    assert source(image, height, months=(6, 7)).candidates().table.num_rows == 35
    assert why_refused(source(image, height, months=(8,))) == {"out of season"}
    undated = write(tmp_path / "undated.tif", numbers(4, *SHAPE))
    assert why_refused(source(undated, height, months=(7,))) == {"no date"}
    named = write(tmp_path / "S2_20200708_T06.tif", numbers(4, *SHAPE))
    pattern = r"S2_(?P<acquired>\d{8})_T06_\d+_\d+$"
    table = source(named, height, months=(7,), key_pattern=pattern).candidates().table
    assert set(table["acquired"].to_pylist()) == {"2020-07-08"}


# Masks


def test_masked_pixels_have_no_measurement(image: str, height: str, tmp_path: Path) -> None:
    cloud_HW = (numbers(*SHAPE, seed=5) * 10).astype(np.uint8) % 4
    mask = write(tmp_path / "clouds.tif", cloud_HW, nodata=None)
    image_CHW = pixels_of(image)
    drop_HW = np.isin(cloud_HW, (1, 3))
    for key, raw in all_of(source(image, height, mask=(mask,), mask_drop=(1, 3))).items():
        assert isinstance(raw, Raw)
        np.testing.assert_array_equal(raw.image, cut(np.where(drop_HW, NODATA, image_CHW), key))


@pytest.mark.parametrize("nodata", [None, 0, 255])
def test_a_mask_says_nothing_beyond_its_edge(
    image: str, height: str, tmp_path: Path, nodata: int | None
) -> None:
    mask = write(tmp_path / "usable.tif", np.zeros((64, 64), np.uint8), nodata=nodata)
    for key, raw in all_of(source(image, height, mask=(mask,), mask_drop=(0,))).items():
        row, column = map(int, key.split("_")[-2:])
        assert isinstance(raw, Raw)
        assert (raw.image == NODATA).all() == (row < 64 and column < 64)
        assert (raw.image == NODATA).any() == (row < 64 and column < 64)


def test_a_mask_in_another_crs_lands_on_the_same_ground(image: str, height: str, tmp_path: Path) -> None:
    with rasterio.open(image) as raster:
        bounds = rasterio.warp.transform_bounds(ALBERS, UTM, *raster.bounds)
    columns, rows = (int(side / 10) + 1 for side in (bounds[2] - bounds[0], bounds[3] - bounds[1]))
    grid = Affine(10, 0, bounds[0], 0, -10, bounds[3])
    # Everything west of the middle, in UTM.
    cloud_HW = np.broadcast_to(np.arange(columns) < columns // 2, (rows, columns)).astype(np.uint8)
    mask = write(tmp_path / "clouds.tif", cloud_HW, crs=UTM, transform=grid, nodata=None)
    middle = bounds[0] + 10 * (columns // 2)
    for key, raw in all_of(source(image, height, mask=(mask,))).items():
        row, column = map(int, key.split("_")[-2:])
        r, c = np.mgrid[row : row + SIZE, column : column + SIZE] + 0.5
        x, _ = rasterio.warp.transform(ALBERS, UTM, (X_M + 2 * c).ravel(), (Y_M - 2 * r).ravel())
        east_HW = np.reshape(x, (SIZE, SIZE)) - middle
        sure_HW = np.abs(east_HW) > 0.5
        assert isinstance(raw, Raw)
        np.testing.assert_array_equal((raw.image == NODATA).all(0)[sure_HW], (east_HW < 0)[sure_HW])


@pytest.mark.parametrize(("dtype", "reason"), [(np.uint8, "masked"), (np.float32, None)])
def test_where_no_value_says_missing_a_masked_chip_is_refused(
    height: str, tmp_path: Path, dtype: Any, reason: str | None
) -> None:
    image = write(tmp_path / "image.tif", (numbers(4, *SHAPE) % 200).astype(dtype), nodata=None)
    cloud_HW = np.zeros(SHAPE, np.uint8)
    cloud_HW[40, 40] = 1
    mask = write(tmp_path / "clouds.tif", cloud_HW, nodata=None)
    for key, raw in all_of(source(image, height, mask=(mask,))).items():
        if not key.endswith("_00032_00032"):
            assert isinstance(raw, Raw)
            assert np.isfinite(raw.image).all()
        elif reason:
            assert isinstance(raw, Rejected)
            assert raw.reason == reason
        else:
            assert isinstance(raw, Raw)
            assert np.isnan(raw.image[:, 8, 8]).all()
            assert np.isnan(raw.image).sum() == 4


def test_masks_serve_the_images_that_they_are_named_after() -> None:
    images = ["scene_1", "scene_1_b", "scene_12", f"{SCENE}-sr-02m", f"{SCENE}-pan", "other"]
    expected = {
        "scene_1.tif": {"scene_1"},
        "m/scene_1_clouds.tif": {"scene_1"},
        "m/scene_1_b-clouds.tif": {"scene_1_b"},
        "scene_12_mask.tif": {"scene_12"},
        f"s3://b/{SCENE}-sr-02m.cloud.tif": {f"{SCENE}-sr-02m"},
        f"{SCENE}-cloud.tif": {f"{SCENE}-sr-02m", f"{SCENE}-pan"},
        f"{SCENE.replace('2020', '2021')}-cloud.tif": set(),
    }
    anonymous = ["clouds.tif", "scene_123.tif", "my_scene_1.tif"]
    assert images_of_masks([*expected, *anonymous], images) == expected


def test_the_mask_of_another_image_is_not_used(image: str, height: str, tmp_path: Path) -> None:
    twin = write(tmp_path / "twin.tif", numbers(4, *SHAPE))
    mask = write(tmp_path / "twin_clouds.tif", np.ones(SHAPE, np.uint8), nodata=None)
    listed = source(image, height, images=(image, twin), mask=(mask,)).candidates()
    assert set(listed.table["scene"].to_pylist()) == {"twin"}
    assert {refused.reason for refused in listed.refused} == {"no mask"}
    clear = write(tmp_path / "everywhere.tif", np.zeros(SHAPE, np.uint8), nodata=None)
    for key, raw in all_of(source(image, height, images=(image, twin), mask=(mask, clear))).items():
        assert isinstance(raw, Raw)
        assert (raw.image == NODATA).all() == key.startswith("twin")
        assert (raw.image == NODATA).any() == key.startswith("twin")


# What fails


def _damage(path: str, tile: int) -> None:
    """Overwrite the middle of the `tile`-th tile of the file."""
    with rasterio.open(path) as raster:
        row, column = divmod(tile, -(-raster.width // 64))
        place, length = (
            int(raster.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", 1)) for what in ("OFFSET", "SIZE")
        )
    data = bytearray(Path(path).read_bytes())
    data[place : place + length] = b"\xff" * length
    Path(path).write_bytes(data)


@pytest.mark.parametrize("victim", ["image", "height"])
def test_damage_costs_the_chips_that_lie_on_it(image: str, height: str, victim: str) -> None:
    sound = all_of(source(image, height))
    _damage({"image": image, "height": height}[victim], 5)  # of 4 tiles in a row: rows and columns 64 to 127
    found = all_of(source(image, height))
    for key, raw in found.items():
        row, column = (place // 64 for place in map(int, key.split("_")[-2:]))
        if (row, column) == (1, 1):
            assert isinstance(raw, Rejected)
            assert raw.reason == "unreadable"
            assert Path({"image": image, "height": height}[victim]).name in raw.detail
            assert "\n" not in raw.detail
        elif isinstance(raw, Raw):
            assert same(raw, sound[key])
    # Heights are warped in blocks of 128 rows and 512 columns: all chips of a block share its damage.
    assert sum(isinstance(raw, Raw) for raw in found.values()) == {"image": 31, "height": 7}[victim]
    scenes = source(image, height)
    table = scenes.candidates().table
    for row in range(table.num_rows):
        ((key, raw),) = zip(
            table["key"][row : row + 1].to_pylist(), scenes.read(table[row : row + 1]), strict=True
        )
        assert same(raw, found[key])


def test_an_image_that_went_away_costs_its_chips_only(image: str, height: str, tmp_path: Path) -> None:
    other = write(tmp_path / "zz.tif", numbers(4, *SHAPE))
    scenes = source(image, height, images=(image, other))
    table = scenes.candidates().table
    Path(image).unlink()
    for key, raw in zip(table["key"].to_pylist(), scenes.read(table), strict=True):
        assert isinstance(raw, Raw) == key.startswith("zz")


@pytest.fixture
def bucket(moto: S3Server, tmp_path: Path) -> Iterator[str]:
    with environment_of(moto):
        yield f"s3://bucket/{tmp_path.name}"


def test_remote_rasters_are_as_good_as_local_ones(image: str, height: str, bucket: str) -> None:
    urls = [f"{bucket}/{Path(path).name}" for path in (image, height)]
    for url, path in zip(urls, (image, height), strict=True):
        publish(url, Path(path).read_bytes())
    local = all_of(source(image, height))
    remote = all_of(source(f"{bucket}/WV02*.tif", urls[1]))
    assert remote.keys() == local.keys()
    assert all(same(raw, remote[key]) for key, raw in local.items())


@pytest.mark.parametrize("victim", [0, 1])
def test_a_remote_raster_that_cannot_be_read_is_an_error(
    image: str, height: str, bucket: str, victim: int
) -> None:
    urls = [f"{bucket}/{Path(path).name}" for path in (image, height)]
    _damage((image, height)[victim], 5)
    for url, path in zip(urls, (image, height), strict=True):
        publish(url, Path(path).read_bytes())
    with pytest.raises(OSError, match=Path(urls[victim]).name):
        all_of(source(*urls))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": -1}, "--stride -1"),
        ({"months": (0, 7)}, "--months 0 7"),
        ({"max_days": -1}, "--max-days -1"),
        ({"pixel_size": -2.0}, "--pixel-size -2"),
        ({"chip_size": 500}, "smaller than a chip"),
        ({"mask": ("nothing*.tif",)}, r"nothing\*\.tif"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_named(
    image: str, height: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        source(image, height, **options).candidates()
    assert "\n" not in str(caught.value)


def test_ground_elevations_need_heights() -> None:
    with pytest.raises(InputError, match="--ground: does nothing without --heights"):
        cli.parse("ingest scenes", ["--images", "a.tif", "--ground", "x.tif", "--out", "chips"])
