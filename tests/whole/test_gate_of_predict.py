"""What a raster must be before it is mapped: a table of inputs, through the command line.

- A row that is refused has its exit code, its line and its cure, and leaves no map.
- A row that is read gives the heights of the same scene as training knows it, and nodata where pixels are
  missing.
"""

import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
from honest_scenes import plain_scene, statistics, stored
from in_process import treeline
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from regressors import NODATA, small_regressor, write_checkpoint

from inference.scenes.scene import Scene
from inference.tiling.windows import Block, Span
from shards.format.schema import Schema

SIDE = 96
UTM = "EPSG:32606"
PLACE = Affine(2, 0, 500_000, 0, -2, 7_200_000)
FOOT = 0.3048
MISSING = np.s_[20:44, 60:90]
"""Pixels that a row marks as missing, in some way."""


class Row(NamedTuple):
    """A kind of input."""

    write: Callable[[Path], Any]
    """Writes SCENE.tif, or what stands for it."""
    line: str = ""
    """What is said, on whichever stream; "": nothing of a finding."""
    code: int = 0
    options: tuple[str, ...] = ()
    missing: bool = False
    """Whether the pixels of MISSING are missing."""


def image() -> NDArray[np.int16]:
    """An honest scene (4, rows, columns) without missing pixels."""
    image_CHW = stored(plain_scene(3001))[:, :SIDE, :SIDE]
    median_C11 = np.median(image_CHW, axis=(1, 2), keepdims=True)
    filling_CHW = median_C11 * np.random.default_rng(0).uniform(0.9, 1.1, image_CHW.shape)
    return np.where(image_CHW == NODATA, filling_CHW, image_CHW).astype(np.int16)


def write(path: Path, image_CHW: NDArray[Any], **more: Any) -> None:
    names, kinds = more.pop("names", (*("blue", "green", "red", "nir"),)), more.pop("kinds", None)
    given = {"crs": UTM, "transform": PLACE, "nodata": None, **more}
    if given["transform"] is None:
        del given["transform"]
    shape = dict(zip(("count", "height", "width"), image_CHW.shape, strict=True))
    with rasterio.open(path, "w", driver="GTiff", dtype=image_CHW.dtype.name, **shape, **given) as raster:
        raster.colorinterp = kinds or [ColorInterp.undefined] * len(image_CHW)
        if names:
            raster.descriptions = names
        raster.write(image_CHW)


def holed(value: float, dtype: str = "int16") -> NDArray[Any]:
    image_CHW = image().astype(dtype)
    image_CHW[:, *MISSING] = value
    return image_CHW


def in_mask(path: Path) -> None:
    write(path, image())
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as raster:
        raster.write_mask(~hole())


def hole() -> NDArray[np.bool_]:
    hole_HW = np.zeros((SIDE, SIDE), np.bool_)
    hole_HW[MISSING] = True
    return hole_HW


def in_alpha(path: Path) -> None:
    alpha_1HW = np.where(hole(), 0, 255).astype(np.int16)[None]
    kinds = [*[ColorInterp.undefined] * 4, ColorInterp.alpha]
    write(path, np.concatenate([image(), alpha_1HW]), names=(*BANDS_OF_SCENE, "alpha"), kinds=kinds)


BANDS_OF_SCENE = ("blue", "green", "red", "nir")


def with_control_points(path: Path) -> None:
    corners = [(0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE)]
    points = [GroundControlPoint(row, column, *(PLACE @ (column, row))) for row, column in corners]
    with rasterio.open(
        path, "w", driver="GTiff", dtype="int16", count=4, height=SIDE, width=SIDE, gcps=points, crs=UTM
    ) as raster:
        raster.descriptions = BANDS_OF_SCENE
        raster.write(image())


def masked_as_nir(path: Path, dtype: str, mark: int, colour: ColorInterp = ColorInterp.undefined) -> None:
    """Four bands without names, of which the last is a mask."""
    stored_CHW = (image()[[2, 1, 0, 3]] % 250 if dtype == "uint8" else image()[[2, 1, 0, 3]]).astype(dtype)
    stored_CHW[3] = np.where(hole(), 0, mark)
    write(
        path,
        stored_CHW,
        names=None,
        kinds=[*RED_FIRST[:3], colour],
        nodata=-9999 if dtype == "int16" else None,
    )


RED_FIRST = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined]
DEGREES = Affine(2e-5, 0, -147, 0, -2e-5, 64.9)
REFUSED = {
    "feet": Row(
        lambda path: write(path, image(), crs="EPSG:2222", transform=Affine(2, 0, 7e5, 0, -2, 9e5)),
        "pixels are 2 x 2 foot (0.6096 x 0.6096 m), not 2 x 2 m as in training; resample it: gdalwarp -t_srs "
        "EPSG:32612 -tr 2 2",
        2,
    ),
    "degrees": Row(
        lambda path: write(path, image(), crs="EPSG:4326", transform=DEGREES),
        "gdalwarp -t_srs EPSG:3338 -tr 2 2",
        2,
    ),
    "oblong": Row(
        lambda path: write(path, image(), transform=Affine(2, 0, 500_000, 0, -4, 7_200_000)),
        "pixels are 2 x 4 m, not 2 x 2 m",
        2,
    ),
    "Web Mercator far north": Row(
        lambda path: write(path, image(), crs="EPSG:3857", transform=Affine(2, 0, -1.67e7, 0, -2, 9.6e6)),
        "pixels are 2 x 2 metre (0.8",
        2,
    ),
    "divided by ten": Row(
        lambda path: write(path, image() // 10), "all bands as if divided by 10; multiply the scene by 10", 2
    ),
    "times four": Row(
        lambda path: write(path, np.minimum(image().astype(np.int32) * 4, 32_767).astype(np.int16)),
        "all bands as if multiplied by",
        2,
    ),
    "red green blue nir, unnamed": Row(
        lambda path: write(path, image()[[2, 1, 0, 3]], names=None), "--bands red green blue nir", 2
    ),
    "bands in reverse, unnamed": Row(
        lambda path: write(path, image()[::-1].copy(), names=None), "--bands nir red green blue", 2
    ),
    **{
        f"a mask of {dtype} in the place of nir": Row(
            partial(masked_as_nir, dtype=dtype, mark=mark),
            f"band 4, taken as nir, has only 0 and {mark}; is it a mask or alpha? if so, it lacks nir and "
            "cannot be used with this model; if not, give --bands red green blue nir, or",
            2,
        )
        for dtype, mark in (
            ("uint8", 255),
            ("uint16", 65_535),
            ("int16", 255),
            ("int16", 10_000),
            ("int16", 1),
        )
    },
    "an alpha band beside three": Row(
        partial(masked_as_nir, dtype="int16", mark=255, colour=ColorInterp.alpha),
        "if so, it lacks nir and cannot be used with this model",
        2,
    ),
    "nothing but zeros": Row(
        lambda path: write(path, 0 * image()),
        "100 % of pixels are 0 in all bands; is the image empty? if so, leave it out; if a part of it is "
        "measured, give --nodata 0, or give --on-mismatch note",
        2,
    ),
    "one value but for a few pixels": Row(
        lambda path: write(
            path,
            np.where(np.arange(SIDE**2).reshape(SIDE, SIDE) == 99, 1, 7).astype(np.int16)
            * np.ones((4, 1, 1), np.int16),
        ),
        "% of pixels are 7 in all bands; is the image empty?",
        2,
    ),
    "three bands and an alpha, named": Row(
        partial(masked_as_nir, dtype="int16", mark=255, colour=ColorInterp.alpha),
        "lacks band nir; it has red green blue, and cannot be used with this model",
        2,
        ("--bands", "red", "green", "blue"),
    ),
    "beyond the type of training": Row(
        lambda path: write(path, np.where(hole(), 40_000, image()).astype(np.uint16)),
        "beyond the int16 of training; if that means a missing pixel, give --nodata",
        2,
    ),
    "other bands": Row(
        lambda path: write(path, image(), names=("VV", "VH", "HH", "HV")),
        "name them in order with --bands",
        2,
    ),
    "complex numbers": Row(
        lambda path: write(path, image().astype(np.complex64)), "pixels are complex64; derive one real", 2
    ),
    "control points alone": Row(with_control_points, "has ground control points only", 2),
    "no geotransform": Row(
        lambda path: write(path, image(), transform=None), "has a CRS but no geotransform", 2
    ),
    "no CRS": Row(lambda path: write(path, image(), crs=None), "has no CRS", 2),
}
READ = {
    "as in training": Row(lambda path: write(path, image())),
    "feet of the same ground": Row(
        lambda path: write(
            path, image(), crs="EPSG:2222", transform=Affine(2 / FOOT, 0, 7e5, 0, -2 / FOOT, 9e5)
        )
    ),
    "south up": Row(lambda path: write(path, image(), transform=Affine(2, 0, 500_000, 0, 2, 7_200_000))),
    "turned": Row(
        lambda path: write(path, image(), transform=PLACE @ Affine.rotation(30)),
        "the grid is turned by -30 degrees",
    ),
    "red first by its colours, unnamed": Row(
        lambda path: write(path, image()[[2, 1, 0, 3]], names=None, kinds=RED_FIRST),
        "bands have no names; taken as red green blue nir by their colours; if they are others, give --bands",
    ),
    "unnamed": Row(
        lambda path: write(path, image(), names=None),
        "bands have no names; taken as blue green red nir in this order; if they are others, give --bands",
    ),
    "other names of bands": Row(lambda path: write(path, image(), names=("Blue", "Green", "Red", "NIR1"))),
    "names by --bands": Row(
        lambda path: write(path, image(), names=("a", "x", "y", "z")),
        options=("--bands", "blue", "green", "red", "nir"),
    ),
    "uint16": Row(
        lambda path: write(path, image().astype(np.uint16)), "pixels are uint16, read as the int16"
    ),
    "float32": Row(lambda path: write(path, image().astype(np.float32)), "pixels are float32, read as"),
    "nodata": Row(lambda path: write(path, holed(-1), nodata=-1), missing=True),
    "internal mask": Row(in_mask, missing=True),
    "alpha band": Row(in_alpha, missing=True),
    "NaN": Row(lambda path: write(path, holed(math.nan, "float32")), "read as", missing=True),
    "lowest float32, undeclared": Row(
        lambda path: write(path, holed(-3.4028235e38, "float32")), "read as", missing=True
    ),
    "zeros named by --nodata": Row(
        lambda path: write(path, holed(0)), options=("--nodata", "0"), missing=True
    ),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    return str(write_checkpoint(folder, small_regressor(statistics=statistics())))


@pytest.fixture(scope="module")
def heights(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.int16]:
    """The map of the honest scene."""
    folder = tmp_path_factory.mktemp("expected")
    write(folder / "scene.tif", image())
    assert mapped(folder, checkpoint).returncode == 0
    return map_of(folder)


def mapped(folder: Path, checkpoint: str, *options: str) -> Any:
    out = str(folder / "maps")
    command = ["predict", str(folder / "scene.tif"), "--checkpoint", checkpoint, "--out", out]
    return treeline(*command, "--batch-size", "4", *options)


def map_of(folder: Path) -> NDArray[np.int16]:
    with rasterio.open(folder / "maps" / "scene.chm.tif") as raster:
        heights_HW: NDArray[np.int16] = raster.read(1)
    return heights_HW


def said_of(done: Any) -> str:
    return " ".join(f"{done.stdout}\n{done.stderr}".split())


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # of the test's own file
@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_give_a_wrong_map_is_refused(kind: str, checkpoint: str, tmp_path: Path) -> None:
    row = REFUSED[kind]
    row.write(tmp_path / "scene.tif")
    done = mapped(tmp_path, checkpoint, *row.options)
    assert row.line in said_of(done)
    assert done.returncode == row.code
    assert not list(tmp_path.glob("maps/*.tif"))


@pytest.mark.parametrize("kind", READ)
def test_what_is_honest_is_read_as_training_knows_it(
    kind: str, checkpoint: str, heights: NDArray[np.int16], tmp_path: Path
) -> None:
    row = READ[kind]
    row.write(tmp_path / "scene.tif")
    done = mapped(tmp_path, checkpoint, *row.options)
    assert done.returncode == 0, said_of(done)
    assert row.line in said_of(done)
    assert row.line or "differs from the training" not in done.stdout
    found_HW = map_of(tmp_path)
    if row.missing:
        np.testing.assert_array_equal(found_HW == NODATA, hole())
    else:
        np.testing.assert_array_equal(found_HW, heights)


def test_zeros_that_nobody_declares_are_asked_about(checkpoint: str, tmp_path: Path) -> None:
    write(tmp_path / "scene.tif", holed(0))
    done = mapped(tmp_path, checkpoint)
    assert done.returncode == 0
    assert re.search(r"\d+ % of pixels are 0 in all bands; is 0 nodata\?", said_of(done))
    assert "is 0 nodata? if so, give --nodata 0" in said_of(done)
    with rasterio.open(tmp_path / "maps" / "scene.chm.tif") as raster:
        assert "is 0 nodata?" in raster.tags()["TREELINE_FINDINGS"]


def test_a_measured_value_that_training_takes_for_missing_is_measured_under_a_mask(tmp_path: Path) -> None:
    """As ingest stores it: the next value."""
    image_CHW = (1 + image() % 200).astype(np.uint8)
    image_CHW[:, 0] = 0
    write(tmp_path / "scene.tif", image_CHW)
    with rasterio.open(tmp_path / "scene.tif", "r+") as raster:
        raster.write_mask(~hole())
    schema = Schema(BANDS_OF_SCENE, "uint8", 0)
    with Scene(str(tmp_path / "scene.tif"), schema, ()) as scene:
        found_CHW = scene.pixels(Block(Span(0, SIDE), Span(0, SIDE)))
    np.testing.assert_array_equal(found_CHW == 0, np.broadcast_to(hole(), found_CHW.shape))
    assert (found_CHW[:, 0] == 1).all()


def test_what_is_assumed_of_names_changes_no_map(checkpoint: str, tmp_path: Path) -> None:
    """It is said, and its tags are those of before."""
    write(tmp_path / "scene.tif", image(), names=None)
    assert "taken as blue green red nir" in mapped(tmp_path, checkpoint).stderr
    with rasterio.open(tmp_path / "maps" / "scene.chm.tif") as raster:
        assert "TREELINE_FINDINGS" not in raster.tags()


def test_scenes_that_fail_alike_are_one_line(checkpoint: str, tmp_path: Path) -> None:
    """With their number and the first one; a file has them all."""
    for number in range(12):
        write(tmp_path / f"radar_{number:02}.tif", image()[:2], names=("VV", "VH"))
    write(tmp_path / "scene.tif", image(), crs=None)
    out = str(tmp_path / "maps")
    done = treeline("predict", str(tmp_path), "--checkpoint", checkpoint, "--out", out)
    assert done.returncode == 2
    first, *failed = [line for line in done.stdout.splitlines() if line]
    assert first == "0 maps made, 0 there before, 13 scenes failed"
    lacks = "lacks band blue and green and red and nir; it has VV VH"
    assert failed[0].startswith(f"failed: 12 scenes, such as {tmp_path}/radar_00.tif: {lacks}")
    assert failed[1].startswith(f"failed: {tmp_path}/scene.tif: has no CRS")
    assert failed[2:] == [f"all scenes that failed: {out}/failed.json"]
    reasons = json.loads((tmp_path / "maps" / "failed.json").read_text())
    assert sorted(reasons) == sorted(map(str, tmp_path.glob("*.tif")))
    assert all(reason.startswith(f"{scene}: ") for scene, reason in reasons.items())


def test_a_note_is_no_alarm(checkpoint: str, tmp_path: Path) -> None:
    write(tmp_path / "scene.tif", image().astype(np.uint16))
    done = mapped(tmp_path, checkpoint)
    assert "notes on 1 scene, said at the beginning, are in the maps' tags" in done.stdout
    assert "differs" not in done.stdout


@pytest.mark.parametrize(
    ("least", "said"), [(9, "as if stretched to 0 to 255"), (20, "as if divided by about")]
)
def test_scenes_that_are_refused_for_one_reason_are_one_line_whatever_their_numbers(
    least: int, said: str, checkpoint: str, tmp_path: Path
) -> None:
    """Four tiles of bytes without names, each with a median of its own, and some with a factor of its own."""
    for number in range(4):
        bytes_CHW = np.clip(image() / (least + number), 1, 255).astype(np.uint8)
        write(tmp_path / f"naip_{number}.tif", bytes_CHW, names=None)
    done = treeline("predict", str(tmp_path), "--checkpoint", checkpoint, "--out", str(tmp_path / "maps"))
    assert done.returncode == 2
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1, failed
    assert failed[0].startswith(f"failed: 4 scenes, such as {tmp_path}/naip_0.tif: band nir has the median")
    assert said in failed[0]
    reasons = json.loads((tmp_path / "maps" / "failed.json").read_text())
    assert len(set(reasons.values())) == 4
