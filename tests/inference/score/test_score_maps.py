"""Maps against height rasters, from real GeoTIFFs to scores.

- A map's pixel has the area-weighted mean of the heights on it, where they cover half of it: brute force in
  NumPy, on finer, coarser and shifted grids; in another CRS what a dense grid of points says.
- The same figures, bit for bit, for any block, order of files, and number of pixels read at a time.
- Scale, offset, nodata and unit of a raster are respected; what cannot be used is named in one line.
"""

import json
import math
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from in_process import treeline
from numpy.typing import NDArray
from numpy_scores import numpy_sums
from rasterio import Affine
from rasterio.transform import from_origin
from rasterio.warp import transform
from servers import S3Server, environment_of

import shards.raster.on_grid
from cluster.cli import run
from inference.config import MapScoreConfig
from inference.maps.height_map import height_map
from inference.maps.map_file import HEIGHT, SPREAD, MapBand, map_writer
from inference.mosaic.combine_heights import BANDS
from inference.score.score_maps import ALL_MAPS, score_maps
from inference.tiling.windows import Block, Span
from shards.errors import InputError
from shards.format.height_classes import EDGES, NAMES
from shards.raster.finding import OnMismatch
from shards.raster.grid import Grid
from shards.raster.on_grid import area_average
from shards.storage.objects import publish
from trainer.config import EvaluateConfig
from trainer.score.evaluation import Evaluation, evaluation_picture
from trainer.score.metrics import ExactScore

CRS, UTM, DEGREES = "EPSG:3338", "EPSG:32605", "EPSG:4326"
LEFT, TOP = 200_000.0, 1_700_000.0
SHAPE = (61, 83)
"""Rows and columns of a map that no block fits into."""
NODATA = -9999
MAP = {"nodata": NODATA, "scale": 0.1, "unit": "m"}

Heights = NDArray[np.float64]


def write(
    path: Path,
    stored_HW: NDArray[Any],
    grid: Affine,
    crs: str | None = CRS,
    nodata: float | None = None,
    scale: float = 1.0,
    offset: float = 0.0,
    unit: str = "",
) -> str:
    """A GeoTIFF of one band; returns its path."""
    height, width = stored_HW.shape
    shape = {"height": height, "width": width, "count": 1, "dtype": stored_HW.dtype}
    with rasterio.open(path, "w", "GTiff", crs=crs, transform=grid, nodata=nodata, **shape) as raster:
        raster.write(stored_HW, 1)
        raster.scales, raster.offsets, raster.units = (scale,), (offset,), (unit,)
    return str(path)


def north_up(pixel: float, left: float = 0.0, top: float = 0.0) -> Affine:
    """A grid whose corner is so many metres east and south of the map's."""
    return from_origin(LEFT + left, TOP - top, pixel, pixel)


MAP_GRID = north_up(2.0)


def map_of(path: Path, seed: int = 0, shape: tuple[int, int] = SHAPE, grid: Affine = MAP_GRID) -> str:
    """A map with heights of 0 to 20 m and 5 % of nodata."""
    generator = np.random.default_rng(seed)
    decimetres_HW = generator.integers(0, 200, shape).astype(np.int16)
    decimetres_HW[generator.random(shape) < 0.05] = NODATA
    return write(path, decimetres_HW, grid, **MAP)


def random_heights(shape: tuple[int, int], seed: int = 1, missing: float = 0.1) -> NDArray[np.float32]:
    """Metres, skewed as heights are, some slightly below 0; NODATA where there is none."""
    generator = np.random.default_rng(seed)
    height_HW = (generator.exponential(3, shape) - 0.5).astype(np.float32)
    height_HW[generator.random(shape) < missing] = NODATA
    return height_HW


def score(
    maps: Any, heights: Any, block: int = 512, ground: Any = (), on_mismatch: OnMismatch = "ignore"
) -> Evaluation:
    """The scores; most heights here are random, as no plants are."""
    given = [(value,) if isinstance(value, str) else tuple(value) for value in (maps, heights, ground)]
    return score_maps(MapScoreConfig(*given, on_mismatch=on_mismatch), block)


def stored(path: str) -> NDArray[Any]:
    with rasterio.open(path) as raster:
        return np.asarray(raster.read(1))


def bits(evaluation: Evaluation) -> list[Any]:
    return [
        (name, found.sums_KS.tobytes(), found.density_PM.tobytes())
        for name, found in evaluation.scores.items()
    ]


# --- by brute force ---


def overlaps(first: Heights, second: Heights) -> Heights:
    """(n, m) metres that n and m intervals, given by n + 1 and m + 1 edges, have in common."""
    low = np.maximum(np.minimum(first[:-1], first[1:])[:, None], np.minimum(second[:-1], second[1:]))
    high = np.minimum(np.maximum(first[:-1], first[1:])[:, None], np.maximum(second[:-1], second[1:]))
    return np.maximum(high - low, 0)


def means_on_map(values_HW: Heights, grid: Affine) -> Heights:
    """Metres on the map's pixels from values (NaN: none) on an upright grid of the same CRS."""
    map_rows, map_columns = (TOP - 2.0 * np.arange(SHAPE[0] + 1)), (LEFT + 2.0 * np.arange(SHAPE[1] + 1))
    rows = grid.f + grid.e * np.arange(values_HW.shape[0] + 1)
    columns = grid.c + grid.a * np.arange(values_HW.shape[1] + 1)
    in_rows, in_columns = overlaps(map_rows, rows), overlaps(map_columns, columns)
    known_HW = ~np.isnan(values_HW)
    total_HW = in_rows @ np.where(known_HW, values_HW, 0) @ in_columns.T
    covered_HW = in_rows @ known_HW @ in_columns.T
    enough_HW = covered_HW >= 2.0 - 1e-6  # half of 4 square metres
    return np.where(enough_HW, total_HW / np.maximum(covered_HW, 1e-9), np.nan)


def known_values(stored_HW: NDArray[Any]) -> Heights:
    return np.where(stored_HW == NODATA, np.nan, stored_HW.astype(np.float64))


def assert_scores(evaluation: Evaluation, name: str, decimetres_HW: NDArray[Any], height_HW: Heights) -> None:
    """The score `name` is NumPy's of the map's decimetres against heights in metres, NaN where unknown."""
    known_HW = (decimetres_HW != NODATA) & ~np.isnan(height_HW)
    predicted, measured = decimetres_HW[known_HW] / 10, np.rint(height_HW[known_HW] * 1000) / 1000
    found = evaluation.scores[name]
    classes = np.digitize(measured, EDGES[1:-1])
    for metrics, chosen in [
        (found.all, np.ones(len(measured), bool)),
        *((found.by_class[label], classes == number) for number, label in enumerate(NAMES)),
    ]:
        error, truth = (predicted - measured)[chosen], measured[chosen]
        assert metrics.count == len(error)
        if len(error) > 1:
            spread = ((truth - truth.mean()) ** 2).sum()
            expected = [np.abs(error).mean(), math.sqrt((error**2).mean()), error.mean()]
            # One height in a thousand rounds to another millimetre where areas are off by a millionth.
            assert [metrics.mae, metrics.rmse, metrics.bias] == pytest.approx(expected, rel=1e-6)
            if spread > 0.01:
                assert metrics.r2 == pytest.approx(1 - (error**2).sum() / spread, rel=1e-4)
    assert found.density_PM.sum() == found.all.count


@pytest.mark.parametrize(
    ("pixel", "left", "top"),
    [
        (2.0, 0.0, 0.0),  # the map's own grid
        (2.0, -30.0, 44.0),  # whole pixels away, beyond one end and short of the other
        (2.0, 0.7, -1.3),
        (1.0, 0.0, 0.0),
        (0.5, 10.0, 6.0),
        (0.7, -3.2, 5.9),
        (0.3, 20.1, 20.2),
        (5.0, -10.0, -10.0),
        (5.0, 3.1, 2.4),
        (30.0, -7.0, -11.0),
    ],
)
def test_a_pixel_has_the_mean_of_the_heights_on_its_area(
    tmp_path: Path, pixel: float, left: float, top: float
) -> None:
    chm = map_of(tmp_path / "a.chm.tif")
    shape = tuple(int(side * 2 / pixel) + 3 for side in SHAPE)
    height_HW, grid = random_heights((shape[0], shape[1])), north_up(pixel, left, top)
    evaluation = score(chm, write(tmp_path / "lidar.tif", height_HW, grid, nodata=NODATA))
    mean_HW = means_on_map(known_values(height_HW), grid)
    assert np.isfinite(mean_HW).mean() > 0.2
    assert_scores(evaluation, ALL_MAPS, stored(chm), mean_HW)
    assert_scores(evaluation, chm, stored(chm), mean_HW)


def test_on_the_maps_own_grid_heights_are_taken_as_they_are(tmp_path: Path) -> None:
    chm = map_of(tmp_path / "a.chm.tif")
    exact = score(chm, write(tmp_path / "same.tif", stored(chm), MAP_GRID, nodata=NODATA, scale=0.1))
    assert exact.first.all.rmse == 0
    assert exact.first.all.count == (stored(chm) != NODATA).sum()


def test_maps_are_what_prediction_writes(tmp_path: Path) -> None:
    path, decimetres_HW = str(tmp_path / "scene.chm.tif"), stored(map_of(tmp_path / "a.chm.tif"))
    grid = Grid(CRS, MAP_GRID, *SHAPE)
    with map_writer(path, grid, (HEIGHT, SPREAD), {}) as write_block:
        write_block(Block(Span(0, SHAPE[0]), Span(0, SHAPE[1])), np.stack([decimetres_HW, 0 * decimetres_HW]))
    heights = write(tmp_path / "same.tif", decimetres_HW / np.float64(10), MAP_GRID, nodata=NODATA / 10)
    found = score(path, heights).first.all
    assert (found.count, found.rmse) == ((decimetres_HW != NODATA).sum(), 0)


@pytest.mark.parametrize(
    "turn",
    [
        Affine.scale(1, -1) @ Affine.translation(0, -SHAPE[0]),  # south up
        Affine.rotation(90) @ Affine.translation(0, -SHAPE[1]),  # rows from west to east
    ],
    ids=["south up", "quarter turn"],
)
def test_a_raster_may_be_stored_the_other_way_round(tmp_path: Path, turn: Affine) -> None:
    chm = map_of(tmp_path / "a.chm.tif")
    height_HW, grid = random_heights(SHAPE), MAP_GRID @ turn
    column, row = (~turn) @ (0.5, 0.5)
    turned_HW = height_HW[::-1] if turn.a else np.rot90(height_HW, 1 if row > 1 else -1)
    assert 0 <= row < turned_HW.shape[0]
    assert 0 <= column < turned_HW.shape[1]
    plain = score(chm, write(tmp_path / "lidar.tif", height_HW, MAP_GRID, nodata=NODATA))
    other = score(chm, write(tmp_path / "turned.tif", turned_HW, grid, nodata=NODATA))
    assert [found[1:] for found in bits(plain)] == [found[1:] for found in bits(other)]


def test_half_of_a_pixel_must_be_covered(tmp_path: Path) -> None:
    """A raster of one row of values that ends in the map's pixels: of the last column it covers a share."""
    chm = write(tmp_path / "a.chm.tif", np.full((1, 4), 10, np.int16), MAP_GRID, **MAP)
    for metres, columns in [(7.0, 4), (6.9, 3), (6.0, 3), (5.5, 3), (4.9, 2)]:
        grid = from_origin(LEFT, TOP, metres, 2.0)
        heights = write(tmp_path / f"{metres}.tif", np.ones((1, 1), np.float32), grid)
        assert score(chm, heights).first.all.count == columns, metres


def test_the_ground_is_subtracted_and_where_there_is_none_there_is_no_height(tmp_path: Path) -> None:
    chm = map_of(tmp_path / "a.chm.tif")
    height_HW = np.abs(random_heights((122, 166), missing=0))
    ground_HW = (800 + 50 * np.random.default_rng(5).random((30, 20))).astype(np.float32)
    ground_HW[3] = NODATA
    surface_HW = (height_HW + 800).astype(np.float32)
    fine, coarse = north_up(1.0), north_up(5.0)
    surface = write(tmp_path / "dsm.tif", surface_HW, fine, nodata=NODATA)
    ground = write(tmp_path / "dtm.tif", ground_HW, coarse, nodata=NODATA)
    expected_HW = means_on_map(known_values(surface_HW), fine) - means_on_map(known_values(ground_HW), coarse)
    evaluation = score(chm, surface, ground=ground)
    assert 0 < np.isnan(expected_HW).sum() < expected_HW.size / 2
    assert_scores(evaluation, ALL_MAPS, stored(chm), expected_HW)
    assert evaluation.about["ground"] == [ground]


# --- several files ---


def test_the_first_raster_by_name_counts_where_several_have_a_value(tmp_path: Path) -> None:
    chm = map_of(tmp_path / "a.chm.tif")
    pixels = {"b": (2.0, 0.0), "a": (1.0, 40.0), "c": (5.0, -20.0)}
    means, paths = {}, {}
    for name, (pixel, left) in pixels.items():
        (tmp_path / f"folder_{ord('z') - ord(name)}").mkdir()
        height_HW, grid = random_heights((60, 70), ord(name), 0.3), north_up(pixel, left)
        path = tmp_path / f"folder_{ord('z') - ord(name)}" / f"{name}.tif"
        paths[name] = write(path, height_HW, grid, nodata=NODATA)
        means[name] = means_on_map(known_values(height_HW), grid)
    expected_HW = means["a"]
    for name in "bc":
        expected_HW = np.where(np.isnan(expected_HW), means[name], expected_HW)
    evaluation = score(chm, tuple(paths.values()))
    assert_scores(evaluation, ALL_MAPS, stored(chm), expected_HW)
    assert [Path(path).stem for path in evaluation.about["heights"]] == ["a", "b", "c"]


def test_a_pixel_that_is_in_two_maps_counts_in_each(tmp_path: Path) -> None:
    first = map_of(tmp_path / "a.chm.tif")
    second = map_of(tmp_path / "b.chm.tif", 7, grid=north_up(2.0, 40.0, 20.0))
    beside = map_of(tmp_path / "c.chm.tif", 8, grid=north_up(2.0, 5000.0))
    height_HW = random_heights((200, 200))
    heights = write(tmp_path / "lidar.tif", height_HW, north_up(1.0), nodata=NODATA)
    evaluation = score((beside, second, first), heights)
    assert list(evaluation.scores) == [ALL_MAPS, first, second, beside]
    for path in (first, second):
        alone = score(path, heights)
        assert bits(alone)[1] == bits(evaluation)[[first, second].index(path) + 1]
        assert bits(alone)[0][1:] == bits(alone)[1][1:]
    assert evaluation.scores[beside].all.count == 0
    total = sum(evaluation.scores[path].all.count for path in (first, second))
    assert evaluation.first.all.count == total > 0
    lines = evaluation.table().splitlines()
    assert lines[0].split() == ["pixels", "MAE", "m", "RMSE", "m", "bias", "m", "R2"]
    assert [line.split("  ")[0] for line in lines[1:5]] == [ALL_MAPS, first, second, beside]
    assert {line.split("  ")[1] for line in lines[5:]} <= set(NAMES)


@pytest.fixture(scope="module")
def far_and_wide(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Two maps and four rasters, with ground, on grids and in CRSs of their own; all read-only."""
    folder = tmp_path_factory.mktemp("far_and_wide")
    maps = [map_of(folder / "m1.tif"), map_of(folder / "m2.tif", 3, grid=north_up(2.0, 33.3, 21.7))]
    heights = [
        write(folder / "h1.tif", random_heights((130, 60), 1) + 300, north_up(0.7, -5), nodata=NODATA + 300),
        write(folder / "h2.tif", random_heights((20, 60), 2) + 300, north_up(5.0, 33), nodata=NODATA + 300),
    ]
    ground = [write(folder / "g1.tif", np.full((99, 99), 299.5, np.float32), north_up(3.1, -20, -10))]
    for crs, pixel, name, base in (
        (UTM, 1.3, "h3", 300.0),
        (DEGREES, 2e-5, "h0", 300.0),
        (UTM, 9.0, "g0", 299),
    ):
        (x,), (y,) = transform(CRS, crs, [LEFT - 30], [TOP + 40])
        height_HW = random_heights((90, 110), ord(name[1]), 0.2)
        height_HW = np.where(height_HW == NODATA, NODATA, height_HW + base).astype(np.float32)
        path = write(folder / f"{name}.tif", height_HW, from_origin(x, y, pixel, pixel), crs, nodata=NODATA)
        (ground if name[0] == "g" else heights).append(path)
    return {"maps": maps, "heights": heights, "ground": ground}


@pytest.mark.parametrize("block", [17, 32, 100])
def test_no_figure_depends_on_the_blocks(far_and_wide: dict[str, list[str]], block: int) -> None:
    whole = score(**far_and_wide)
    assert whole.first.all.count > 1000
    assert bits(score(**far_and_wide, block=block)) == bits(whole)


@pytest.mark.slow
def test_no_figure_depends_on_the_order_of_the_files(far_and_wide: dict[str, list[str]]) -> None:
    whole = score(**far_and_wide)
    for heights in list(permutations(far_and_wide["heights"]))[::5]:
        twice = [*far_and_wide["maps"][::-1], far_and_wide["maps"][0]]
        other = score(twice, heights, ground=far_and_wide["ground"][::-1])
        assert bits(other) == bits(whole)
        assert other.table() == whole.table()
        assert other.about == whole.about


def test_a_raster_is_read_by_pieces_of_bounded_size(
    far_and_wide: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, sizes = score(**far_and_wide), []
    read_window = shards.raster.on_grid.read_window

    def counting(raster: Any, **options: Any) -> Any:
        sizes.append(options["window"].width * options["window"].height)
        return read_window(raster, **options)

    monkeypatch.setattr(shards.raster.on_grid, "read_window", counting)
    monkeypatch.setattr(shards.raster.on_grid, "READ_PIXELS", 500)
    assert bits(score(**far_and_wide)) == bits(whole)
    assert 0 < max(sizes) <= 500
    assert len(sizes) > 20


# --- other CRSs ---


def smooth(x: Heights, y: Heights) -> Heights:
    """Metres at places of the map's CRS: waves of 60 and 80 m."""
    return 8 + 3 * np.sin((x - LEFT) * np.pi / 30) + 2 * np.cos((y - TOP) * np.pi / 40)


@pytest.mark.parametrize(("crs", "pixel"), [(UTM, 0.5), (UTM, 2.0), (DEGREES, 1e-5), ("EPSG:3413", 1.0)])
def test_heights_in_another_crs_lie_on_the_same_ground(tmp_path: Path, crs: str, pixel: float) -> None:
    """The map says what the ground is like: errors are those of area and place alone. EPSG:3413 is turned."""
    column_HW, row_HW = np.meshgrid(np.arange(SHAPE[1]) + 0.5, np.arange(SHAPE[0]) + 0.5)
    truth_HW = smooth(LEFT + 2 * column_HW, TOP - 2 * row_HW)
    chm = write(tmp_path / "a.chm.tif", np.rint(truth_HW * 10).astype(np.int16), MAP_GRID, **MAP)
    corners = [(LEFT + dx, TOP - dy) for dx in (-9, 175) for dy in (-9, 131)]
    xs, ys = (np.array(values) for values in transform(CRS, crs, *np.transpose(corners)))
    shape = math.ceil(np.ptp(ys) / pixel), math.ceil(np.ptp(xs) / pixel)
    grid = from_origin(xs.min(), ys.max(), pixel, pixel)
    columns, rows = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    x, y = transform(crs, CRS, (grid.c + pixel * columns).ravel(), (grid.f - pixel * rows).ravel())
    height_HW = smooth(np.array(x), np.array(y)).reshape(shape).astype(np.float32)
    scored = score(chm, write(tmp_path / "lidar.tif", height_HW, grid, crs)).first.all
    assert scored.count == truth_HW.size
    # Decimetres round by 0.03 m (standard deviation). Heights of a pixel away differ by 0.4 m.
    assert scored.rmse < 0.06
    assert abs(scored.bias) < 0.01


@pytest.mark.parametrize("left", [179.999, -180.001])
def test_the_antimeridian_is_no_edge(tmp_path: Path, left: float) -> None:
    """A map and a raster over it, whose degrees go on beyond 180 or begin below -180."""
    (x,), (y,) = transform(DEGREES, "EPSG:32601", [180.0], [68.0])
    grid = from_origin(x - 40, y + 40, 2, 2)
    chm = write(tmp_path / "a.chm.tif", np.full((40, 40), 70, np.int16), grid, "EPSG:32601", **MAP)
    degrees = from_origin(left, 68.001, 1e-5, 1e-5)
    heights = write(tmp_path / "lidar.tif", np.full((200, 200), 7, np.float32), degrees, DEGREES)
    scored = score(chm, heights, block=16).first.all
    assert (scored.count, scored.rmse) == (1600, 0)


# --- what rasters say of themselves ---


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("int16", {"scale": 0.1, "nodata": -32768, "unit": "m"}),
        ("uint16", {"scale": 0.01, "offset": -5.0, "nodata": 0, "unit": "metre"}),
        ("float32", {"nodata": math.nan, "unit": "Meters"}),
        ("float64", {"nodata": -3.4e38}),
        ("float32", {"nodata": None}),  # and has NODATA nevertheless
    ],
)
def test_scale_offset_and_nodata_are_respected(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    chm, height_HW = (
        map_of(tmp_path / "a.chm.tif"),
        np.round(random_heights(SHAPE, missing=0).astype(np.float64), 1),
    )
    scale, offset = options.get("scale", 1.0), options.get("offset", 0.0)
    stored_HW = (height_HW - offset) / scale
    stored_HW = (np.rint(stored_HW) if dtype.endswith("16") else stored_HW).astype(dtype)
    missing_HW = np.random.default_rng(3).random(SHAPE) < 0.2
    stored_HW[missing_HW] = NODATA if options["nodata"] is None else options["nodata"]
    evaluation = score(chm, write(tmp_path / "lidar.tif", stored_HW, MAP_GRID, **options))
    assert_scores(evaluation, ALL_MAPS, stored(chm), np.where(missing_HW, np.nan, height_HW))


@pytest.mark.parametrize(
    ("metres", "stated", "said"),
    [
        (0.3048, {"unit": "ft"}, ()),
        (1200 / 3937, {"unit": "US survey foot"}, ()),
        (1200 / 3937, {"crs": f"{CRS}+6360"}, ()),
        (0.01, {"unit": "cm"}, ()),
        (0.1, {}, ("--height-unit", "dm")),
    ],
)
def test_heights_in_other_units_are_scored_in_metres(
    tmp_path: Path, metres: float, stated: dict[str, Any], said: tuple[str, ...]
) -> None:
    height_HW = random_heights(SHAPE, missing=0).astype(np.float64)
    map_of(tmp_path / "a.chm.tif")
    write(tmp_path / "metres.tif", height_HW, MAP_GRID)
    write(tmp_path / "other.tif", height_HW / metres, MAP_GRID, **stated)
    command = "evaluate", "--maps", "a.chm.tif", "--heights"
    expected, found = (
        treeline(*command, *options, folder=tmp_path) for options in (("metres.tif",), ("other.tif", *said))
    )
    assert (found.returncode, found.stdout) == (0, expected.stdout)
    assert "converted to metres" in found.stderr


def test_what_is_not_heights_is_not_scored_unless_meant_so(tmp_path: Path) -> None:
    chm = map_of(tmp_path / "a.chm.tif")
    elevation_HW = (200 + random_heights(SHAPE, missing=0)).astype(np.float32)
    surface = write(tmp_path / "surface.tif", elevation_HW, MAP_GRID)
    with pytest.raises(InputError, match=r"a\.chm\.tif: .* is this a surface model\? .*--ground"):
        score(chm, surface, on_mismatch="refuse")
    ground = write(tmp_path / "ground.tif", np.full(SHAPE, 200, np.float32), MAP_GRID)
    with pytest.raises(InputError, match=r"are --heights and --ground exchanged"):
        score(chm, ground, ground=surface, on_mismatch="refuse")
    assert score(chm, surface, on_mismatch="note").first.all.count
    assert score(chm, surface, ground=ground, on_mismatch="refuse").first.all.count
    picture = tmp_path / "picture.tif"
    with rasterio.open(surface) as raster:
        profile = raster.profile | {"count": 3}
    with rasterio.open(picture, "w", **profile) as raster:
        raster.write(np.stack([elevation_HW] * 3))
    with pytest.raises(InputError, match=r"picture\.tif: has 3 bands, and heights have one.*--height-band"):
        score(chm, str(picture))


def test_south_up_maps_and_heights_have_the_scores_of_north_up_ones(tmp_path: Path) -> None:
    """Also where nothing overlaps: the line of places names the lower latitude first."""
    chm = map_of(tmp_path / "a.chm.tif")
    heights = write(tmp_path / "lidar.tif", random_heights((122, 166)), north_up(1.0), nodata=NODATA)
    expected = bits(score(chm, heights))
    flipped = []
    for number, path in enumerate((chm, heights)):
        with rasterio.open(path) as raster:
            grid = raster.transform @ Affine.translation(0, raster.height) @ Affine.scale(1, -1)
            options = {"nodata": raster.nodata, "scale": raster.scales[0], "unit": raster.units[0] or ""}
            flipped.append(write(tmp_path / f"{number}.chm.tif", raster.read(1)[::-1], grid, **options))
    for pair in ((chm, flipped[1]), (flipped[0], heights), tuple(flipped)):
        found = bits(score(*pair))
        assert [figures for _, *figures in found] == [figures for _, *figures in expected]
    far = write(tmp_path / "far.tif", np.ones(SHAPE, np.float32), north_up(2.0, 50_000, -90_000))
    with pytest.raises(InputError, match=r"maps are at longitude .*, latitude 65\.\d+ to 65\.\d+, rasters"):
        score(flipped[0], far)


# --- sums ---


def test_sums_of_millimetres_are_the_score_and_have_no_largest() -> None:
    generator = np.random.default_rng(0)
    predicted, measured = (generator.integers(-1000, 30_000, 5000) for _ in range(2))
    exact = ExactScore.empty()
    for part in np.split(np.arange(5000), [100, 3000]):
        exact.add(predicted[part], measured[part])
    sums_KS, density_PM = numpy_sums(predicted / 1000, measured / 1000)
    np.testing.assert_allclose(exact.in_metres().sums_KS, sums_KS, rtol=1e-12)
    assert np.array_equal(exact.density_PM, density_PM)
    far = ExactScore.empty()
    for _ in range(3):
        far.add(np.full(2**18, 4_900_000), np.zeros(2**18, int))
    assert far.sums_KS[0, 3] == 3 * 2**18 * 4_900_000**2 > 2**63


def test_a_box_without_area_or_beyond_the_values_has_no_mean() -> None:
    low, high = np.array([[1.0, -3, 0], [1.0, 0, 5]]), np.array([[1.0, -1, 9], [1.0, 2, 9]])
    assert np.isnan(area_average(np.ones((4, 4)), low, high)).all()


# --- the command ---


def test_a_map_that_is_named_in_several_ways_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heights = write(tmp_path / "lidar.tif", random_heights((200, 200)), north_up(1.0), nodata=NODATA)
    monkeypatch.chdir(tmp_path)
    once = score((map_of(tmp_path / "a.chm.tif"),), heights)
    several = score(("a.chm.tif", str(tmp_path / "*.chm.tif"), "./a.chm.tif"), heights)
    assert [figures for _, *figures in bits(several)] == [figures for _, *figures in bits(once)]
    assert len(several.scores) == 2, "of all maps, and of the one"


def test_the_command_prints_and_writes_the_scores(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    maps = [map_of(tmp_path / "maps" / f"{n}.chm.tif", n, grid=north_up(2.0, 40.0 * n)) for n in range(2)]
    write(tmp_path / "lidar.tif", random_heights((122, 200)), north_up(1.0), nodata=NODATA)
    options = ("--maps", "maps/*.tif", "--heights", "lidar.tif", "--out", "scores")
    done = treeline("evaluate", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = score(maps, str(tmp_path / "lidar.tif"))
    found = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert [found["scores"][name]["all"] for name in found["scores"]] == [
        score.all.to_json() for score in expected.scores.values()
    ]
    assert found["heights"] == ["lidar.tif"]
    assert found["maps"] == ["maps/0.chm.tif", "maps/1.chm.tif"], "as the pattern is given: relative"
    picture = (tmp_path / "scores" / "evaluation.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows[2:4]] == found["maps"]
    assert str(tmp_path) not in done.stdout + done.stderr
    absolute = treeline(
        "evaluate", "--maps", str(tmp_path / "maps/0*.tif"), "--heights", "lidar.tif", folder=tmp_path
    )
    assert absolute.stdout.splitlines()[2].split()[0] == maps[0]
    assert "score 1 map:" in absolute.stderr
    assert rows[1][2:] == [f"{expected.first.all.count:,}", *done.stdout.splitlines()[1].split()[3:]]
    assert float(rows[1][4]) == round(expected.first.all.rmse, 2)


@pytest.mark.slow
def test_the_picture_of_many_maps_shows_all_of_them_as_one(tmp_path: Path) -> None:
    paths = [map_of(tmp_path / f"{number}.tif", shape=(5, 5)) for number in range(4)]
    heights = write(tmp_path / "lidar.tif", random_heights((5, 5)), MAP_GRID, nodata=NODATA)
    assert evaluation_picture(score(paths, heights)).startswith(b"\x89PNG")


PAIRS = "give --checkpoint and --data to score a regressor on chips, or --maps and --heights"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "none of them"),
        ({"maps": ("a",)}, "--maps"),
        ({"heights": ("a",)}, "--heights"),
        ({"maps": ("a",), "ground": ("a",)}, "--ground --maps"),
        ({"checkpoint": "a"}, "--checkpoint"),
        ({"checkpoint": "a", "data": "b", "maps": ("a",)}, "--checkpoint --data --maps"),
        ({"checkpoint": "a", "data": "b", "ground": ("a",)}, "--checkpoint --data --ground"),
        ({"maps": ("a",), "heights": ("b",), "batch_size": 3}, "--batch-size --heights --maps"),
        ({"maps": ("a",), "heights": ("b",), "split": "all"}, "--heights --maps --split"),
    ],
)
def test_options_of_one_way_only(given: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=PAIRS) as refused:
        EvaluateConfig(**given).scores_maps  # noqa: B018
    assert str(refused.value).endswith(f"given: {named}")


@pytest.mark.parametrize("out", ["", "scores"])
def test_options_that_go_together(out: str) -> None:
    assert EvaluateConfig(maps=("a",), heights=("b",), ground=("c",), out=out).scores_maps
    assert not EvaluateConfig("a", "b", batch_size=3, split="all", out=out).scores_maps


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    map_of(tmp_path / "a.tif", shape=(5, 5))
    done = treeline("evaluate", "--maps", "a.tif", "--ground", "a.tif", "--out", "scores", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"treeline: {PAIRS}")
    assert not (tmp_path / "scores").exists()


def test_a_pattern_that_matches_nothing_is_named(tmp_path: Path) -> None:
    chm = map_of(tmp_path / "a.tif", shape=(5, 5))
    with pytest.raises(InputError, match=r"none\*\.tif: no file matches"):
        score(chm, str(tmp_path / "none*.tif"))


# --- what cannot be used ---


def spoilt(path: Path, kind: str) -> str:
    ones_HW = np.ones(SHAPE, np.float32)
    makers: dict[str, Any] = {
        "no CRS": lambda: write(path, ones_HW, MAP_GRID, None),
        "no length": lambda: write(path, ones_HW, MAP_GRID, unit="dB"),
        "elevations": lambda: write(path, 2500 * ones_HW, MAP_GRID),
        "no data that is not declared": lambda: write(path, -32767 * ones_HW, MAP_GRID),
        "elsewhere": lambda: write(path, ones_HW, north_up(2.0, 50_000, -90_000)),
        "empty": lambda: write(path, NODATA * ones_HW, MAP_GRID, nodata=NODATA),
        "text": lambda: str(path.write_text("no raster") and path),
    }
    return str(makers[kind]())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no CRS", r"spoilt\.tif: has no CRS"),
        ("no length", r"spoilt\.tif: states its values in 'dB', which is no length; .*--height-unit"),
        ("elevations", r"a\.chm\.tif: at row 0, column \d+ the height rasters say 2500 m; .*--ground"),
        ("no data that is not declared", r"-32767 m; .*a_nodata"),
        (
            "elsewhere",
            r"spoilt\.tif; maps are at longitude -149\.\d+ to -149\.\d+, latitude 65\.\d+ to 65\.\d+, "
            r"rasters at longitude -148\.\d+ to -148\.\d+, latitude 65\.\d+ to 65\.\d+",
        ),
        ("empty", r"no pixel has a height in .*spoilt\.tif"),
        ("text", r"spoilt\.tif: cannot be read as a raster"),
    ],
)
@pytest.mark.parametrize("option", ["heights", "ground"])
def test_a_raster_that_cannot_be_used_is_named(tmp_path: Path, kind: str, message: str, option: str) -> None:
    chm, path = map_of(tmp_path / "a.chm.tif"), spoilt(tmp_path / "spoilt.tif", kind)
    if option == "ground":
        ones = write(tmp_path / "ones.tif", np.ones(SHAPE, np.float32), MAP_GRID)
        options: dict[str, Any] = {"heights": ones, "ground": path}
        message = message.replace("2500", "-2499").replace("-32767", "32768")
        if kind == "elsewhere":
            message = r"maps are at .*, rasters at "
    else:
        options = {"heights": path}
    with pytest.raises(InputError, match=message) as refused:
        score(chm, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"scale": 1.0}, "int16"),
        ({"nodata": -32768}, "int16"),
        ({"unit": "ft"}, "int16"),
        ({}, "float32"),
        ({"crs": None}, "int16"),
    ],
)
def test_what_is_no_map_is_named(tmp_path: Path, changes: dict[str, Any], dtype: str) -> None:
    ones_HW = np.ones(SHAPE, dtype)
    other = write(tmp_path / "other.tif", ones_HW, MAP_GRID, **{**MAP, **changes})
    heights = write(tmp_path / "lidar.tif", ones_HW, MAP_GRID)
    with pytest.raises(InputError, match=r"other\.tif: (is no canopy height map|has no CRS)"):
        score(other, heights)


# --- what a height map is ---

NAMED = {"name": HEIGHT.name, "dtype": "int16", "nodata": NODATA, "scale": 0.1, "offset": 0.0, "unit": "m"}
UNNAMED = {**NAMED, "name": ""}
SPREAD_STEPS = 7


def raster_of(path: Path, *others: MapBand, **said: Any) -> str:
    """Heights of 0 to 20 m whose header says `said`, with other bands after them; returns its path."""
    metres_HW = np.random.default_rng(3).integers(0, 200, (9, 9)) / 10
    step = said["scale"] or 1
    shape = {"height": 9, "width": 9, "count": 1 + len(others), "dtype": said["dtype"]}
    with rasterio.open(
        path, "w", "GTiff", crs=CRS, transform=MAP_GRID, nodata=said["nodata"], **shape
    ) as raster:
        raster.write(np.rint((metres_HW - said["offset"]) / step).astype(said["dtype"]), 1)
        for number in range(2, 2 + len(others)):
            raster.write(np.full((9, 9), SPREAD_STEPS, said["dtype"]), number)
        raster.scales = (said["scale"], *(band.scale for band in others))
        raster.offsets = (said["offset"],) + (0.0,) * len(others)
        raster.units = (said["unit"], *(band.unit for band in others))
        raster.descriptions = (said["name"], *(band.name for band in others))
    return str(path)


def command(*arguments: str) -> str:
    """What a command has to say against its arguments; "" if nothing."""
    try:
        run(list(arguments))
    except InputError as refused:
        return str(refused)
    return ""


@pytest.mark.parametrize(
    ("said", "others", "is_map"),
    [
        (NAMED, (), True),  # of predict
        (NAMED, (SPREAD,), True),  # of predict --spread
        (NAMED, BANDS[1:], True),  # of mosaic
        (UNNAMED, (), True),  # through a program that loses names
        (UNNAMED, (MapBand("", "m", 0.01),), True),
        (NAMED | {"scale": 0.01}, (), True),
        (NAMED | {"scale": 1.0}, (), True),
        (NAMED | {"unit": "Metre"}, (), True),
        (NAMED | {"unit": ""}, (), True),
        (NAMED, (MapBand("other"),), True),
        (UNNAMED | {"scale": 0.01}, (), False),
        (UNNAMED | {"scale": 1.0}, (), False),
        (NAMED | {"name": "elevation"}, (), False),
        (NAMED | {"name": SPREAD.name}, (), False),
        (NAMED | {"scale": -0.1}, (), False),
        (NAMED | {"offset": 5.0}, (), False),
        (NAMED | {"unit": "ft"}, (), False),
        (NAMED | {"nodata": None}, (), False),
        (NAMED | {"nodata": 0}, (), False),
        (NAMED | {"dtype": "float32"}, (), False),
        (NAMED | {"dtype": "int32"}, (), False),
    ],
)
def test_all_commands_agree_on_what_a_height_map_is(
    tmp_path: Path, said: dict[str, Any], others: tuple[MapBand, ...], is_map: bool
) -> None:
    path = raster_of(tmp_path / "a.tif", *others, **said)
    metres = raster_of(tmp_path / "lidar.tif", **NAMED)
    refused = [
        command("evaluate", "--maps", path, "--heights", metres, "--out", str(tmp_path / "scores")),
        command("mosaic", path, "--out", str(tmp_path / "mosaic.tif")),
    ]
    if not is_map:
        assert all(text.startswith(f"{path}: is no canopy height map") for text in refused), refused
        return
    assert refused == ["", ""]
    found = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["scores"][ALL_MAPS]["all"]
    in_metres = 1.0 if said["scale"] == 1.0 else 0.1
    assert found["count"] == 81
    assert found["mae"] <= in_metres / 2
    ours_HW, theirs_HW = stored(str(tmp_path / "mosaic.tif")), stored(metres)
    assert np.abs(ours_HW - theirs_HW).max() <= 10 * in_metres / 2


@pytest.mark.parametrize(
    ("second", "step"),
    [(SPREAD, 1.0), (MapBand("", "m", 0.01), 1.0), (MapBand(SPREAD.name, "m", 0.1), 10.0), (BANDS[1], None)],
)
def test_a_second_band_is_the_spread_or_does_not_count(
    tmp_path: Path, second: MapBand, step: float | None
) -> None:
    assert height_map(raster_of(tmp_path / "a.tif", second, **NAMED)).spread_step == step


def test_a_mosaic_is_a_map_that_can_be_scored_and_put_in_a_mosaic(tmp_path: Path, capsys: Any) -> None:
    chm, first, second = map_of(tmp_path / "a.chm.tif"), tmp_path / "first.tif", tmp_path / "second.tif"
    heights = write(tmp_path / "lidar.tif", random_heights(SHAPE), MAP_GRID, nodata=NODATA)
    assert command("mosaic", chm, "--out", str(first)) == ""
    assert "mosaics" not in capsys.readouterr().err
    assert command("mosaic", str(first), "--out", str(second)) == ""
    assert "1 of 1 maps are mosaics (first " in capsys.readouterr().err
    of_map, of_mosaic, of_both = (bits(score(path, heights))[0] for path in (chm, str(first), str(second)))
    assert of_map == of_mosaic == of_both


@pytest.mark.parametrize("victim", ["map", "heights"])
def test_a_file_that_ends_early_is_named(tmp_path: Path, victim: str) -> None:
    paths = {
        "map": Path(map_of(tmp_path / "map.tif")),
        "heights": Path(write(tmp_path / "heights.tif", random_heights(SHAPE), MAP_GRID, nodata=NODATA)),
    }
    paths[victim].write_bytes(paths[victim].read_bytes()[: paths[victim].stat().st_size // 2])
    with pytest.raises(InputError, match=rf"{victim}\.tif: cannot be read"):
        score(str(paths["map"]), str(paths["heights"]))


# --- elsewhere ---


@pytest.fixture
def bucket(moto: S3Server, tmp_path: Path) -> Iterator[str]:
    with environment_of(moto):
        yield f"s3://bucket/{tmp_path.name}"


@pytest.mark.slow
def test_remote_files_are_scored_as_local_ones(far_and_wide: dict[str, list[str]], bucket: str) -> None:
    remote = {}
    for name, paths in far_and_wide.items():
        remote[name] = [f"{bucket}/{Path(path).name}" for path in paths]
        for path, url in zip(paths, remote[name], strict=True):
            publish(url, Path(path).read_bytes())
    assert [found[1:] for found in bits(score(**remote))] == [
        found[1:] for found in bits(score(**far_and_wide))
    ]
