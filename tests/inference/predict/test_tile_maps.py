"""Maps of labels of tiles: a pixel for each tile, on a grid that is as many times coarser.

- A pixel has what the model says of the tile alone; tiles that reach beyond the scene, or miss all patches,
  have none.
- The bytes do not depend on blocks, their order or interruptions, also where tiles miss pixels, nor on how
  blocks travel.
- Options of pixels are refused in one line.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from in_process import treeline
from numpy.typing import NDArray
from regressors import (
    CHIP_SCHEMA,
    NODATA,
    TRANSFORM,
    odd_scene,
    write_scene,
)
from rio_cogeo import cog_validate
from tile_models import small_tile_model, write_tile_checkpoint

from inference.config import PredictConfig
from inference.predict.block_tasks import BlockResult, BlockTask, MapJob
from inference.predict.in_process import InProcess
from inference.predict.map_header import numbered
from inference.predict.on_ray import _Predict, _Steps
from inference.predict.run import predict
from shards.errors import InputError
from trainer.model.tile_model import TileHead, TileModel

SIDE = CHIP_SCHEMA.chip_size
SHAPE = (16 * SIDE + 5, 9 * SIDE + 31)
"""16 x 9 whole tiles, and parts of others."""
HEADS = {
    "value": TileHead("tree_percent", centre=20.0, scale=9.0),
    "names": TileHead("region", classes=("conus", "europe")),
    "numbers": TileHead("land_cover", "class", ("3", "40", "7")),
}


def scene_of_tiles() -> NDArray[np.int16]:
    """Some tiles miss a patch or all, so that attention has a mask in some batches alone."""
    image_CHW = odd_scene(*SHAPE)
    for number in range(0, 40, 3):
        row, column = divmod(number, 9)
        image_CHW[:, row * SIDE : row * SIDE + 16, column * SIDE : column * SIDE + 16] = NODATA
    return image_CHW


@dataclass(frozen=True)
class Whole:
    """A map made in one block, and how."""

    map: bytes
    config: PredictConfig
    model: TileModel


@pytest.fixture(scope="module", params=HEADS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("tiles")
    model = small_tile_model(HEADS[request.param])
    checkpoint = write_tile_checkpoint(folder / "checkpoint", model)
    scene = write_scene(folder / "scene.tif", scene_of_tiles())
    config = PredictConfig((str(scene),), str(checkpoint), str(folder / "maps"), batch_size=8)
    return Whole(map_of(config), config, model)


def map_of(config: PredictConfig, engine: InProcess | None = None) -> bytes:
    summary = predict(config, engine or InProcess())
    assert not summary.failed
    (path,) = summary.maps.values()
    assert path.endswith("scene.tiles.tif")
    return Path(path).read_bytes()


class Backwards(InProcess):
    """Does half of the blocks, the last ones first, and stops."""

    def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
        """The last ones."""
        backwards = list(tasks)[::-1]
        yield from super().blocks(backwards[: len(backwards) // 2], job)
        raise KeyboardInterrupt


@pytest.mark.parametrize("block", [1, 100, 200])
def test_the_bytes_do_not_depend_on_blocks(whole: Whole, tmp_path: Path, block: int) -> None:
    """A block of one pixel of the scene is still a whole tile."""
    assert map_of(replace(whole.config, out=str(tmp_path), block=block)) == whole.map


def test_the_bytes_do_not_depend_on_order_and_interruptions(whole: Whole, tmp_path: Path) -> None:
    config = replace(whole.config, out=str(tmp_path), block=100)
    with pytest.raises(KeyboardInterrupt):
        predict(config, Backwards())
    assert map_of(config) == whole.map


class AsRows(InProcess):
    """Passes each block on as a row of plain values, as Ray Data does between processes."""

    def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
        """One after the other."""
        steps, predict = _Steps(job), _Predict(job)
        for task in tasks:
            row = steps.write(predict(steps.read({"task": task.to_row()})))
            assert not row["error"]
            yield BlockResult(BlockTask.from_row(row["task"]))


def test_blocks_that_travel_as_rows_make_the_same_map(whole: Whole, tmp_path: Path) -> None:
    """Values are float32, numbers of classes int16: both come back from their bytes."""
    assert map_of(replace(whole.config, out=str(tmp_path), block=200), AsRows()) == whole.map


def test_a_pixel_has_what_the_model_says_of_the_tile_alone(whole: Whole, tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    path.write_bytes(whole.map)
    assert cog_validate(path, strict=True) == (True, [], [])
    head = whole.model.head
    with rasterio.open(path) as raster:
        stored_HW, nodata = raster.read(1), raster.nodata
        assert raster.shape == (17, 10)
        assert raster.transform == TRANSFORM @ TRANSFORM.scale(SIDE)
        assert raster.descriptions == (head.label,)
        assert raster.dtypes == ("uint8" if head.classes else "float32",)
        numbers = None
        if head.classes:
            names = json.loads(raster.tags()["TREELINE_CLASSES"])
            assert tuple(names.values()) == head.classes
            numbers = {place: int(number) for place, number in enumerate(names)}
            assert len({raster.colormap(1)[number] for number in numbers.values()}) == len(head.classes)
        else:
            assert raster.units == ("%",)
    assert (stored_HW[16:] == nodata).all(), "parts of tiles at the scene's end"
    assert (stored_HW[:, 9:] == nodata).all()
    image_CHW, missing = scene_of_tiles(), 0
    for row in range(16):
        for column in range(9):
            tile_CHW = image_CHW[:, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
            outputs_1K, seen_1 = whole.model.predict(torch.from_numpy(tile_CHW[None].copy()))
            if not seen_1[0]:
                assert stored_HW[row, column] == nodata
                missing += 1
            elif numbers:
                assert stored_HW[row, column] == numbers[int(outputs_1K.argmax())]
            else:
                assert stored_HW[row, column] == pytest.approx(float(outputs_1K), abs=1e-4)
    assert missing > 3
    assert len(np.unique(stored_HW)) > (2 if numbers else 50), "a map that does not vary proves nothing"


def test_numbers_of_bytes_are_kept_and_names_are_counted() -> None:
    assert numbered(("3", "40", "7")) == ((3, "3"), (40, "40"), (7, "7"))
    assert numbered(("3", "300")) == ((1, "3"), (2, "300"))
    assert numbered(("conus", "europe")) == ((1, "conus"), (2, "europe"))


def test_the_quick_look_is_written_for_numbers_and_classes(whole: Whole, tmp_path: Path) -> None:
    config = replace(whole.config, out=str(tmp_path), quick_look=True)
    assert map_of(config) == whole.map
    first = (tmp_path / "scene.tiles.png").read_bytes()
    (tmp_path / "scene.tiles.png").unlink()
    map_of(config)
    assert (tmp_path / "scene.tiles.png").read_bytes() == first


@pytest.mark.parametrize(
    ("options", "whose"),
    [
        ({"overlap": 0.25}, "--overlap: is for maps of pixels"),
        ({"weights": "flat"}, "--weights: is for maps of pixels"),
        ({"symmetries": 8}, "--symmetries: is for maps of pixels"),
        ({"window": 96}, "--window: is for maps of pixels"),
        ({"spread": True}, "--spread: is for maps of heights"),
        ({"stac": True}, "--stac: is for maps of heights"),
    ],
)
def test_options_without_effect_are_refused(
    whole: Whole, tmp_path: Path, options: dict[str, Any], whose: str
) -> None:
    with pytest.raises(InputError, match=f"{whose}, not of labels of tiles; leave it out"):
        predict(replace(whole.config, out=str(tmp_path / "out"), **options), InProcess())
    assert not (tmp_path / "out").exists()


def test_a_scene_without_a_whole_tile_has_no_map(whole: Whole, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", odd_scene(SIDE - 1, 90))
    options = ("--checkpoint", whole.config.checkpoint, "--out", "m")
    done = treeline("predict", str(scene), *options, folder=tmp_path)
    assert done.returncode == 1
    assert f"no whole tile of {SIDE} pixels has all bands that the model reads" in done.stdout


def test_a_mosaic_of_tiles_is_refused(whole: Whole, tmp_path: Path) -> None:
    (tmp_path / "scene.tiles.tif").write_bytes(whole.map)
    done = treeline("mosaic", "scene.tiles.tif", "--out", "mosaic.tif", folder=tmp_path)
    assert done.returncode == 2
    assert "map of classes" in done.stderr or "is no canopy height map" in done.stderr
    assert not (tmp_path / "mosaic.tif").exists()
