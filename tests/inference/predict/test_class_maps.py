"""Maps of pixel classes: numbers, names and colours, and the same bytes however a scene is cut.

- A map does not depend on blocks, their order or interruptions, in each way to weight and turn windows.
- Windows that do not overlap have the likeliest class of the model itself; overlapping ones the likeliest by
  the mean of probabilities, worked out here window by window.
- Nodata is a number that is no class; options and commands of heights are refused in one line.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from classes import CLASS_SCHEMA, small_class_model, write_class_checkpoint
from in_process import treeline
from numpy.typing import NDArray
from PIL import Image
from regressors import NODATA, odd_scene, write_scene
from rio_cogeo import cog_validate

from inference.config import PredictConfig
from inference.maps.class_colours import colour_of
from inference.predict.block_tasks import BlockResult, BlockTask, MapJob
from inference.predict.in_process import InProcess
from inference.predict.run import predict
from shards.errors import InputError
from trainer.model.class_model import ClassModel

SHAPE = (531, 150)
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "turned-cosine": {"symmetries": 8, "weights": "cosine", "overlap": 0.25},
}
NUMBERS = [2, 5, 90]


@dataclass(frozen=True)
class Whole:
    """A map made in one block, and how."""

    map: bytes
    config: PredictConfig
    model: ClassModel


@pytest.fixture(
    scope="module", params=[pytest.param("default"), pytest.param("turned-cosine", marks=pytest.mark.slow)]
)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("classes")
    model = small_class_model()
    checkpoint = write_class_checkpoint(folder / "checkpoint", model)
    scene = write_scene(folder / "scene.tif", odd_scene(*SHAPE))
    options = WAYS[request.param]
    config = PredictConfig((str(scene),), str(checkpoint), str(folder / "maps"), batch_size=8, **options)
    return Whole(map_of(config), config, model)


def map_of(config: PredictConfig, engine: InProcess | None = None) -> bytes:
    summary = predict(config, engine or InProcess())
    assert not summary.failed
    (path,) = summary.maps.values()
    assert path.endswith("scene.classes.tif")
    return Path(path).read_bytes()


class Stopping(InProcess):
    """Does blocks in an order of its own, and stops after some of them."""

    def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
        """The first few of them, shuffled."""
        shuffled = list(tasks)
        random.Random(6).shuffle(shuffled)
        yield from super().blocks(shuffled[: len(shuffled) // 2], job)
        raise KeyboardInterrupt


def read(data: bytes) -> NDArray[np.uint8]:
    with rasterio.MemoryFile(data) as file, file.open() as raster:
        stored_HW: NDArray[np.uint8] = raster.read(1)
        return stored_HW


@pytest.mark.parametrize("block", [100, 260])
def test_the_bytes_do_not_depend_on_blocks(whole: Whole, tmp_path: Path, block: int) -> None:
    assert map_of(replace(whole.config, out=str(tmp_path), block=block)) == whole.map


def test_the_bytes_do_not_depend_on_order_and_interruptions(whole: Whole, tmp_path: Path) -> None:
    config = replace(whole.config, out=str(tmp_path), block=90)
    with pytest.raises(KeyboardInterrupt):
        predict(config, Stopping())
    assert map_of(config) == whole.map


def test_it_holds_class_numbers_with_names_and_colours(whole: Whole, tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    path.write_bytes(whole.map)
    assert cog_validate(path, strict=True) == (True, [], [])
    valid_HW = (odd_scene(*SHAPE)[1:] != NODATA).all(0)
    with rasterio.open(path) as raster:
        stored_HW, overview_HW = raster.read(1), raster.read(1, out_shape=(266, 75))
        assert (raster.dtypes, raster.nodata, raster.overviews(1)) == (("uint8",), 0, [2])
        assert json.loads(raster.tags()["TREELINE_CLASSES"]) == {"2": "water", "5": "trees", "90": "moss"}
        assert [raster.colormap(1)[number][:3] for number in NUMBERS] == [
            colour_of(place) for place in range(3)
        ]
        assert raster.descriptions == ("cover",)
    assert np.unique(stored_HW[valid_HW]).tolist() == NUMBERS
    assert (stored_HW[~valid_HW] == 0).all()
    assert set(np.unique(overview_HW)) <= {0, *NUMBERS}, "a mean of classes is no class"


def test_a_pixel_has_the_likeliest_class_by_the_mean_of_probabilities(tmp_path: Path) -> None:
    """In 96 rows windows of 64 start at 0 and 32: three kinds of rows, the middle one of both windows."""
    model = small_class_model()
    checkpoint = write_class_checkpoint(tmp_path / "checkpoint", model)
    image_CHW = odd_scene(96, 64)
    scene = write_scene(tmp_path / "scene.tif", image_CHW)

    def mapped(overlap: float, out: str) -> NDArray[np.uint8]:
        options: dict[str, Any] = {"overlap": overlap, "weights": "flat"}
        return read(map_of(PredictConfig((str(scene),), str(checkpoint), str(tmp_path / out), **options)))

    with torch.no_grad():
        logits_BKHW, valid_BHW = model(torch.from_numpy(np.stack([image_CHW[:, :64], image_CHW[:, 32:]])))
    share_BKHW = logits_BKHW.softmax(1).numpy()
    mean_KHW = np.concatenate(
        [share_BKHW[0, :, :32], (share_BKHW[0, :, 32:] + share_BKHW[1, :, :32]) / 2, share_BKHW[1, :, 32:]], 1
    )
    expected_HW = np.array(NUMBERS)[mean_KHW.argmax(0)]
    overlapping_HW = mapped(0.5, "half")
    known_HW = overlapping_HW != 0
    assert np.array_equal(overlapping_HW[known_HW], expected_HW[known_HW])
    first_HW = np.array(NUMBERS)[logits_BKHW[0].argmax(0).numpy()]
    alone_HW = mapped(0.0, "none")[:64]
    assert np.array_equal(alone_HW != 0, valid_BHW[0].numpy())
    assert np.array_equal(alone_HW[alone_HW != 0], first_HW[alone_HW != 0])
    assert (overlapping_HW[32:64] != alone_HW[32:])[known_HW[32:64]].any(), "overlap that changes nothing"


@pytest.mark.parametrize(
    ("names", "nodata"),
    [(((0, "water"), (5, "trees"), (90, "moss")), 255), (((0, "water"), (5, "trees"), (255, "moss")), 1)],
)
def test_nodata_is_no_class(tmp_path: Path, names: tuple[tuple[int, str], ...], nodata: int) -> None:
    model = small_class_model(replace(CLASS_SCHEMA, class_names=names))
    checkpoint = write_class_checkpoint(tmp_path / "checkpoint", model)
    image_CHW = odd_scene(70, 80)
    scene = write_scene(tmp_path / "scene.tif", image_CHW)
    data = map_of(PredictConfig((str(scene),), str(checkpoint), str(tmp_path / "maps")))
    with rasterio.MemoryFile(data) as file, file.open() as raster:
        assert raster.nodata == nodata
    assert np.array_equal(read(data) != nodata, (image_CHW[1:] != NODATA).all(0))


def test_the_quick_look_has_the_map_s_colours(tmp_path: Path) -> None:
    checkpoint = write_class_checkpoint(tmp_path / "checkpoint", small_class_model())
    scene = write_scene(tmp_path / "scene.tif", odd_scene(96, 64))
    config = PredictConfig((str(scene),), str(checkpoint), str(tmp_path / "maps"), quick_look=True)
    stored_HW = read(map_of(config))
    rgb_HW3 = np.asarray(Image.open(tmp_path / "maps" / "scene.classes.png").convert("RGB"))
    for place, number in enumerate(NUMBERS):
        pixels = (rgb_HW3 == colour_of(place)).all(-1).sum()
        least = (stored_HW == number).sum() * (512 // 96) ** 2
        assert least < pixels < least + 400, "squares of the map, and a patch of the legend"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spread": True}, "--spread: is for maps of heights, not of classes of pixels; leave it out"),
        ({"stac": True}, "--stac: is for maps of heights, not of classes of pixels; leave it out"),
        ({"window": 65}, "--window 65: must be a multiple of the backbone's patches of 16 pixels"),
    ],
)
def test_options_without_effect_are_refused(
    whole: Whole, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        predict(replace(whole.config, out=str(tmp_path / "out"), **options), InProcess())
    assert not (tmp_path / "out").exists()


def test_classes_beyond_a_byte_are_refused(tmp_path: Path) -> None:
    model = small_class_model(replace(CLASS_SCHEMA, class_names=((1, "a"), (2, "b"), (300, "c"))))
    checkpoint = write_class_checkpoint(tmp_path / "checkpoint", model)
    scene = write_scene(tmp_path / "scene.tif", odd_scene(70, 80))
    done = treeline("predict", str(scene), "--checkpoint", str(checkpoint), "--out", "maps", folder=tmp_path)
    assert done.returncode == 2
    assert "has 3 classes up to number 300; a map holds numbers up to 255" in done.stderr


def test_other_commands_refuse_a_map_of_classes(whole: Whole, tmp_path: Path) -> None:
    (tmp_path / "scene.classes.tif").write_bytes(whole.map)
    write_scene(tmp_path / "heights.tif", odd_scene(64, 64)[:1])
    for command in (
        ("mosaic", "scene.classes.tif", "--out", "mosaic.tif"),
        ("evaluate", "--maps", "scene.classes.tif", "--heights", "heights.tif"),
    ):
        done = treeline(*command, folder=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "is a map of classes; only maps of canopy height can be combined or scored" in done.stderr
    assert not (tmp_path / "mosaic.tif").exists()
