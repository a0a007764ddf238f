"""A map of a corner has the pixels of the whole map, and the whole map keeps the blocks of the corner."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import geometry_mask
from rasterio.warp import transform_geom
from regressors import NODATA, TRANSFORM, small_regressor, stored_images, write_checkpoint, write_scene

from inference.config import PredictConfig
from inference.predict.block_tasks import BlockResult, BlockTask, MapJob
from inference.predict.in_process import InProcess
from inference.predict.map_part import kept_blocks, overlap, without
from inference.predict.run import predict
from inference.predict.summary import Summary
from inference.tiling.windows import Block, Span, blocks_of
from shards.errors import InputError
from shards.raster.grid import Grid
from shards.storage.objects import find_files

ROWS, COLUMNS = 131, 150
LEFT, TOP = TRANSFORM.c, TRANSFORM.f
CORNER = (LEFT + 41, TOP - 151, LEFT + 160, TOP - 50)
"""Left, bottom, right, top: columns 20 to 79, rows 25 to 75, as the first and last are not whole."""


class Counting(InProcess):
    """Notes the blocks that it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = list[Block]()

    def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
        tasks = list(tasks)
        self.asked += [task.block for task in tasks]
        return super().blocks(tasks, job)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PredictConfig:
    """A scene, a checkpoint, and where the whole map is."""
    folder = tmp_path_factory.mktemp("parts")
    checkpoint = write_checkpoint(folder / "checkpoint", small_regressor())
    write_scene(folder / "scene.tif", stored_images(1, ROWS, COLUMNS, missing=0.002)[0])
    config = PredictConfig(
        (str(folder / "scene.tif"),), str(checkpoint), str(folder / "maps"), block=32, batch_size=4
    )
    run(config)
    return config


def run(config: PredictConfig) -> tuple[Summary, list[Block]]:
    engine = Counting()
    summary = predict(config, engine)
    assert not summary.failed, summary
    return summary, engine.asked


def map_of(config: PredictConfig) -> Path:
    return Path(config.out, "scene.chm.tif")


def triangle(folder: Path, name: str = "area.geojson") -> Path:
    """An area over rows 10 to 90 and columns 10 to 120, in degrees."""
    corners = [(LEFT + 20, TOP - 20), (LEFT + 240, TOP - 60), (LEFT + 60, TOP - 180), (LEFT + 20, TOP - 20)]
    shape = {"type": "Polygon", "coordinates": [corners]}
    degrees = transform_geom("EPSG:3338", "EPSG:4326", shape)
    path = folder / name
    if path.suffix == ".gpkg":
        polygon = np.array([shapely.to_wkb(shapely.geometry.shape(degrees))], object)
        pyogrio.write_arrow(
            pa.table({"geometry": polygon}),
            path,
            geometry_name="geometry",
            geometry_type="Polygon",
            crs="EPSG:4326",
        )
    else:
        feature = {"type": "Feature", "properties": {}, "geometry": degrees}
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def test_a_corner_has_the_pixels_of_the_whole_and_keeps_its_place(
    config: PredictConfig, tmp_path: Path
) -> None:
    corner = replace(config, out=str(tmp_path / "maps"), bounds=CORNER)
    run(corner)
    with rasterio.open(map_of(corner)) as part, rasterio.open(map_of(config)) as whole:
        assert part.shape == (51, 60)
        assert (part.transform.c, part.transform.f) == (LEFT + 40, TOP - 50)
        assert part.tags()["TREELINE_PART"] == "200040 1699848 200160 1699950"
        np.testing.assert_array_equal(part.read(), whole.read()[:, 25:76, 20:80])


def test_the_whole_keeps_the_blocks_of_the_corners(
    config: PredictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corner = replace(config, out=str(tmp_path / "maps"), bounds=CORNER)
    _, first = run(corner)
    assert sum(block.pixels for block in first) == 51 * 60
    _, again = run(corner)
    assert not again, "it is there"
    other = replace(corner, bounds=(LEFT + 100, TOP - 200, LEFT + 200, TOP - 100))
    _, second = run(other)
    assert sum(block.pixels for block in second) == 50 * 50 - 30 * 26, "but for what both share"
    with rasterio.open(map_of(other)) as part, rasterio.open(map_of(config)) as whole:
        np.testing.assert_array_equal(part.read(), whole.read()[:, 50:100, 50:100])

    entire = replace(config, out=corner.out)
    _, rest = run(entire)
    assert sum(block.pixels for block in rest) == ROWS * COLUMNS - 51 * 60 - 50 * 50 + 30 * 26
    assert not any(overlap(block, done) for block in rest for done in first + second)
    assert map_of(entire).read_bytes() == map_of(config).read_bytes()
    assert len(find_files(entire.out)) == len(find_files(config.out)), "nothing of the corners is left"

    _, none = run(corner)
    assert not none
    assert "scene.chm.tif: is the map of the whole scene already, and stays" in capsys.readouterr().err
    assert map_of(entire).read_bytes() == map_of(config).read_bytes(), "the whole map has the corner"


@pytest.mark.parametrize("name", ["area.geojson", "area.gpkg"])
def test_an_area_cuts_the_map_whatever_the_block(name: str, config: PredictConfig, tmp_path: Path) -> None:
    area = triangle(tmp_path, name)
    maps = []
    for block in (16, 2048):
        cut = replace(config, out=str(tmp_path / f"maps-{block}"), area=str(area), block=block)
        _, asked = run(cut)
        maps.append(map_of(cut).read_bytes())
        if block == 16:
            assert sum(one.pixels for one in asked) < 0.8 * 110 * 80, "blocks beside it are left out"
    assert maps[0] == maps[1]
    with rasterio.open(map_of(cut)) as part, rasterio.open(map_of(config)) as whole:
        left = round((part.transform.c - LEFT) / 2)
        top = round((TOP - part.transform.f) / 2)
        expected = whole.read()[:, top : top + part.height, left : left + part.width]
        local = transform_geom(
            "EPSG:4326", "EPSG:3338", json.loads(triangle(tmp_path).read_text())["features"][0]["geometry"]
        )
        outside = geometry_mask([local], part.shape, part.transform)
        expected[:, outside] = NODATA
        assert (part.read() != expected).mean() < 1e-3, "but for pixels at the very edge"
        assert 0.3 < outside.mean() < 0.7


def test_scenes_that_are_not_touched_are_named(
    config: PredictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = tmp_path / "far.tif"
    write_scene(far, stored_images(1, 64, 64)[0])
    with rasterio.open(far, "r+") as raster:
        raster.transform = rasterio.Affine.translation(100_000, 0) @ TRANSFORM
    both = replace(config, scenes=(*config.scenes, str(far)), out=str(tmp_path / "maps"), bounds=CORNER)
    summary, _ = run(both)
    assert list(summary.maps) == list(config.scenes)
    assert "touches 1 of 2 scenes; left out: far.tif" in capsys.readouterr().err
    alone = replace(both, scenes=(str(far),), out=str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"--bounds .*: touches none of 1 scenes; far.tif spans 300000 "):
        run(alone)
    assert not Path(alone.out).exists()


@pytest.mark.parametrize(
    ("bounds", "says"),
    [((1.0, 2.0), "give left, bottom, right and top"), ((2.0, 1.0, 1.0, 2.0), "is empty")],
)
def test_wrong_bounds_are_refused(
    bounds: tuple[float, ...], says: str, config: PredictConfig, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"--bounds .*: {says}"):
        run(replace(config, out=str(tmp_path / "maps"), bounds=bounds))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "cannot be read as GeoJSON"),
        ('{"type": "Point", "coordinates": [1, 2]}', "has point; give polygons"),
        ('{"type": "FeatureCollection", "features": []}', "give polygons|0 layers"),
    ],
)
def test_wrong_areas_are_refused(text: str, says: str, config: PredictConfig, tmp_path: Path) -> None:
    (tmp_path / "area.geojson").write_text(text)
    with pytest.raises(InputError, match=says):
        run(replace(config, out=str(tmp_path / "maps"), area=str(tmp_path / "area.geojson")))


def test_what_is_left_of_a_block_is_covered_once() -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        edges = np.sort(rng.integers(0, 20, (4, 2, 2)), axis=2).tolist()
        others = [Block(Span(*rows), Span(*columns)) for rows, columns in edges]
        count_HW = np.zeros((20, 20), int)
        for piece in without(Block(Span(2, 17), Span(3, 19)), others):
            count_HW[piece.rows.start : piece.rows.stop, piece.columns.start : piece.columns.stop] += 1
        expected_HW = np.zeros((20, 20), int)
        expected_HW[2:17, 3:19] = 1
        for other in others:
            expected_HW[other.rows.start : other.rows.stop, other.columns.start : other.columns.stop] = 0
        np.testing.assert_array_equal(count_HW, expected_HW)


def test_blocks_of_another_cut_are_kept_where_they_share_no_pixel() -> None:
    grid = Grid(None, TRANSFORM, 100, 90)
    of_now, of_before = set(blocks_of(40, 90, 40)), set(blocks_of(100, 90, 30))
    kept = kept_blocks(of_now | of_before, grid, 40)
    assert set(kept) == {block for block in of_before if block.rows.start >= 60}
