"""Chips of any sensor: the schema is the dataset's, and nothing is fixed to 4 bands, 64 pixels or heights.

- .npy, .npz and GeoTIFF files of the same arrays make the same dataset; a GeoTIFF also says where it is
- float32 of any size without labels, with a table of attributes: every bit comes back, NaN included, from
  tar, Zarr and WebDataset, on disk and on S3; statistics are within the error that is stated
- labels other than heights; bytes of RGB; eight bands
- a table says which chips are taken
- without labels training is refused; of two bands of decibels it takes steps
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
import webdataset
from numpy.typing import NDArray
from rasterio.transform import from_origin
from regressors import fitted, small_config

from ingest.config import PairsConfig
from ingest.files.pairs_source import PairsSource
from ingest.work.run import Ingested, ingest
from shards.commands.convert import convert
from shards.commands.verify import verify
from shards.config import ConvertConfig, VerifyConfig
from shards.errors import InputError
from shards.format.histogram import SKETCH_ERROR
from shards.format.key import split_of
from shards.read.chip_reader import ChipReader
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import find_files, join, read_bytes
from trainer.commands.train_on_ray import launch
from trainer.config import EvaluateConfig
from trainer.evaluate.heights import LINEAR, MEAN, evaluate

CRS = "EPSG:3338"
PIXEL_M = 2.0
TRAIN, VAL = 16, 8
SHARD = 4
"""Chips in a shard of the SAR dataset, all of them full: copied to Zarr and back, shards are the same."""


def run(images: Path | str, heights: Path | str, out: Path | str, **options: Any) -> Ingested:
    config = PairsConfig(images=str(images), heights=str(heights), out=str(out), **options)
    return ingest(PairsSource(config), config)


def opened(images: Path | str, heights: Path | str, out: Path | str, **options: Any) -> Dataset:
    run(images, heights, out, **options)
    return open_dataset(str(out))


def contents(url: Path | str) -> dict[str, bytes]:
    return {name: read_bytes(join(str(url), name)) for name in find_files(str(url))}


def corner(number: int) -> tuple[float, float]:
    """West and north of chip `number`, in metres of CRS."""
    return 200_000.0 + 128 * number, 1_700_000.0 - 64 * number


def save(
    path: Path, array: NDArray[Any], number: int = 0, crs: str | None = CRS, nodata: float | None = None
) -> None:
    """Write an array, (bands, rows, columns) or (rows, columns), in the way that the ending says."""
    if path.suffix.lower() == ".npy":
        with path.open("wb") as file:  # a path in capitals would get another ending
            np.save(file, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, values=array)
    else:
        bands_CHW = array if array.ndim == 3 else array[None]
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            dtype=array.dtype,
            count=len(bands_CHW),
            height=bands_CHW.shape[1],
            width=bands_CHW.shape[2],
            crs=crs,
            transform=from_origin(*corner(number), PIXEL_M, PIXEL_M),
            nodata=nodata,
        ) as raster:
            raster.write(bands_CHW)


def rows_by_key(dataset: Dataset) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in dataset.index.to_pylist()}


def bits(array: NDArray[Any]) -> NDArray[Any]:
    """Float32 as whole numbers: NaN is equal to itself, and 0 is not -0."""
    return np.ascontiguousarray(array, np.float32).view(np.uint32)


# --- files of all kinds ---


@pytest.fixture
def pairs(new_chip: Callable[..., Any], tmp_path: Path) -> Callable[[str, list[str], list[str]], Path]:
    """pairs(name, image kinds, height kinds): a folder of KEY_img.* and KEY_chm.*; kinds take turns."""

    def make(name: str, image_kinds: list[str], height_kinds: list[str]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number in range(6):
            chip = new_chip(number)
            image_kind = image_kinds[number % len(image_kinds)]
            height_kind = height_kinds[number % len(height_kinds)]
            save(folder / f"{chip.key}_img.{image_kind}", chip.image_CHW, number)
            save(folder / f"{chip.key}_chm.{height_kind}", chip.height_HW, number)
        return folder

    return make


NAMED = {"image_name": "(?P<key>.+)_img", "height_name": "(?P<key>.+)_chm"}


@pytest.mark.parametrize(
    ("image_kinds", "height_kinds"),
    [
        (["npy"], ["npz"]),
        (["npz"], ["tif"]),
        (["tif"], ["npy"]),
        (["tif"], ["tif"]),
        (["npy"], ["tif"]),
        (["npy", "npz", "tif", "TIFF"], ["tif", "NPY", "npz"]),
    ],
    ids=lambda kinds: "+".join(kinds),
)
def test_the_same_arrays_in_any_files_are_the_same_dataset(
    pairs: Callable[..., Path], tmp_path: Path, image_kinds: list[str], height_kinds: list[str]
) -> None:
    plain, other = pairs("plain", ["npy"], ["npy"]), pairs("other", image_kinds, height_kinds)
    expected = opened(plain, plain, tmp_path / "expected", **NAMED)
    found = opened(other, other, tmp_path / "found", **NAMED)
    assert found.manifest.rejected == {}
    assert found.manifest.fingerprint == expected.manifest.fingerprint
    assert found.statistics == expected.statistics
    expected_rows = rows_by_key(expected)
    for key, row in rows_by_key(found).items():
        west, north = corner(row["number"])
        is_placed = image_kinds[row["number"] % len(image_kinds)].lower().startswith("tif")
        place = (west + 64, north - 64, CRS) if is_placed else (None, None, None)
        assert (row["x"], row["y"], row["crs"]) == place
        same = {name: value for name, value in row.items() if name not in ("x", "y", "crs")}
        assert same == {name: expected_rows[key][name] for name in same}
    assert verify(VerifyConfig(found.url)) == []


def test_the_array_of_an_npz_is_chosen_by_name(new_chip: Callable[..., Any], tmp_path: Path) -> None:
    chip = new_chip(0)
    np.savez(tmp_path / "a.npz", image=chip.image_CHW, height=chip.height_HW)
    np.savez(tmp_path / "b.npz", height=chip.height_HW)
    for name in ("a", "b"):
        (tmp_path / "heights").mkdir(exist_ok=True)
        np.savez(tmp_path / "heights" / f"{name}.npz", image=chip.height_HW)
    dataset = opened(tmp_path, tmp_path / "heights", tmp_path / "out", array="image", shares=(1.0,))
    np.testing.assert_array_equal(dataset.gather(dataset.chips("all")).image_BCHW, chip.image_CHW[None])
    (refused,) = dataset.rejected.to_pylist()
    assert (refused["key"], refused["reason"]) == ("b", "unreadable")
    assert "holds no array 'image'" in refused["detail"]
    with pytest.raises(InputError, match=r"holds several arrays \(image, height\); choose one with --array"):
        run(tmp_path, tmp_path / "heights", tmp_path / "other", strict=True, shares=(1.0,))


def test_rasters_that_do_not_say_one_place_are_refused(new_chip: Callable[..., Any], tmp_path: Path) -> None:
    images, heights = tmp_path / "images", tmp_path / "heights"
    images.mkdir()
    heights.mkdir()
    for number, name in enumerate(("good", "moved", "nowhere", "damaged")):
        chip = new_chip(number)
        save(images / f"{name}.tif", chip.image_CHW, number, None if name == "nowhere" else CRS)
        save(heights / f"{name}.tif", chip.height_HW, number + (name == "moved"))
    (images / "damaged.tif").write_bytes((images / "damaged.tif").read_bytes()[:2000])
    dataset = opened(images, heights, tmp_path / "out")
    reasons = {row["key"]: row["reason"] for row in dataset.rejected.to_pylist()}
    assert reasons == {"moved": "not the same place", "nowhere": "no CRS", "damaged": "unreadable"}
    assert dataset.index["key"].to_pylist() == ["good"]


@pytest.mark.parametrize(
    ("dtype", "mark"),
    [("float32", -3.4028234663852886e38), ("float64", -1e39), ("int16", -32767), ("uint8", 255)],
)
def test_what_a_raster_says_is_missing_is_no_height(
    new_chip: Callable[..., Any], tmp_path: Path, dtype: str, mark: float
) -> None:
    images, heights = tmp_path / "images", tmp_path / "heights"
    images.mkdir()
    heights.mkdir()
    height_HW = np.minimum(new_chip(0).height_HW, 100).astype(dtype)
    height_HW[:4] = mark
    save(images / "a.npy", new_chip(0).image_CHW)
    save(heights / "a.tif", height_HW, nodata=mark)
    dataset = opened(images, heights, tmp_path / "out", min_valid=0.5, shares=(1.0,))
    (stored_HW,) = dataset.gather(dataset.chips("all")).height_BHW
    assert np.isnan(stored_HW[:4]).all()
    np.testing.assert_array_equal(stored_HW[4:], height_HW[4:].astype(np.float32))


@pytest.mark.parametrize(
    ("dtype", "own", "nodata", "expected"),
    [
        ("int16", 0, -9999, -9999),
        ("int16", -9999, -9999, -9999),
        ("float32", 0, -9999, np.nan),
        ("float32", -9999, None, np.nan),
        ("uint8", 0, None, 0),  # no pixel is missing: it was asked for so
        ("uint8", 0, 255, 255),
    ],
)
def test_what_a_raster_says_is_missing_is_no_pixel(
    tmp_path: Path, dtype: str, own: float, nodata: float | None, expected: float
) -> None:
    image_CHW = np.random.default_rng(1).integers(1, 200, (3, 16, 16)).astype(dtype)
    image_CHW[1, :4] = own
    save(tmp_path / "a.tif", image_CHW, nodata=own)
    options: dict[str, Any] = {"bands": ("r", "g", "b"), "dtype": dtype, "chip_size": 16, "min_valid": 0.5}
    dataset = opened(tmp_path, "", tmp_path / "out", nodata=nodata, **options)
    (stored_CHW,) = dataset.gather(dataset.chips("all")).image_BCHW
    image_CHW[1, :4] = expected
    np.testing.assert_array_equal(stored_CHW, image_CHW)


def test_a_mark_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    image_CHW = np.zeros((3, 16, 16), np.uint8)
    save(tmp_path / "a.tif", image_CHW, nodata=0)
    with pytest.raises(InputError, match=r"other nodata.* uint8 holds no -9999; give --nodata 0"):
        run(tmp_path, "", tmp_path / "out", bands=("r", "g", "b"), dtype="uint8", chip_size=16)


def test_rasters_can_be_split_by_their_places(new_chip: Callable[..., Any], tmp_path: Path) -> None:
    for number in range(12):
        chip = new_chip(number)
        save(tmp_path / f"{chip.key}.tif", chip.image_CHW, number)
    dataset = opened(tmp_path, "", tmp_path / "out", split_by="strips", split_axis="x", shares=(0.5, 0.5))
    (edge,) = dataset.manifest.split_rule["edges"]
    for row in dataset.index.to_pylist():
        assert row["split"] == ("val" if row["x"] > edge else "train")
    assert dataset.manifest.samples("val") == 6


# --- backscatter in decibels ---


@dataclass(frozen=True)
class Sar:
    """Chips of vv and vh in dB without labels, a table that describes them, and the dataset made of both."""

    folder: Path
    table: Path
    url: str
    size: int
    images: dict[str, NDArray[np.float32]]
    """By key, with NaN for all that is missing."""
    attributes: dict[str, tuple[float | None, str]]
    """By key: veg_percent and groupName."""

    def options(self) -> dict[str, Any]:
        """How it is ingested."""
        return {
            "bands": ("vv", "vh"),
            "dtype": "float32",
            "nodata": None,
            "chip_size": self.size,
            "pixel_size": 10.0,
            "min_valid": 0.5,
            "table": str(self.table),
            "table_crs": CRS,
            "shard_chips": SHARD,
        }


def sar_keys() -> list[str]:
    """Names of which TRAIN are to be trained on and VAL held out, by the hash of the name."""
    names = [f"S1_{number:04d}" for number in islice(count(), 300)]
    of = {split: [name for name in names if split_of(name, 0.2) == split] for split in ("train", "val")}
    return sorted(of["train"][:TRAIN] + of["val"][:VAL])


def decibels(number: int, size: int) -> NDArray[np.float32]:
    """(2, size, size): vv and vh with speckle; some pixels are NaN, one is log 0."""
    rng = np.random.default_rng((9, number))
    power_CHW = rng.gamma(4.0, np.array([0.02, 0.004])[:, None, None], (2, size, size))
    image_CHW = (10 * np.log10(power_CHW)).astype(np.float32)
    image_CHW[:, rng.random((size, size)) < 0.03] = np.nan
    image_CHW[0, number % size, 5] = -np.inf
    return image_CHW


@pytest.fixture(scope="module", params=[32, 100])
def sar(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sar:
    """Not to be changed by a test."""
    folder = tmp_path_factory.mktemp(f"sar-{request.param}")
    images = folder / "images"
    images.mkdir()
    found: dict[str, NDArray[np.float32]] = {}
    attributes: dict[str, tuple[float | None, str]] = {}
    for number, key in enumerate(sar_keys()):
        image_CHW = decibels(number, request.param)
        np.save(images / f"{key}.npy", image_CHW)
        found[key] = np.where(np.isfinite(image_CHW), image_CHW, np.float32(np.nan))
        attributes[key] = (None if number == 3 else 100 * number / 24, "abc"[number % 3])
    table = pa.table(
        {
            "filename": [f"{key}.npy" for key in found],
            "veg_percent": pa.array([percent for percent, _ in attributes.values()], pa.float64()),
            "groupName": [name for _, name in attributes.values()],
            "geometry": [f"POINT ({1000 * number} {-500 * number})" for number in range(len(found))],
        }
    )
    pq.write_table(table, folder / "chips.parquet")
    made = Sar(images, folder / "chips.parquet", str(folder / "dataset"), request.param, found, attributes)
    run(images, "", made.url, **made.options())
    return made


def assert_is_bit_equal(dataset: Dataset, sar: Sar) -> None:
    """Every chip is met once in an epoch, with all bits of its pixels."""
    keys, met = dataset.index["key"].to_pylist(), []
    for batch in ChipReader(dataset, dataset.chips("all"), batch_size=7, seed=1).epoch():
        assert batch.height_BHW.shape == (len(batch.chips), 0, 0)
        assert batch.image_BCHW.dtype == np.float32
        for chip, image_CHW in zip(batch.chips, batch.image_BCHW, strict=True):
            met.append(keys[chip])
            np.testing.assert_array_equal(bits(image_CHW), bits(sar.images[keys[chip]]))
    assert sorted(met) == sorted(sar.images)


def test_floats_come_back_bit_by_bit_from_tar_and_from_zarr(sar: Sar, tmp_path: Path) -> None:
    first = open_dataset(sar.url)
    assert first.manifest.splits == {"train": TRAIN, "val": VAL, "test": 0, "buffer": 0}
    assert_is_bit_equal(first, sar)
    convert(ConvertConfig(sar.url, "zarr", str(tmp_path / "zarr")))
    assert_is_bit_equal(open_dataset(str(tmp_path / "zarr")), sar)
    convert(ConvertConfig(str(tmp_path / "zarr"), "tar", str(tmp_path / "tar")))
    assert contents(tmp_path / "tar") == contents(sar.url)
    assert not any("height" in name for name in find_files(str(tmp_path / "zarr")))
    for url in (sar.url, str(tmp_path / "zarr")):
        assert verify(VerifyConfig(url)) == []


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["moto"], indirect=True)
def test_floats_come_back_bit_by_bit_from_s3(sar: Sar, storage: str) -> None:
    run(sar.folder, "", f"{storage}/tar", **sar.options())
    assert contents(f"{storage}/tar") == contents(sar.url)
    convert(ConvertConfig(f"{storage}/tar", "zarr", f"{storage}/zarr"))
    for name in ("tar", "zarr"):
        assert_is_bit_equal(open_dataset(f"{storage}/{name}"), sar)
        assert verify(VerifyConfig(f"{storage}/{name}")) == []


def test_attributes_of_the_table_choose_chips(sar: Sar) -> None:
    dataset = open_dataset(sar.url)
    rows = rows_by_key(dataset)
    assert rows.keys() == sar.images.keys()
    assert dataset.manifest.attributes == {"veg_percent": "float64", "groupName": "string"}
    for number, (key, attributes) in enumerate(sar.attributes.items()):
        row = rows[key]
        assert (row["veg_percent"], row["groupName"]) == attributes
        assert (row["x"], row["y"], row["crs"]) == (1000 * number, -500 * number, CRS)
        valid_fraction = np.isfinite(sar.images[key]).all(0).mean()
        assert row["valid_fraction"] == pytest.approx(valid_fraction, rel=1e-6)
        assert row["height_max"] is None
    chosen = dataset.chips("train", where="veg_percent > 40 and groupName == 'a'")
    keys = dataset.index["key"].to_pylist()
    expected = {
        key
        for key, (percent, name) in sar.attributes.items()
        if percent is not None and percent > 40 and name == "a" and split_of(key, 0.2) == "train"
    }
    assert {keys[chip] for chip in chosen} == expected
    assert 0 < len(expected) < TRAIN


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # WebDataset leaves closing to Python
def test_webdataset_reads_floats_without_labels(sar: Sar) -> None:
    dataset = open_dataset(sar.url)
    paths = [str(Path(sar.url) / shard.name) for shard in dataset.manifest.shards]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False).decode())
    gc.collect()
    assert [sample["__key__"] for sample in samples] == dataset.index["key"].to_pylist()
    for sample in samples:
        key = sample["__key__"]
        np.testing.assert_array_equal(bits(sample["image.npy"]), bits(sar.images[key]))
        assert "height.npy" not in sample
        percent, name = sar.attributes[key]
        known = {"groupName": name} if percent is None else {"veg_percent": percent, "groupName": name}
        assert sample["json"]["attributes"] == known


def test_statistics_of_floats_are_within_the_stated_error(sar: Sar) -> None:
    dataset = open_dataset(sar.url)
    assert dataset.statistics.height is None
    training = np.stack([image for key, image in sar.images.items() if split_of(key, 0.2) == "train"]).astype(
        np.float64
    )
    for place, name in enumerate(("vv", "vh")):
        found = dataset.statistics.bands[name]
        values = training[:, place][np.isfinite(training[:, place])]
        assert found.count == values.size
        # No value is off by more than this, so neither is their mean, nor (by Minkowski) their deviation.
        most = SKETCH_ERROR * np.abs(values)
        assert abs(found.mean - values.mean()) <= most.mean()
        assert abs(found.std - values.std()) <= math.sqrt((most**2).mean())
        assert found.minimum == pytest.approx(values.min(), rel=SKETCH_ERROR)
        assert found.maximum == pytest.approx(values.max(), rel=SKETCH_ERROR)
        for percent, value in found.percentiles.items():
            expected = np.percentile(values, float(percent), method="inverted_cdf")
            assert value == pytest.approx(expected, rel=SKETCH_ERROR)
        assert found.clamp_min == pytest.approx(found.mean - 3 * found.std)
        assert found.clamp_max == pytest.approx(found.mean + 3 * found.std)


# --- other labels, types and numbers of bands ---


def test_a_label_may_be_anything_that_a_pixel_has(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    rng = np.random.default_rng(4)
    made = {f"S1_{number}": rng.uniform(-1, 0, (20, 20)).astype(np.float32) for number in range(5)}
    for number, (key, label_HW) in enumerate(made.items()):
        np.save(images / f"{key}.npy", decibels(number, 20))
        np.save(labels / f"{key}.npy", label_HW)
    options: dict[str, Any] = {
        "bands": ("vv", "vh"),
        "dtype": "float32",
        "chip_size": 20,
        "label": "coherence",
        "label_unit": "",
        "min_valid": 0.0,
        "shares": (1.0,),
    }
    # All of them are below 0, which is nothing to learn from where it is a height.
    with pytest.raises(InputError, match="5 too low"):
        run(images, labels, tmp_path / "out", **options)
    dataset = opened(images, labels, tmp_path / "out", min_height=None, **options)
    assert (dataset.schema.label, dataset.schema.label_unit) == ("coherence", "")
    keys, batch = dataset.index["key"].to_pylist(), dataset.gather(dataset.chips("all"))
    for key, label_HW in zip(keys, batch.height_BHW, strict=True):
        np.testing.assert_array_equal(label_HW, made[key])
    summary = dataset.statistics.height
    assert summary is not None
    assert summary.classes == {}
    assert summary.mean == pytest.approx(np.mean([*made.values()], dtype=np.float64), abs=0.005)
    assert verify(VerifyConfig(dataset.url)) == []


def test_without_labels_there_is_no_unit(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "images" / "a.npy", np.ones((3, 8, 8), np.uint8))
    dataset = opened(
        tmp_path / "images",
        "",
        tmp_path / "out",
        bands=("r", "g", "b"),
        dtype="uint8",
        nodata=None,
        chip_size=8,
    )
    assert (dataset.schema.label, dataset.schema.label_unit) == ("", "")


@pytest.mark.parametrize(
    ("bands", "dtype", "size", "nodata"),
    [(("red", "green", "blue"), "uint8", 128, None), (tuple("abcdefgh"), "uint16", 40, 0)],
    ids=["rgb", "eight"],
)
@pytest.mark.parametrize("bands_last", [False, True])
def test_any_number_of_bands_of_any_type_come_back_with_exact_statistics(
    tmp_path: Path, bands: tuple[str, ...], dtype: str, size: int, nodata: float | None, bands_last: bool
) -> None:
    images, heights = tmp_path / "images", tmp_path / "heights"
    images.mkdir()
    heights.mkdir()
    made: dict[str, tuple[NDArray[Any], NDArray[np.float32]]] = {}
    for number in range(6):
        rng = np.random.default_rng((5, number))
        image_CHW = rng.integers(1, np.iinfo(dtype).max, (len(bands), size, size), dtype, endpoint=True)
        height_HW = rng.gamma(2.0, 2.0, (size, size)).astype(np.float32)
        made[f"chip_{number}"] = image_CHW, height_HW
        np.save(images / f"chip_{number}.npy", image_CHW.transpose(1, 2, 0) if bands_last else image_CHW)
        np.save(heights / f"chip_{number}.npy", height_HW)
    dataset = opened(
        images,
        heights,
        tmp_path / "out",
        bands=bands,
        dtype=dtype,
        nodata=nodata,
        chip_size=size,
        shares=(1.0,),
    )
    convert(ConvertConfig(dataset.url, "zarr", str(tmp_path / "zarr")))
    for url in (dataset.url, str(tmp_path / "zarr")):
        found = open_dataset(url)
        batch, keys = found.gather(found.chips("all")), found.index["key"].to_pylist()
        assert batch.image_BCHW.dtype == dtype
        for key, image_CHW, height_HW in zip(keys, batch.image_BCHW, batch.height_BHW, strict=True):
            np.testing.assert_array_equal(image_CHW, made[key][0])
            np.testing.assert_array_equal(height_HW, made[key][1])
        assert verify(VerifyConfig(url)) == []
    every_NCHW = np.stack([image_CHW for image_CHW, _ in made.values()]).astype(np.float64)
    for place, name in enumerate(bands):
        summary = dataset.statistics.bands[name]
        assert summary.count == every_NCHW[:, place].size
        assert summary.mean == pytest.approx(every_NCHW[:, place].mean(), rel=1e-12)
        assert summary.std == pytest.approx(every_NCHW[:, place].std(), rel=1e-12)


# --- a table chooses ---


def listed(folder: Path, lines: list[str]) -> str:
    (folder / "chips.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "chips.csv")


def test_a_table_says_which_chips_are_taken(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    folders = chip_folders(6)
    keys = list(folders.chips)
    (folders.heights / f"{keys[2]}.npy").unlink()
    lines = [f"{key}.npy,{number},{-number},tundra" for number, key in enumerate(keys[:4])]
    table = listed(tmp_path, ["filename,x,y,biome", *lines, "not_there.npy,1,1,taiga"])
    options = {"table": table, "table_crs": CRS}
    for heights, taken, refused in (
        (folders.heights, keys[:2] + keys[3:4], {keys[2]: "missing partner", "not_there": "missing partner"}),
        ("", keys[:4], {"not_there": "unreadable"}),
    ):
        dataset = opened(folders.images, heights, tmp_path / ("with" if heights else "without"), **options)
        rows = rows_by_key(dataset)
        assert sorted(rows) == sorted(taken)
        for key in taken:
            number = keys.index(key)
            place = (float(number), float(-number), CRS)
            assert (rows[key]["x"], rows[key]["y"], rows[key]["crs"]) == place
            assert rows[key]["biome"] == "tundra"
        assert {row["key"]: row["reason"] for row in dataset.rejected.to_pylist()} == refused
        assert sum(dataset.manifest.rejected.values()) == len(refused)


def test_a_listed_file_that_is_absent_is_a_counted_rejection(
    chip_folders: Callable[..., Any], tmp_path: Path
) -> None:
    folders = chip_folders(3)
    keys = list(folders.chips)
    (folders.images / f"{keys[1]}.npy").unlink()
    table = listed(tmp_path, ["filename,veg_percent", *(f"{key}.npy,{10.5}" for key in keys)])
    made = run(folders.images, folders.heights, tmp_path / "out", table=table)
    assert made.manifest.rejected == {"unreadable": 1}
    assert keys[1] in made.summary
    dataset = open_dataset(str(tmp_path / "out"))
    assert dataset.rejected["key"].to_pylist() == [keys[1]]
    assert dataset.chips("all", where="veg_percent == 10.5").size == 2
    assert dataset.index["x"].to_pylist() == [None, None]


# --- training ---


def test_training_without_labels_is_refused_in_one_line(sar: Sar, backbone: Path, tmp_path: Path) -> None:
    dataset = open_dataset(sar.url)
    config = small_config(dataset, backbone, str(tmp_path / "run"), bands=("vv", "vh"))
    with pytest.raises(InputError) as refused:
        launch(config)
    assert "\n" not in str(refused.value)
    assert "no heights to learn from" in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_two_bands_of_decibels_are_learnt_from(backbone: Path, tmp_path: Path) -> None:
    images, heights = tmp_path / "images", tmp_path / "heights"
    images.mkdir()
    heights.mkdir()
    for number in range(4):
        rng = np.random.default_rng((6, number))
        height_HW = np.kron(rng.uniform(0.5, 8, (4, 4)), np.ones((16, 16))).astype(np.float32)
        image_CHW = decibels(number, 64)
        image_CHW[1] += height_HW
        np.save(images / f"S1_{number}.npy", image_CHW)
        np.save(heights / f"S1_{number}.npy", height_HW)
    dataset = opened(
        images,
        heights,
        tmp_path / "out",
        bands=("vv", "vh"),
        dtype="float32",
        nodata=None,
        min_valid=0.5,
        shares=(1.0,),
    )
    config = small_config(dataset, backbone, bands=("vv", "vh"), batch_size=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two that wait for each other on busy cores take fifty times as long
    try:
        regressor, records = fitted(dataset, config)
    finally:
        torch.set_num_threads(threads)
    assert all(math.isfinite(record["loss"]) for record in records)
    assert records[-1]["loss"] < records[0]["loss"]
    for name, tensor in regressor.state_dict().items():
        assert tensor.isfinite().all(), name


@pytest.mark.parametrize("mark", [np.nan, np.inf, -9999.0])
def test_holes_in_one_band_are_trained_around_and_scored_around(
    mark: float, backbone: Path, tmp_path: Path
) -> None:
    """A hole in a band that is used counts nowhere; one in a band that is not used is none."""
    images, heights = tmp_path / "images", tmp_path / "heights"
    images.mkdir()
    heights.mkdir()
    for number in range(6):
        rng = np.random.default_rng((7, number))
        height_HW = np.kron(rng.uniform(0.5, 8, (4, 4)), np.ones((16, 16))).astype(np.float32)
        image_CHW = np.nan_to_num(decibels(number, 64), nan=-12, neginf=-12)[[0, 0, 1]]
        image_CHW[2] += height_HW
        image_CHW[0, :8], image_CHW[1, 20:23] = mark, mark
        np.save(images / f"S1_{number}.npy", image_CHW)
        np.save(heights / f"S1_{number}.npy", height_HW)
    bands = ("hh", "vv", "vh")
    dataset = opened(
        images, heights, tmp_path / "out", bands=bands, dtype="float32", min_valid=0.5, shares=(0.5, 0.5)
    )
    assert dataset.manifest.samples("train")
    assert dataset.manifest.samples("val")
    for used, rows in ((bands, 53), (("vh", "vv"), 61)):
        run = tmp_path / "-".join(used)
        launch(small_config(dataset, backbone, str(run), bands=used, batch_size=2, epochs=1))
        scores = evaluate(EvaluateConfig(str(run), dataset.url)).scores
        pixels = 64 * rows * dataset.manifest.samples("val")
        assert {name: score.all.count for name, score in scores.items()} == dict.fromkeys(scores, pixels)
        assert scores[LINEAR].all.rmse < scores[MEAN].all.rmse
