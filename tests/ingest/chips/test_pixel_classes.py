"""A class at each pixel as the chips' label: `--label land_cover --class-names 1=trees 2=crops`.

- pairs and scenes give the same chips, with the numbers as they were: scenes take the nearest pixel
- a chip with a number that has no name, or with no whole number, is refused as "unknown class" and listed
- the schema keeps the names; statistics and `inspect` have each class's share; formats keep both
- schemas without classes are stored as before; options that make no sense for classes are refused
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from in_process import treeline
from numpy.typing import NDArray
from rasterio import Affine

from ingest.chips.check import Rejected, Rules, checked
from ingest.config import PairsConfig, ScenesConfig, request_of
from shards.commands.convert import convert
from shards.commands.verify import verify
from shards.config import ConvertConfig, VerifyConfig
from shards.errors import InputError
from shards.format.schema import LAST_CLASS, Schema
from shards.format.statistics import Counts, statistics_json
from shards.read.dataset import Dataset, open_dataset

SIZE = 16
NAMES = ("1=trees", "2=crops", "7=built up")
CLASSES = [1, 2, 7]
FLAGS = ["--label", "land_cover", "--class-names", *NAMES]
PLACE = Affine(10, 0, 500_000, 0, -10, 7_000_000)


def classes(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.uint8]:
    return rng.choice(np.array(CLASSES, np.uint8), (rows, columns), p=[0.6, 0.3, 0.1])


def write(path: Path, array_CHW: NDArray[Any], place: Affine = PLACE, nodata: float | None = None) -> None:
    count, height, width = array_CHW.shape
    profile = {"count": count, "height": height, "width": width, "dtype": array_CHW.dtype}
    with rasterio.open(
        path, "w", "GTiff", crs="EPSG:32633", transform=place, nodata=nodata, **profile
    ) as raster:
        raster.write(array_CHW)


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, NDArray[np.uint8]]:
    """Eight chips of .npy below images and classes; c7 has a class 9, and c6 half a class."""
    rng = np.random.default_rng(5)
    for folder in ("images", "classes"):
        (tmp_path / folder).mkdir()
    made = {}
    for number in range(8):
        class_HW = classes(rng, SIZE, SIZE)
        made[f"c{number}"] = class_HW
        stored: Any = class_HW
        if number == 6:
            stored = class_HW + np.float32(0.5) * (class_HW == 7)
        elif number == 7:
            stored = class_HW.copy()
            stored[3, 3:5] = 9
        image_CHW = rng.integers(1, 99, (2, SIZE, SIZE)).astype(np.int16)
        np.save(tmp_path / "images" / f"c{number}.npy", image_CHW)
        np.save(tmp_path / "classes" / f"c{number}.npy", stored)
    return made


def ingest_pairs(folder: Path, *options: str) -> Any:
    return treeline(
        *("ingest", "pairs", "--images", "images", "--heights", "classes", "--out", "chips"),
        *("--bands", "vv", "vh", "--chip-size", str(SIZE), *options),
        folder=folder,
    )


def labels(dataset: Dataset) -> dict[str, NDArray[np.float32]]:
    batch = dataset.gather(dataset.chips("all"))
    return dict(zip(dataset.index["key"].to_pylist(), batch.height_BHW, strict=True))


def test_pairs_keep_their_classes_and_unknown_ones_are_listed(
    pairs: dict[str, NDArray[np.uint8]], tmp_path: Path
) -> None:
    done = ingest_pairs(tmp_path, *FLAGS)
    assert done.returncode == 0, done.stderr
    dataset = open_dataset(str(tmp_path / "chips"))
    assert dataset.schema.class_names == ((1, "trees"), (2, "crops"), (7, "built up"))
    assert (dataset.schema.label, dataset.schema.label_unit) == ("land_cover", "")
    found = labels(dataset)
    assert found.keys() == pairs.keys() - {"c6", "c7"}
    for key, label_HW in found.items():
        np.testing.assert_array_equal(label_HW, pairs[key])
    assert dataset.manifest.rejected == {"unknown class": 2}
    details = dict(zip(*(dataset.rejected[name].to_pylist() for name in ("key", "detail")), strict=True))
    assert "land_cover is 7.5" in details["c6"]
    assert details["c7"] == "land_cover is 9, and 0.8% have no name"
    assert verify(VerifyConfig(dataset.url)) == []


def test_statistics_and_inspect_have_the_share_of_each_class(
    pairs: dict[str, NDArray[np.uint8]], tmp_path: Path
) -> None:
    assert ingest_pairs(tmp_path, *FLAGS, "--shares", "1").returncode == 0
    dataset = open_dataset(str(tmp_path / "chips"))
    every_N = np.stack(list(labels(dataset).values())).ravel()
    summary = dataset.statistics.height
    assert summary is not None
    assert summary.classes == {
        name: pytest.approx((every_N == number).mean()) for number, name in dataset.schema.class_names
    }
    assert (summary.minimum, summary.maximum) == (1, 7)
    assert summary.mean == pytest.approx(every_N.mean())
    done = treeline("inspect", "chips", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "chips-inspect" / "index.html").read_text()
    for name, share in summary.classes.items():
        assert re.search(rf"{name}.{{0,80}}{share:.2%}", page, re.DOTALL), name
    assert "Land_cover classes" in page


def test_formats_keep_classes(pairs: dict[str, NDArray[np.uint8]], tmp_path: Path) -> None:
    assert ingest_pairs(tmp_path, *FLAGS).returncode == 0
    first = open_dataset(str(tmp_path / "chips"))
    for source, form in (("chips", "zarr"), ("zarr", "tar")):
        convert(ConvertConfig(str(tmp_path / source), form, str(tmp_path / form)))  # type: ignore[arg-type]
        copy = open_dataset(str(tmp_path / form))
        assert copy.schema == first.schema
        assert copy.statistics == first.statistics
        assert verify(VerifyConfig(copy.url)) == []
    group = json.loads(next((tmp_path / "zarr").glob("*.zarr/zarr.json")).read_text())
    assert group["attributes"]["class_names"] == {"1": "trees", "2": "crops", "7": "built up"}


@pytest.mark.parametrize("finer", [1, 3])
def test_scenes_take_the_nearest_class(tmp_path: Path, finer: int) -> None:
    """Averages would be between two classes, and refused."""
    rng = np.random.default_rng(6)
    side = 3 * SIZE
    write(tmp_path / "image.tif", rng.integers(1, 99, (2, side, side)).astype(np.int16), nodata=-9999)
    class_HW = classes(rng, side * finer, side * finer)
    class_HW[:finer, :finer] = 0
    write(tmp_path / "cover.tif", class_HW[None], PLACE @ Affine.scale(1 / finer), nodata=0)
    command = ["ingest", "scenes", "--images", "image.tif", "--bands", "vv", "vh", "--heights", "cover.tif"]
    command += ["--chip-size", str(SIZE), "--min-valid", "0.9", "--shares", "1", *FLAGS]
    for out, options in {"chips": [], "again": ["--height-resampling", "nearest"]}.items():
        done = treeline(*command, "--out", out, *options, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        dataset = open_dataset(str(tmp_path / out))
        assert dataset.index.num_rows == 9
        middle_HW = class_HW[finer // 2 :: finer, finer // 2 :: finer].astype(np.float32)
        middle_HW[0, 0] = np.nan
        for key, label_HW in labels(dataset).items():
            top, left = map(int, key.rsplit("_", 2)[1:])
            np.testing.assert_array_equal(label_HW, middle_HW[top : top + SIZE, left : left + SIZE])
    for other in ("average", "bilinear", "max"):
        done = treeline(*command, "--out", "c", "--height-resampling", other, folder=tmp_path)
        assert done.returncode == 2
        assert "--height-resampling: does nothing with --class-names" in done.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--class-names", *NAMES], "--class-names: does nothing with --label height"),
        ([*FLAGS, "--min-height", "0"], "--min-height: does nothing with --class-names"),
        ([*FLAGS, "--label-unit", "m"], "--label-unit: does nothing with --class-names"),
        ([*FLAGS, "--registration"], "--registration: does nothing with --class-names"),
        (["--label", "c", "--class-names", "trees"], "--class-names trees: write NUMBER=NAME"),
        (["--label", "c", "--class-names", "1.5=a"], "--class-names 1.5=a: write NUMBER=NAME"),
        (["--label", "c", "--class-names", "1="], "--class-names 1=: give names to numbers from 0"),
        (["--label", "c", "--class-names", "2048=a"], "2048=a: give names to numbers from 0 to 2047"),
        (["--label", "c", "--class-names", "1=a", "1=b"], "a number or a name is there twice"),
        (["--label", "c", "--class-names", "1=a", "2=a"], "a number or a name is there twice"),
        (["--label", "c", "--class-names", "9=a", "--nodata", "9"], "9 means missing"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    pairs: dict[str, NDArray[np.uint8]], tmp_path: Path, options: list[str], why: str
) -> None:
    done = ingest_pairs(tmp_path, *options)
    assert done.returncode == 2
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "chips").exists()


def test_a_schema_without_classes_is_stored_as_before() -> None:
    plain = Schema(("red",), label="biomass", label_unit="t/ha")
    assert list(plain.to_json()) == [
        *("bands", "dtype", "nodata", "chip_size", "pixel_size", "label", "label_unit"),
    ]
    named = Schema(
        ("red",), label="cover", label_unit="", class_names=((3, "b"), (LAST_CLASS, "c"), (0, "a"))
    )
    assert named.class_names == ((0, "a"), (3, "b"), (LAST_CLASS, "c"))
    for schema in (plain, named):
        assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    with pytest.raises(InputError, match="a label of classes has another name than ''"):
        Schema(("red",), label="", class_names=((1, "a"),))


def test_requests_without_classes_are_those_of_before() -> None:
    """So an ingest that began before the options existed is continued by the same command."""
    pairs = request_of(PairsConfig(images="i", out="o"))["config"]
    scenes = request_of(ScenesConfig(images=("i",), out="o"))["config"]
    assert "class_names" not in pairs
    assert not {"class_names", "label", "label_unit"} & scenes.keys()
    assert pairs["label"] == "height"


@pytest.mark.parametrize("number", [0, 1, 255, 1000, LAST_CLASS])
def test_each_number_is_counted_by_itself(
    new_chip: Callable[..., Any], write_dataset: Callable[..., Any], number: int
) -> None:
    """Statistics count float32 in bins: each holds one class."""
    neighbours = [other for other in (number - 1, number, number + 1) if 0 <= other <= LAST_CLASS]
    schema = Schema(
        ("red",), label="c", label_unit="", chip_size=6, class_names=tuple((n, f"n{n}") for n in neighbours)
    )
    label_HW = np.resize(np.array(neighbours, np.float32), (6, 6))
    chip = new_chip(0, schema)
    image_CHW, height_HW = checked(chip.image_CHW, label_HW, schema, Rules(min_height=99999.0))
    object.__setattr__(chip, "height_HW", height_HW)
    summary = statistics_json(Counts.of_chips([chip], schema), schema)["height"]
    assert summary["classes"] == {f"n{n}": pytest.approx(1 / len(neighbours)) for n in neighbours}
    assert (summary["minimum"], summary["maximum"]) == (neighbours[0], neighbours[-1])
    with pytest.raises(Rejected, match="unknown class"):
        checked(image_CHW, label_HW + 3, schema, Rules())
