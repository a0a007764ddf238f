"""Scenes -> maps, from real GeoTIFFs to real GeoTIFFs.

- The map is the one that the notebook's way of predicting gives (golden file).
- The same scene gives the same bytes of the map however it is cut into blocks, and the same pixels
  whatever its own nodata value and the order of its bands.
- The map is on the scene's grid: int16 decimetres, not below 0, nodata exactly where a used band has none.
- A scene that cannot be read leaves no file behind.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from regressors import (
    CRS,
    NODATA,
    SCHEMA,
    SMALL_DECODER,
    TRANSFORM,
    notebook_regressor,
    reference,
    small_regressor,
    statistics_of,
    stored_images,
    write_checkpoint,
    write_scene,
)

import shards
from inference.config import PredictConfig
from inference.predict.block import predict_windows
from inference.predict.block_tasks import BlockResult, BlockTask, MapJob
from inference.predict.in_process import InProcess
from inference.predict.map_options import MapOptions
from inference.predict.run import predict
from inference.predict.summary import Summary
from inference.scenes.scene import Scene
from inference.tiling.windows import Block, Span, WindowGrid
from shards.errors import InputError
from shards.format.missing import missing_values
from shards.format.schema import Schema
from shards.version import COMMIT
from trainer.decoders.features import DecoderConfig
from trainer.model.height_checkpoint import load_checkpoint

ODD = (131, 97)
"""Rows and columns of a scene that no block and no window fits into."""

BATCH = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), small_regressor())


def scene_image(rows: int, columns: int, seed: int = 0) -> NDArray[np.int16]:
    """Stored pixels (4, rows, columns) with a few missing ones and a border without data."""
    image_CHW = stored_images(1, rows, columns, seed, missing=0.005)[0]
    image_CHW[:, : rows // 8] = NODATA
    return image_CHW


def used_bands_valid(image_CHW: NDArray[Any], nodata: float = NODATA) -> NDArray[np.bool_]:
    """Where near infrared, red and green, which the regressor sees, are all measured."""
    valid_HW: NDArray[np.bool_] = (image_CHW[1:] != nodata).all(0)
    return valid_HW


def predicted_map(scene: Path, checkpoint: Path, out: Path, **options: Any) -> Path:
    """The map of one scene. Batches are small, since each is filled up to its full size."""
    config = PredictConfig((str(scene),), str(checkpoint), str(out), **{"batch_size": BATCH, **options})
    summary = predicted(config)
    assert not summary.failed
    assert list(summary.maps) == [str(scene)]
    path = Path(summary.maps[str(scene)])
    assert sorted(path.parent.iterdir()) == sorted(
        (path, path.with_suffix(".qml"), out / "predict.json", out / ".predict")
    )
    left = sorted(name.suffix for name in (out / ".predict").iterdir())
    assert left == [".json", ".made"], "nothing else is left"
    return path


def predicted(config: PredictConfig, engine: type[InProcess] = InProcess) -> Summary:
    return predict(config, engine())


class StoppingAfterOne(InProcess):
    """Is interrupted when it has done one block."""

    def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
        """The first one."""
        yield from super().blocks(list(tasks)[:1], job)
        raise KeyboardInterrupt


def pixels(path: Path) -> NDArray[np.int16]:
    with rasterio.open(path) as raster:
        stored: NDArray[np.int16] = raster.read(1)
    return stored


# --- the notebook's map ---


@pytest.fixture(scope="module")
def notebook_scene() -> Any:
    return np.load(reference("notebook_scene_golden.npz"))


@pytest.fixture(scope="module")
def notebook_checkpoint(tmp_path_factory: pytest.TempPathFactory, notebook_scene: Any) -> Path:
    constants = zip(*(notebook_scene[name].tolist() for name in ("clamp_max", "mean", "std")), strict=True)
    statistics = statistics_of(dict(zip(("nir", "red", "green"), constants, strict=True)))
    return write_checkpoint(tmp_path_factory.mktemp("notebook"), notebook_regressor(statistics))


@pytest.mark.slow
@pytest.mark.parametrize("block", [100, 512])
def test_the_map_is_the_notebooks(
    notebook_scene: Any, notebook_checkpoint: Path, tmp_path: Path, block: int
) -> None:
    image_CHW, golden_HW = notebook_scene["scene"], notebook_scene["decimetres"]
    scene = write_scene(tmp_path / "scene.tif", image_CHW)
    ours_HW = pixels(predicted_map(scene, notebook_checkpoint, tmp_path / "maps", block=block))
    valid_HW = used_bands_valid(image_CHW)
    assert (ours_HW[~valid_HW] == NODATA).all(), "also where only red or green is missing"
    assert (golden_HW[valid_HW] != NODATA).all()
    difference_N = np.abs(ours_HW[valid_HW].astype(int) - golden_HW[valid_HW])
    assert difference_N.max() <= 1
    assert (difference_N == 0).mean() >= 0.999


# --- the same map however it is made ---


@pytest.mark.parametrize(("window", "overlap"), [(64, 0.5), (32, 0.25), (48, 0.0)])
def test_the_bytes_of_a_map_do_not_depend_on_the_blocks(
    checkpoint: Path, tmp_path: Path, window: int, overlap: float
) -> None:
    scene = write_scene(tmp_path / "scene.tif", scene_image(*ODD))
    maps = [
        predicted_map(scene, checkpoint, tmp_path / str(block), block=block, window=window, overlap=overlap)
        for block in (32, 48, 512)
    ]
    first, *others = [path.read_bytes() for path in maps]
    assert all(other == first for other in others)
    heights_N = pixels(maps[0])[used_bands_valid(scene_image(*ODD))]
    assert len(np.unique(heights_N)) > 5, "a map that does not vary proves nothing"


def test_a_map_does_not_depend_on_the_order_of_the_tasks(checkpoint: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", scene_image(*ODD))
    config = PredictConfig(
        (str(scene),), str(checkpoint), str(tmp_path / "shuffled"), block=48, batch_size=BATCH
    )

    class Shuffled(InProcess):
        def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
            tasks = list(tasks)
            order = np.random.default_rng(0).permutation(len(tasks))
            return super().blocks([tasks[place] for place in order], job)

    path = Path(predicted(config, Shuffled).maps[str(scene)])
    in_order = predicted_map(scene, checkpoint, tmp_path / "in_order", block=48)
    assert path.read_bytes() == in_order.read_bytes()


def test_the_batch_size_changes_no_height_visibly(checkpoint: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", scene_image(*ODD))
    one, many = (
        pixels(predicted_map(scene, checkpoint, tmp_path / str(size), batch_size=size)).astype(int)
        for size in (1, 8)
    )
    assert np.abs(one - many).max() <= 1


def test_several_scenes_at_once_give_the_maps_that_each_gives_alone(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scenes").mkdir()
    scenes = [
        write_scene(tmp_path / "scenes" / f"scene_{number}.tif", scene_image(*shape, seed=number))
        for number, shape in enumerate([(80, 70), (64, 130)])
    ]
    config = PredictConfig(
        (str(tmp_path / "scenes" / "*.tif"),), str(checkpoint), str(tmp_path / "maps"), batch_size=BATCH
    )
    maps = predicted(config).maps
    *_, line = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"predict 2 scenes: 13,920 of 13,920 pixels, [\d.,]+ (mega)?pixels/s, \d+ s, "
        r"2 blocks, 2 of 2 maps complete",
        line,
    )
    assert sorted(path.name for path in (tmp_path / "maps").glob("[!.]*")) == [
        "predict.json",
        "scene_0.chm.qml",
        "scene_0.chm.tif",
        "scene_1.chm.qml",
        "scene_1.chm.tif",
    ]
    for scene in scenes:
        alone = predicted_map(scene, checkpoint, tmp_path / scene.stem)
        assert alone.read_bytes() == Path(maps[str(scene)]).read_bytes()


def test_a_small_scene_is_no_map_of_0_pixels() -> None:
    said = str(Summary(maps={"scene": "map"}, megapixels=0.016, seconds=2.0))
    assert "; 16,000 pixels in 2 s (8,000 pixels/s)" in said
    said = str(Summary(maps={"scene": "map"}, megapixels=400.0, seconds=100.0))
    assert "; 400.0 megapixels in 100 s (4.0 megapixels/s)" in said


def test_maps_in_the_folder_of_their_scenes_are_left_out_by_name(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scene(tmp_path / "scene.tif", scene_image(64, 64))
    config = PredictConfig((str(tmp_path),), str(checkpoint), str(tmp_path), batch_size=BATCH)
    assert len(predicted(config).maps) == 1
    assert "left out" not in capsys.readouterr().err
    assert len(predicted(config).maps) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert said.startswith("treeline: left out as maps: 1 of 2 rasters (scene.chm.tif), whose names end in ")


def test_a_pixel_is_predicted_as_the_regressor_does_where_one_window_covers_it(
    checkpoint: Path, tmp_path: Path
) -> None:
    image_CHW = scene_image(64, 64)
    scene = write_scene(tmp_path / "scene.tif", image_CHW)
    with torch.inference_mode():
        height_BHW, _ = small_regressor().predict(torch.from_numpy(image_CHW[None]))
    expected_HW = np.rint(height_BHW[0].numpy() * 10)
    ours_HW, valid_HW = (
        pixels(predicted_map(scene, checkpoint, tmp_path / "maps")),
        used_bands_valid(image_CHW),
    )
    assert np.abs(ours_HW - expected_HW)[valid_HW].max() <= 1
    assert (ours_HW == expected_HW)[valid_HW].mean() > 0.99


# --- what a scene may be ---


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (1, 90), (15, 17), (40, 200)])
def test_scenes_smaller_than_a_window_are_predicted(
    checkpoint: Path, tmp_path: Path, shape: tuple[int, int]
) -> None:
    image_CHW = stored_images(1, *shape, missing=0.01)[0]
    image_CHW[:, 0, 0] = 500
    scene = write_scene(tmp_path / "scene.tif", image_CHW)
    map_HW = pixels(predicted_map(scene, checkpoint, tmp_path / "maps", block=48))
    assert map_HW.shape == shape
    assert np.array_equal(map_HW != NODATA, used_bands_valid(image_CHW))


def test_nodata_is_kept_and_nothing_is_below_0(checkpoint: Path, tmp_path: Path) -> None:
    image_CHW = scene_image(*ODD)
    scene = write_scene(tmp_path / "scene.tif", image_CHW)
    map_HW, valid_HW = (
        pixels(predicted_map(scene, checkpoint, tmp_path / "maps")),
        used_bands_valid(image_CHW),
    )
    assert np.array_equal(map_HW != NODATA, valid_HW)
    assert map_HW[valid_HW].min() == 0, "of a regressor that also predicts below 0"


def test_a_scene_without_data_has_no_map(checkpoint: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "empty.tif", np.full((4, *ODD), NODATA, np.int16))
    summary = predicted(PredictConfig((str(scene),), str(checkpoint), str(tmp_path / "maps"), block=48))
    assert [failed.reason for failed in summary.failed] == [
        f"{scene}: no pixel has all bands that the model reads"
    ]
    assert not list((tmp_path / "maps").glob("*.tif"))


@pytest.mark.parametrize("own", [-32768, 0])
def test_a_scene_may_have_its_own_nodata_value(checkpoint: Path, tmp_path: Path, own: int) -> None:
    image_CHW = np.maximum(scene_image(*ODD), NODATA + 1)
    image_CHW[image_CHW <= 0] = 1
    image_CHW[:, 20:40, 30:50] = NODATA
    other_CHW = np.where(image_CHW == NODATA, own, image_CHW).astype(np.int16)
    ours = write_scene(tmp_path / "ours.tif", image_CHW)
    other = write_scene(tmp_path / "other.tif", other_CHW, nodata=own)
    maps = [pixels(predicted_map(path, checkpoint, tmp_path / path.stem)) for path in (ours, other)]
    assert np.array_equal(*maps)
    assert (maps[0] == NODATA).sum() == 20 * 20


@pytest.mark.parametrize(("trained", "found"), [(-9999, np.nan), (None, np.nan), (7, 7), (0.5, np.nan)])
def test_a_scene_of_bytes_may_have_a_nodata_value_where_the_chips_had_none_that_fits(
    tmp_path: Path, trained: float | None, found: float
) -> None:
    image_CHW = np.full((1, 8, 8), 200, np.uint8)
    image_CHW[0, 3, 5] = 0
    path = write_scene(tmp_path / "bytes.tif", image_CHW, nodata=0)
    schema = Schema(("vv",), "uint8", trained, 8)
    with Scene(str(path), schema, ()) as scene:
        read_CHW = scene.halo(Block(Span(0, 8), Span(0, 8)), WindowGrid(8, 8)).image_CHW
    np.testing.assert_array_equal(read_CHW, np.where(image_CHW == 0, found, image_CHW))
    assert missing_values(read_CHW, trained).sum() == 1


@pytest.mark.parametrize("described", [True, False])
def test_bands_are_found_by_name_in_any_order(checkpoint: Path, tmp_path: Path, described: bool) -> None:
    """Eight bands in an order of their own, named by their descriptions or by --bands."""
    image_CHW, order = (
        scene_image(*ODD),
        ("coastal", "nir", "yellow", "red", "blue", "rededge", "green", "nir2"),
    )
    mixed_CHW = np.stack(
        [image_CHW[SCHEMA.bands.index(b)] if b in SCHEMA.bands else np.full(ODD, 7, np.int16) for b in order]
    )
    mixed = write_scene(tmp_path / "mixed.tif", mixed_CHW)
    if described:
        with rasterio.open(mixed, "r+") as raster:
            raster.descriptions = order
    plain = write_scene(tmp_path / "plain.tif", image_CHW)
    ours = predicted_map(plain, checkpoint, tmp_path / "ours")
    theirs = predicted_map(mixed, checkpoint, tmp_path / "theirs", bands=() if described else order)
    assert np.array_equal(pixels(ours), pixels(theirs))


# --- what a map is ---


def test_a_map_has_the_scenes_grid_and_says_what_it_holds(checkpoint: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", scene_image(*ODD))
    with rasterio.open(predicted_map(scene, checkpoint, tmp_path / "maps")) as raster:
        assert (raster.count, raster.dtypes, raster.nodata) == (1, ("int16",), NODATA)
        assert (raster.shape, raster.transform, raster.crs.to_string()) == (ODD, TRANSFORM, CRS)
        assert (raster.scales, raster.offsets, raster.units) == ((0.1,), (0.0,), ("m",))
        assert raster.descriptions == ("canopy height",)
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        tags = raster.tags()
    assert tags["TREELINE_DATASET"] == "0123456789abcdef"
    assert tags["TREELINE_SCENE"] == "scene.tif"
    assert (tags["TREELINE_EPOCH"], tags["TREELINE_WINDOW"], tags["TREELINE_OVERLAP"]) == ("3", "64", "0.5")


def test_a_larger_map_has_overviews_without_nodata_in_the_average(tmp_path: Path) -> None:
    """Left half without data: an overview that averaged -9999 in would be far below 0."""
    image_CHW = np.full((4, 1030, 1026), 500, np.int16)
    image_CHW[:, ::2] = 510  # an image of one value is refused
    image_CHW[:, :, :511] = NODATA
    image_CHW[:, 500:] = NODATA
    scene = write_scene(tmp_path / "scene.tif", image_CHW)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", small_regressor())
    path = predicted_map(scene, checkpoint, tmp_path / "maps", overlap=0.0)
    with rasterio.open(path) as raster:
        assert raster.overviews(1) == [2, 4]
        assert raster.block_shapes == [(512, 512)]
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    with rasterio.open(path, overview_level=0) as overview:
        coarse_HW = overview.read(1)
    assert coarse_HW.shape == (515, 513)
    assert (coarse_HW[coarse_HW != NODATA] >= 0).all()
    assert (coarse_HW != NODATA).any()


# --- refused, with nothing left behind ---


def truncated(path: Path, share: float) -> Path:
    """The raster at `path` with only its first `share` of bytes."""
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def assert_refused(match: str, out: Path, *scenes: Path, checkpoint: Path, **options: Any) -> None:
    """An InputError of one line that matches, and no file in `out`."""
    config = PredictConfig(tuple(map(str, scenes)), str(checkpoint), str(out), **options)
    with pytest.raises(InputError, match=match) as refused:
        predicted(config)
    assert "\n" not in str(refused.value)
    assert not out.exists() or not list(out.iterdir())


def assert_fails(match: str, out: Path, scene: Path, *, checkpoint: Path, **options: Any) -> None:
    """The scene is named with a reason of one line that matches, and there is no map."""
    config = PredictConfig((str(scene),), str(checkpoint), str(out), **{"batch_size": BATCH, **options})
    (failed,) = predicted(config).failed
    assert re.search(match, failed.reason), failed.reason
    assert "\n" not in failed.reason
    assert not list(out.glob("*.tif"))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_truncated_scene_has_no_map(checkpoint: Path, tmp_path: Path, share: float) -> None:
    scene = truncated(write_scene(tmp_path / "short.tif", scene_image(*ODD)), share)
    assert_fails(r"short\.tif: cannot be read", tmp_path / "maps", scene, checkpoint=checkpoint, block=32)


def test_of_bad_scenes_the_others_do_not_suffer(checkpoint: Path, tmp_path: Path) -> None:
    """Each is named with its reason; mended, the same command makes what is missing, and the same bytes."""
    image_CHW = scene_image(*ODD)
    good = write_scene(tmp_path / "good.tif", image_CHW)
    short = truncated(write_scene(tmp_path / "short.tif", image_CHW), 0.7)
    three = write_scene(tmp_path / "three.tif", image_CHW[:3])
    nowhere = write_scene(tmp_path / "nowhere.tif", image_CHW, crs=None)
    empty = write_scene(tmp_path / "empty.tif", np.full((4, *ODD), NODATA, np.int16))
    (tmp_path / "text.tif").write_text("no raster")
    out = tmp_path / "maps"
    config = PredictConfig((str(tmp_path / "*.tif"),), str(checkpoint), str(out), block=64, batch_size=BATCH)
    summary = predicted(config)
    assert list(summary.maps) == [str(good)]
    reasons = {Path(failed.scene).stem: failed.reason for failed in summary.failed}
    assert reasons.keys() == {"short", "three", "nowhere", "empty", "text"}
    for stem, words in (("short", "cannot be read at row"), ("three", "3 bands"), ("nowhere", "no CRS")):
        assert words in reasons[stem]
    assert str(summary).splitlines()[0].startswith("1 map made, 0 there before, 5 scenes failed")
    assert [path.name for path in out.glob("*.tif")] == ["good.chm.tif"]
    for path in (short, three, nowhere, empty):
        write_scene(path, image_CHW)
    (tmp_path / "text.tif").unlink()
    again = predicted(config)
    assert (len(again.maps), again.before, again.failed) == (5, 1, [])
    assert len({pixels(path).tobytes() for path in out.glob("*.tif")}) == 1
    assert {path.suffix for path in (out / ".predict").iterdir()} == {".json", ".made"}


def test_three_bands_where_four_are_asked_for_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "three.tif", scene_image(*ODD)[:3])
    assert_fails(r"three\.tif.*3 bands", tmp_path / "maps", scene, checkpoint=checkpoint)


def test_a_scene_that_lacks_a_band_by_name_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", scene_image(*ODD))
    assert_fails(
        "nir", tmp_path / "maps", scene, checkpoint=checkpoint, bands=("blue", "green", "red", "swir")
    )


@pytest.mark.parametrize("dtype", ["int32", "uint16", "float32", "float64"])
def test_another_type_that_holds_the_same_values_gives_the_same_map(
    checkpoint: Path, tmp_path: Path, dtype: str
) -> None:
    image_CHW = scene_image(*ODD)
    nodata = 65535 if dtype == "uint16" else NODATA
    same_CHW = np.where(image_CHW == NODATA, nodata, image_CHW).astype(dtype)
    expected = pixels(
        predicted_map(write_scene(tmp_path / "same.tif", image_CHW), checkpoint, tmp_path / "a")
    )
    scene = write_scene(tmp_path / "other.tif", same_CHW, nodata=nodata)
    np.testing.assert_array_equal(pixels(predicted_map(scene, checkpoint, tmp_path / "b")), expected)


def test_values_beyond_the_type_of_training_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    image_CHW = np.abs(scene_image(*ODD)).astype(np.uint16)
    image_CHW[2, 100, 50] = 40_000
    scene = write_scene(tmp_path / "large.tif", image_CHW, nodata=65535)
    named = r"large\.tif: band \w+ has 40000 at row 100, column 50, beyond the int16 of training.*--nodata"
    assert_fails(named, tmp_path / "maps", scene, checkpoint=checkpoint)


def test_a_scene_without_a_place_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "nowhere.tif", scene_image(*ODD), crs=None)
    assert_fails(r"nowhere\.tif.*CRS", tmp_path / "maps", scene, checkpoint=checkpoint)


def test_a_file_that_is_no_raster_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no raster")
    assert_fails(r"text\.tif", tmp_path / "maps", tmp_path / "text.tif", checkpoint=checkpoint)


def test_a_scene_of_other_pixels_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Half as wide, or stored in other units, they would be mapped without a word."""
    scene = write_scene(tmp_path / "fine.tif", scene_image(*ODD))
    with rasterio.open(scene, "r+") as raster:
        raster.transform = raster.transform @ raster.transform.scale(0.5)
    assert_fails(
        r"pixels are 1 x 1 m, not 2 x 2 m.*gdalwarp -tr 2 2", tmp_path / "maps", scene, checkpoint=checkpoint
    )
    scene = write_scene(tmp_path / "scaled.tif", scene_image(*ODD))
    with rasterio.open(scene, "r+") as raster:
        raster.scales = (0.0001,) * 4
    assert_fails("states a scale or offset", tmp_path / "maps", scene, checkpoint=checkpoint)


def test_a_scene_that_is_not_there_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    assert_refused(r"absent\.tif", tmp_path / "maps", tmp_path / "absent.tif", checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"window": 40}, "--window 40"),
        ({"overlap": 0.9}, "--overlap 0.9"),
        ({"block": 0}, "--block 0"),
        ({"batch_size": -1}, "--batch-size -1"),
        ({"symmetries": 4}, "--symmetries 4"),
    ],
)
def test_options_that_cannot_be_are_refused(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    scene = write_scene(tmp_path / "scene.tif", scene_image(*ODD))
    assert_refused(named, tmp_path / "maps", scene, checkpoint=checkpoint, **options)


def test_two_scenes_of_one_name_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    scenes = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        scenes.append(write_scene(tmp_path / folder / "scene.tif", scene_image(64, 64)))
    assert_refused("same name", tmp_path / "maps", *scenes, checkpoint=checkpoint)


def test_maps_made_otherwise_are_not_mixed(checkpoint: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", scene_image(64, 64))
    out = tmp_path / "maps"
    before = predicted_map(scene, checkpoint, out).read_bytes()
    config = PredictConfig((str(scene),), str(checkpoint), str(out), batch_size=BATCH)
    assert predicted(config).before == 1, "made already"
    other = write_checkpoint(tmp_path / "other", small_regressor(seed=1))
    for changed, named in (
        (replace(config, weights="flat"), "another weighting"),
        (replace(config, batch_size=2 * BATCH), "another batch_size"),
        (replace(config, bands=("red", "green", "blue", "nir")), "other bands"),
        (replace(config, checkpoint=str(other)), "another checkpoint"),
    ):
        with pytest.raises(
            InputError,
            match=rf"maps: holds maps made with {named} \(\S.* there, .* asked for\);",
        ):
            predicted(changed)
        assert (out / "scene.chm.tif").read_bytes() == before
    changed = replace(config, checkpoint=str(other), overwrite=True)
    assert predicted(changed).before == 0
    assert (out / "scene.chm.tif").read_bytes() != before
    assert predicted(changed).before == 1, "an overwriting that goes on does not begin anew"
    second = replace(changed, scenes=(str(write_scene(tmp_path / "second.tif", scene_image(64, 64))),))
    assert predicted(second).maps.keys() == {str(tmp_path / "second.tif")}, "made with the same"
    with pytest.raises(InputError, match="1 maps of other scenes made with another checkpoint"):
        predicted(replace(second, checkpoint=str(checkpoint)))


def test_newer_code_ends_what_older_began(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version and commit are recorded, in each map those of the code that finished it, and never compared."""
    scenes = [str(write_scene(tmp_path / f"{n}.tif", scene_image(64, 128, n))) for n in range(2)]
    config = PredictConfig(tuple(scenes), str(checkpoint), str(tmp_path / "maps"), batch_size=BATCH, block=64)
    first = replace(config, scenes=(scenes[0],))
    predicted(first)
    with pytest.raises(KeyboardInterrupt):
        predicted(config, StoppingAfterOne)
    begun = {path.parent.name for path in (tmp_path / "maps" / ".predict").rglob("*.block")}
    assert len(begun) == 1
    monkeypatch.setattr(shards, "__version__", "99.0")
    monkeypatch.setenv(COMMIT, "of-another-commit")
    summary = predicted(config)
    assert (len(summary.maps), summary.before) == (2, 1)
    assert summary.megapixels == pytest.approx(64 * 64 / 1e6), "the block that was done is kept"
    for name, version in (("0", "0.1.0"), ("1", "99.0")):
        with rasterio.open(tmp_path / "maps" / f"{name}.chm.tif") as raster:
            assert raster.tags()["TREELINE_VERSION"] == version
    made_with = json.loads((tmp_path / "maps" / "predict.json").read_text())
    assert (made_with["version"], made_with["commit"]) == ("99.0", "of-another-commit")
    assert predicted(config).before == 2


def test_an_overwriting_that_was_stopped_mixes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    for number in range(2):
        write_scene(tmp_path / f"scene_{number}.tif", scene_image(64, 64, number))
    other = write_checkpoint(tmp_path / "other", small_regressor(seed=1))
    out = tmp_path / "maps"
    config = PredictConfig((str(tmp_path / "*.tif"),), str(checkpoint), str(out), batch_size=BATCH)
    predicted(config)

    config = replace(config, checkpoint=str(other), overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        predicted(config, StoppingAfterOne)
    with pytest.raises(
        InputError, match=r"scene_1\.chm\.tif: already exists, made from another scene_1\.tif"
    ):
        predicted(replace(config, overwrite=False))
    again = predicted(config)
    assert len(again.maps) == 2
    alone = replace(config, out=str(tmp_path / "alone"))
    predicted(alone)
    for number in range(2):
        name = f"scene_{number}.chm.tif"
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_a_batch_size_is_found_once(checkpoint: Path, tmp_path: Path) -> None:
    """A folder's maps have one, which is found anew for another window."""
    for number in range(2):
        write_scene(tmp_path / f"scene_{number}.tif", scene_image(64, 64, number))

    class Trying(InProcess):
        asked = 0

        def batch_size(self, job: MapJob) -> int:
            Trying.asked += 1
            return 8

    out = tmp_path / "maps"
    config = PredictConfig((str(tmp_path / "scene_0.tif"),), str(checkpoint), str(out), batch_size=0)
    for asked, changed in enumerate((config, replace(config, window=48, overwrite=True)), 1):
        predicted(changed, Trying)
        predicted(replace(changed, scenes=(str(tmp_path / "*.tif"),)), Trying)
        assert Trying.asked == asked
        assert json.loads((out / "predict.json").read_text())["batch_size"] == 8
        for name in ("scene_0.chm.tif", "scene_1.chm.tif"):
            with rasterio.open(out / name) as raster:
                assert raster.tags()["TREELINE_BATCH_SIZE"] == "8"
        (out / "scene_1.chm.tif").unlink()


def test_maps_in_the_making_are_not_mixed(checkpoint: Path, tmp_path: Path) -> None:
    """Blocks of another checkpoint stay for those who go on with it."""
    scene = write_scene(tmp_path / "scene.tif", scene_image(64, 130))
    out, other = tmp_path / "maps", write_checkpoint(tmp_path / "other", small_regressor(seed=1))
    config = PredictConfig((str(scene),), str(checkpoint), str(out), batch_size=BATCH, block=64)

    with pytest.raises(KeyboardInterrupt):
        predicted(config, StoppingAfterOne)
    with pytest.raises(InputError, match=r"holds unfinished maps made with another checkpoint \("):
        predicted(replace(config, checkpoint=str(other)))
    assert len(list(out.glob(".predict/*/*.block"))) == 1
    predicted(replace(config, checkpoint=str(other), overwrite=True))
    alone = predicted_map(scene, other, tmp_path / "alone", block=64)
    assert (out / "scene.chm.tif").read_bytes() == alone.read_bytes()
    assert {path.suffix for path in (out / ".predict").iterdir()} == {".json", ".made"}


def test_what_lies_beside_a_map_is_of_that_map(checkpoint: Path, tmp_path: Path) -> None:
    """A picture and an item of the map before would stay for ever."""
    scene = write_scene(tmp_path / "scene.tif", scene_image(64, 64))
    config = PredictConfig((str(scene),), str(checkpoint), str(tmp_path / "maps"), batch_size=BATCH)
    beside = [tmp_path / "maps" / f"scene.chm.{ending}" for ending in ("png", "json")]
    predicted(replace(config, quick_look=True, stac=True))
    first = [path.read_bytes() for path in beside]
    turned = replace(config, symmetries=8)
    predicted(replace(turned, overwrite=True))
    assert not any(path.exists() for path in beside)
    predicted(replace(turned, stac=True))
    assert '"treeline:symmetries":"8"' in beside[1].read_text().replace(" ", "").replace(":8", ':"8"')
    assert "overview" not in beside[1].read_text()
    predicted(replace(turned, stac=True, quick_look=True))
    assert "overview" in beside[1].read_text(), "the item names the picture"
    assert [path.read_bytes() for path in beside] != first


def test_maps_may_lie_in_the_folder_of_their_scenes(checkpoint: Path, tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", scene_image(64, 64))
    for given in (str(tmp_path), str(tmp_path / "*.tif")):
        summary = predicted(PredictConfig((given,), str(checkpoint), str(tmp_path), batch_size=BATCH))
        assert (len(summary.maps), summary.failed) == (1, [])


def test_a_scene_that_is_written_again_meanwhile_is_not_mixed(checkpoint: Path, tmp_path: Path) -> None:
    first, second = (write_scene(tmp_path / f"{n}.tif", scene_image(64, 130, n)) for n in range(2))
    config = PredictConfig((str(tmp_path / "*.tif"),), str(checkpoint), str(tmp_path / "maps"), block=64)

    class Meddling(InProcess):
        def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
            every = list(tasks)
            yield from super().blocks(every[:1], job)
            write_scene(first, scene_image(64, 140, 7))
            yield from super().blocks(every[1:], job)

    summary = predicted(replace(config, batch_size=BATCH), Meddling)
    assert list(summary.maps) == [str(second)]
    assert [failed.reason for failed in summary.failed] == [
        f"{first}: was replaced while its map was being made; run the command again"
    ]


def test_the_place_in_a_batch_does_not_count(checkpoint: Path) -> None:
    """Of every size that is accepted, bit for bit; a batch of 6 would have other bits at its end."""
    regressor = load_checkpoint(str(checkpoint)).regressor
    for batch_size in (1, 2, 4, 8, 16, 32, 64):
        method = MapOptions(WindowGrid(64, 32), batch_size=batch_size)
        image_BCHW = torch.from_numpy(stored_images(batch_size, seed=batch_size))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as everywhere in prediction
        expected = predict_windows(regressor, image_BCHW, method).height_NSS
        for turn in {1, batch_size // 2, batch_size - 1}:
            rolled = predict_windows(regressor, image_BCHW.roll(turn, 0), method).height_NSS
            assert torch.equal(rolled, expected.roll(turn, 0)), (batch_size, turn)
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 6}, "--batch-size 6: give a power of 2"),
        ({"workers": -1}, "--workers -1: give 0 or more"),
        ({"gpus_per_worker": -0.5}, r"--gpus-per-worker -0\.5: give 0 or more"),
        ({"block": 0}, "--block 0: give 1 or more"),
    ],
)
def test_options_out_of_range_are_refused(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any], match: str
) -> None:
    scene = write_scene(tmp_path / "scene.tif", scene_image(64, 64))
    assert_refused(match, tmp_path / "maps", scene, checkpoint=checkpoint, **options)


@pytest.mark.parametrize("overlap", [0.0, 0.005])
def test_a_spread_of_one_prediction_is_refused(checkpoint: Path, tmp_path: Path, overlap: float) -> None:
    """It would be 0, which a mosaic takes as surest. A window of 64 cannot overlap by a third of a pixel."""
    scene = write_scene(tmp_path / "scene.tif", scene_image(96, 96))
    options = {"spread": True, "overlap": overlap}
    match = "--spread: .* each pixel has one prediction and no spread .*--overlap or --symmetries 8"
    assert_refused(match, tmp_path / "maps", scene, checkpoint=checkpoint, **options)


@pytest.mark.parametrize(
    ("decoder", "options"),
    [
        ("dpt", {"overlap": 0.0}),
        ("residual", {"overlap": 0.0, "symmetries": 8}),
        ("residual", {"overlap": 0.5}),
    ],
)
def test_a_spread_is_written_where_there_is_one(
    tmp_path: Path, decoder: str, options: dict[str, Any]
) -> None:
    shape = SMALL_DECODER if decoder == "residual" else DecoderConfig((32, 16, 16, 8), kind=decoder)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", small_regressor(decoder=shape))
    scene = write_scene(tmp_path / "scene.tif", stored_images(1, 96, 96)[0])
    with rasterio.open(predicted_map(scene, checkpoint, tmp_path / "maps", spread=True, **options)) as raster:
        assert (raster.read(2)[32:64, 32:64] > 0).mean() > 0.9


def test_another_scene_of_the_same_name_is_not_taken_for_it(checkpoint: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", scene_image(64, 64))
    path = predicted_map(scene, checkpoint, tmp_path / "maps")
    before = path.read_bytes()
    config = PredictConfig((str(scene),), str(checkpoint), str(tmp_path / "maps"), batch_size=BATCH)
    write_scene(scene, scene_image(64, 64, seed=1))
    with pytest.raises(InputError, match=r"made from another scene\.tif or an earlier version of it"):
        predicted(config)
    assert path.read_bytes() == before
    assert predicted(replace(config, overwrite=True)).before == 0
    assert path.read_bytes() != before


def test_what_is_asked_for_later_is_written_beside_maps_that_are_there(
    checkpoint: Path, tmp_path: Path
) -> None:
    scene = write_scene(tmp_path / "scene.tif", scene_image(64, 64))
    predicted_map(scene, checkpoint, tmp_path / "maps")
    config = PredictConfig((str(scene),), str(checkpoint), str(tmp_path / "maps"), batch_size=BATCH)
    assert predicted(replace(config, stac=True, quick_look=True)).before == 1
    assert {path.suffix for path in (tmp_path / "maps").glob("scene*")} == {".tif", ".json", ".png", ".qml"}


def test_a_map_of_unknown_origin_is_not_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", scene_image(64, 64))
    path = predicted_map(scene, checkpoint, tmp_path / "maps")
    (tmp_path / "maps" / "predict.json").unlink()
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"no predict\.json says what it is made with"):
        predicted(PredictConfig((str(scene),), str(checkpoint), str(tmp_path / "maps")))
    assert path.read_bytes() == before
