"""Others read what we write, and we read what others write.

- Hugging Face datasets reads our tars, zarr-python our Zarr, GDAL a GeoTIFF that we published to S3
- tars of WebDataset, and of Python's tarfile in all its variety, become a dataset as they are: each key with
  its own pixels, no byte of theirs changed
- what cannot be used is rejected by name and reason; a tar that is cut or damaged is never read in part
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import rasterio
import webdataset
import zarr
from numpy.typing import NDArray
from servers import environment_of

from cluster import cli
from ingest.config import TarsConfig
from ingest.files.tars import ingest_tars
from shards.commands.convert import convert
from shards.commands.verify import verify
from shards.config import ConvertConfig, VerifyConfig
from shards.errors import InputError
from shards.format.manifest import MANIFEST
from shards.format.schema import Chip, Schema
from shards.raster.opening import open_raster
from shards.read.chip_reader import ChipReader
from shards.read.dataset import Dataset, open_dataset
from shards.read.order import Part
from shards.read.reader_state import ReaderState
from shards.storage.objects import exists, find_files, join, publish_folder, read_bytes, staged

SMALL = Schema(("blue", "green", "red", "nir"), chip_size=16)
Members = list[tuple[str, bytes]]


def npy(array: NDArray[Any], version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def members(chip: Chip) -> Members:
    """The members of a chip as most people name and order them."""
    return [
        (f"{chip.key}.image.npy", npy(chip.image_CHW)),
        (f"{chip.key}.height.npy", npy(chip.height_HW)),
        (f"{chip.key}.json", json.dumps({"key": chip.key}).encode()),
    ]


def write_tar(path: Path, content: Members, tar_format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name, payload in content:
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            archive.addfile(info, io.BytesIO(payload))
    return path


def tars_in(url: str) -> dict[str, bytes]:
    return {name: read_bytes(join(url, name)) for name in find_files(url) if name.endswith(".tar")}


def ingested(folder: Path | str, **options: Any) -> Dataset:
    """The dataset that the tars in `folder` become, none of their bytes changed."""
    before = tars_in(str(folder))
    manifest = ingest_tars(TarsConfig(data=str(folder), **options)).manifest
    assert tars_in(str(folder)) == before
    assert manifest.shard_format == "webdataset"
    return open_dataset(str(folder))


def assert_holds(dataset: Dataset, chips: Sequence[Chip]) -> None:
    """`dataset` has exactly these chips, each key with its own pixels."""
    expected = {chip.key: chip for chip in chips}
    keys = dataset.index["key"].to_pylist()
    assert sorted(keys) == sorted(expected)
    batch = dataset.gather(dataset.chips("all"))
    for key, image_CHW, height_HW in zip(keys, batch.image_BCHW, batch.height_BHW, strict=True):
        np.testing.assert_array_equal(image_CHW, expected[key].image_CHW)
        np.testing.assert_array_equal(height_HW, expected[key].height_HW)


def rejections(dataset: Dataset) -> dict[str, str]:
    """Reason and detail by key."""
    return {row["key"]: f"{row['reason']}: {row['detail']}" for row in dataset.rejected.to_pylist()}


@pytest.fixture
def chips(new_chip: Callable[..., Chip]) -> list[Chip]:
    return [new_chip(number, SMALL) for number in range(6)]


# Others read what we write.


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "cached"])
def test_hugging_face_datasets_reads_our_tars(
    streaming: bool, pairs_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    for module in ("huggingface_hub.constants", "datasets.config"):  # in case an earlier test imported them
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    dataset = pairs_dataset.open()
    files = [str(Path(pairs_dataset.url) / shard.name) for shard in dataset.manifest.shards_of("train")]
    theirs = datasets.load_dataset(
        "webdataset", data_files=files, split="train", streaming=streaming, cache_dir=str(tmp_path / "cache")
    )
    samples = list(theirs if streaming else theirs.with_format("numpy"))
    chips = dataset.chips("train")
    batch = dataset.gather(chips)
    assert [sample["__key__"] for sample in samples] == dataset.index["key"].take(chips).to_pylist()
    assert theirs.features["image.npy"].feature.feature.feature.dtype == "int16"
    assert theirs.features["height.npy"].feature.feature.dtype == "float32"
    for sample, image_CHW, height_HW in zip(samples, batch.image_BCHW, batch.height_BHW, strict=True):
        np.testing.assert_array_equal(np.stack(sample["image.npy"]), image_CHW)
        np.testing.assert_array_equal(np.stack(sample["height.npy"]), height_HW)
        assert sample["json"] == pairs_dataset.chips[sample["__key__"]].origin()


def assert_zarr_is(store: Any, dataset: Dataset, split: str) -> None:
    group = zarr.open_group(store, mode="r")
    batch = dataset.gather(dataset.chips(split))
    image, height = group["image"], group["height"]
    assert isinstance(image, zarr.Array)
    assert isinstance(height, zarr.Array)
    np.testing.assert_array_equal(image[:], batch.image_BCHW)
    np.testing.assert_array_equal(height[:], batch.height_BHW)
    np.testing.assert_array_equal(image[5, 1, 2:9], batch.image_BCHW[5, 1, 2:9])
    assert image.metadata.dimension_names == ("chip", "band", "row", "column")
    assert group.attrs["bands"] == list(dataset.schema.bands)
    assert group.attrs["label_unit"] == "m"


def test_zarr_alone_reads_our_zarr(
    pairs_dataset: Any, write_dataset: Callable[..., Any], tmp_path: Path
) -> None:
    written = write_dataset(tmp_path / "set", list(pairs_dataset.chips.values()), shard_format="zarr")
    for split in ("train", "val"):
        assert_zarr_is(str(tmp_path / "set" / f"{split}.zarr"), written.open(), split)


def test_zarr_alone_reads_our_zarr_from_s3(
    pairs_dataset: Any, write_dataset: Callable[..., Any], moto: Any
) -> None:
    store = pytest.importorskip("obstore.store")
    with environment_of(moto):
        chips = list(pairs_dataset.chips.values())
        written = write_dataset("s3://bucket/interop/zarr", chips, shard_format="zarr")
        theirs = store.S3Store(
            "bucket",
            prefix="interop/zarr/train.zarr",
            endpoint=moto.endpoint,
            client_options={"allow_http": True},
        )
        assert_zarr_is(zarr.storage.ObjectStore(theirs, read_only=True), written.open(), "train")


@pytest.mark.parametrize("server", ["moto", "rclone"])
def test_gdal_reads_from_s3_with_the_standard_environment_alone(
    server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://bucket/interop/{server}/scene.tif"
    with environment_of(request.getfixturevalue(server)):
        for name in ("AWS_S3_ENDPOINT", "AWS_HTTPS", "AWS_VIRTUAL_HOSTING"):  # GDAL's own words
            os.environ.pop(name, None)
        with pytest.raises(InputError, match=url):
            open_raster(url)
        for seed in range(2):  # an object written again under its name is the new one
            pixels_CHW = np.random.default_rng(seed).integers(0, 9_000, (2, 300, 280)).astype(np.int16)
            with (
                staged(url) as path,
                rasterio.open(
                    path, "w", driver="GTiff", count=2, width=280, height=300, dtype="int16", tiled=True,
                    blockxsize=128, blockysize=128, crs="EPSG:3338",
                    transform=rasterio.Affine(2, 0, 1000, 0, -2, 2000),
                ) as scene,
            ):  # fmt: skip
                scene.write(pixels_CHW)
            with open_raster(url) as raster:
                assert raster.crs.to_epsg() == 3338
                assert raster.transform == rasterio.Affine(2, 0, 1000, 0, -2, 2000)
                window = rasterio.windows.Window(100, 130, 60, 70)
                np.testing.assert_array_equal(raster.read(window=window), pixels_CHW[:, 130:200, 100:160])
                np.testing.assert_array_equal(raster.read(), pixels_CHW)


# We read what WebDataset writes.


@pytest.fixture(params=["local", "memory"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path, new_chip: Callable[..., Chip]) -> Iterator[Any]:
    """URL of three tars that WebDataset wrote, and the 20 chips in them."""
    chips = [new_chip(number) for number in range(20)]
    folder = tmp_path / "theirs"
    folder.mkdir()
    with webdataset.ShardWriter(f"{folder}/%06d.tar", maxcount=8, verbose=0) as writer:
        for chip in chips:
            arrays = {"image.npy": chip.image_CHW, "height.npy": chip.height_HW}
            writer.write({"__key__": chip.key, **arrays, "json": {"plot": chip.key[-3:]}})
    if request.param == "local":
        yield str(folder), chips
        return
    url = "memory://interop/theirs"
    publish_folder(url, str(folder))
    yield url, chips
    fsspec.filesystem("memory").rm("/interop", recursive=True)


def test_tars_of_webdataset_are_a_dataset_as_they_are(theirs: Any, tmp_path: Path) -> None:
    url, chips = theirs
    dataset = ingested(url, val="000002.tar")
    assert [shard.samples for shard in dataset.manifest.shards] == [8, 8, 4]
    assert dataset.manifest.samples("val") == 4
    assert dataset.schema == Schema(("blue", "green", "red", "nir"))
    assert dataset.index["sensor"].to_pylist() == [chip.sensor for chip in chips]
    assert_holds(dataset, chips)
    assert verify(VerifyConfig(url)) == []

    order = dataset.epoch(dataset.chips("train"), 5, 0)
    for world_size in (1, 2):
        parts = [
            np.concatenate([batch.chips for batch in reader.epoch()])
            for rank in range(world_size)
            for reader in [ChipReader(dataset, dataset.chips("train"), 6, 5, Part(rank, world_size))]
        ]
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), dataset.chips("train"))
    reader = ChipReader(dataset, dataset.chips("train"), 6, seed=5)
    met = [next(reader.epoch()).chips]
    resumed = ChipReader(open_dataset(url), dataset.chips("train"), 5, seed=1)
    resumed.restore(ReaderState.from_json(reader.state.to_json()))
    met += [batch.chips for batch in resumed.epoch()]
    np.testing.assert_array_equal(np.concatenate(met), order)

    for to in ("tar", "zarr"):
        out = str(tmp_path / to)
        convert(ConvertConfig(data=url, to=to, out=out))  # type: ignore[arg-type]
        converted = open_dataset(out)
        assert_holds(converted, chips)
        assert converted.index["key"].to_pylist() == dataset.index["key"].to_pylist()
        assert converted.manifest.samples("val") == 4
        assert converted.statistics == dataset.statistics
        assert verify(VerifyConfig(out)) == []


# We read what anybody writes with Python's tarfile.


def named(chips: Sequence[Chip], name: str) -> list[Chip]:
    return [replace(chip, key=name.format(number)) for number, chip in enumerate(chips)]


def joined(chips: Sequence[Chip]) -> Members:
    return [member for chip in chips for member in members(chip)]


@pytest.mark.parametrize(
    ("tar_format", "name"),
    [
        (tarfile.PAX_FORMAT, "k" * 149 + "{}"),
        (tarfile.GNU_FORMAT, "k" * 149 + "{}"),
        (tarfile.USTAR_FORMAT, "p" * 80 + "/" + "k" * 80 + "{}"),
        (tarfile.PAX_FORMAT, "plano_süd_日本_{}"),
        (tarfile.GNU_FORMAT, "plano_süd_日本_{}"),
        (tarfile.PAX_FORMAT, "a/b.c/chip_{}"),
        (tarfile.GNU_FORMAT, "./chip {}"),
        (tarfile.PAX_FORMAT, "../../up_{}"),
        (tarfile.PAX_FORMAT, "/root_{}"),
    ],
    ids=[
        *("pax long", "gnu long", "ustar prefix", "pax utf-8", "gnu utf-8", "folders", "dot and space"),
        *("above", "absolute"),
    ],
)
def test_names_may_be_long_foreign_or_in_folders(
    tar_format: int, name: str, chips: list[Chip], tmp_path: Path
) -> None:
    chips = named(chips, name)
    write_tar(tmp_path / "set" / "0.tar", joined(chips), tar_format)
    assert_holds(ingested(tmp_path / "set"), chips)
    assert verify(VerifyConfig(str(tmp_path / "set"))) == []
    out = str(tmp_path / "out")
    convert(ConvertConfig(data=str(tmp_path / "set"), to="zarr", out=out))
    assert_holds(open_dataset(out), chips)
    with pytest.raises(InputError, match="convert to zarr"):
        convert(ConvertConfig(data=str(tmp_path / "set"), to="tar", out=str(tmp_path / "tar")))
    assert not (tmp_path / "tar").exists()


def test_a_name_that_is_not_utf_8_is_told_by_its_bytes(chips: list[Chip], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name, payload in joined(named(chips[:1], "süd")):
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            archive.addfile(info, io.BytesIO(payload))
    assert_holds(ingested(tmp_path), named(chips[:1], r"s\xfcd"))


def json_first(chips: Sequence[Chip]) -> Members:
    return [member for chip in chips for member in reversed(members(chip))]


def interleaved(chips: Sequence[Chip]) -> Members:
    """All images, then all heights, backwards."""
    by_chip = [members(chip) for chip in chips]
    return [row[0] for row in by_chip] + [row[1] for row in reversed(by_chip)]


def with_more_members(chips: Sequence[Chip]) -> Members:
    return [
        member
        for chip in chips
        for member in [(f"{chip.key}.txt", b"text"), *members(chip), (f"{chip.key}.png", b"\x89PNG" * 300)]
    ]


def with_version_2_headers(chips: Sequence[Chip]) -> Members:
    return [
        (f"{chip.key}.{ending}", npy(array, (2, 0)))
        for chip in chips
        for ending, array in (("image.npy", chip.image_CHW), ("height.npy", chip.height_HW))
    ]


def with_heights_of_one_band(chips: Sequence[Chip]) -> Members:
    return [
        (f"{chip.key}.{ending}", npy(array))
        for chip in chips
        for ending, array in (("image.npy", chip.image_CHW), ("height.npy", chip.height_HW[None]))
    ]


@pytest.mark.parametrize(
    "layout",
    [json_first, interleaved, with_more_members, with_version_2_headers, with_heights_of_one_band],
)
def test_members_may_come_in_any_order_and_form(
    layout: Callable[[Sequence[Chip]], Members], chips: list[Chip], tmp_path: Path
) -> None:
    write_tar(tmp_path / "a" / "0.tar", layout(chips[:4]))
    write_tar(tmp_path / "a" / "1.tar", layout(chips[4:]))
    dataset = ingested(tmp_path)
    assert_holds(dataset, chips)
    assert rejections(dataset) == {}
    assert verify(VerifyConfig(str(tmp_path))) == []
    convert(ConvertConfig(data=str(tmp_path), to="tar", out=str(tmp_path / "out")))
    assert_holds(open_dataset(str(tmp_path / "out")), chips)


def test_folders_and_other_files_are_no_chips_and_a_link_to_nowhere_is_named(
    chips: list[Chip], tmp_path: Path
) -> None:
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as archive:
        folder, link = tarfile.TarInfo("plots.image.npy"), tarfile.TarInfo("linked.image.npy")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(folder)
        archive.addfile(link)
        for name, payload in joined(chips):
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            archive.addfile(info, io.BytesIO(payload))
    (tmp_path / "README.md").write_text("ours")
    dataset = ingested(tmp_path)
    assert_holds(dataset, chips)
    assert rejections(dataset) == {
        "linked": "unreadable: linked.image.npy is a link to /etc/passwd, which is no file of this tar"
    }
    assert verify(VerifyConfig(str(tmp_path))) == [], "a folder of theirs may hold other files"


@pytest.mark.parametrize(
    ("image", "height", "says"),
    [
        (lambda a: a.astype(">i2"), None, "wrong dtype: image.npy is >i2 in C order, not <i2"),
        (None, lambda a: a.astype(">f4"), "wrong dtype: height.npy is >f4"),
        (np.asfortranarray, None, "wrong dtype: image.npy is <i2 in Fortran order"),
        (None, np.asfortranarray, "wrong dtype: height.npy is <f4 in Fortran order"),
        (lambda a: a.astype("f4"), None, "wrong dtype: image.npy is <f4"),
        (None, lambda a: a.astype("f8"), "wrong dtype: height.npy is <f8"),
        (lambda a: a[:, :8, :8], lambda a: a[:8, :8], "wrong shape: image is (4, 8, 8)"),
        (None, lambda a: a[:8, :8], "wrong shape: height is (8, 8)"),
        (lambda a: a[:3], None, "wrong shape: image is (3, 16, 16)"),
        (lambda a: a.transpose(1, 2, 0).copy(), None, "wrong shape: image is (16, 16, 4)"),
        (None, lambda a: np.where(a == a.max(), np.float32(np.nan), a), "incomplete: 0.4% of height"),
        (None, lambda a: a * 0, "no positive height"),
        (lambda a: np.full_like(a, -9999), None, "incomplete: 100.0%"),
    ],
)
def test_what_cannot_be_used_is_rejected_with_its_reason(
    image: Any, height: Any, says: str, chips: list[Chip], tmp_path: Path
) -> None:
    bad = chips[0]
    content = [
        (f"{bad.key}.image.npy", npy(image(bad.image_CHW) if image else bad.image_CHW)),
        (f"{bad.key}.height.npy", npy(height(bad.height_HW) if height else bad.height_HW)),
    ]
    write_tar(tmp_path / "0.tar", joined(chips[1:3]) + content + joined(chips[3:]))
    dataset = ingested(tmp_path)
    assert_holds(dataset, chips[1:])
    assert list(rejections(dataset)) == [bad.key]
    assert rejections(dataset)[bad.key].startswith(says)
    assert verify(VerifyConfig(str(tmp_path))) == []


def test_members_that_are_missing_cut_pickled_or_there_twice(chips: list[Chip], tmp_path: Path) -> None:
    alone, cut, pickled, twice, *good = chips
    pickle = io.BytesIO()
    np.save(pickle, np.array([{}], dtype=object), allow_pickle=True)
    write_tar(
        tmp_path / "0.tar",
        [
            *joined(good),
            members(alone)[0],
            (f"{cut.key}.image.npy", npy(cut.image_CHW)[:-2]),
            members(cut)[1],
            (f"{pickled.key}.image.npy", pickle.getvalue()),
            members(pickled)[1],
            *members(twice),
            (f"{twice.key}.image.npy", npy(twice.image_CHW + 1)),
        ],
    )
    dataset = ingested(tmp_path)
    assert_holds(dataset, good)
    assert rejections(dataset) == {
        alone.key: f"missing partner: no member {alone.key}.height.npy",
        cut.key: f"unreadable: {cut.key}.image.npy is truncated or not .npy",
        pickled.key: f"unreadable: {pickled.key}.image.npy is a pickled object, which is never loaded",
        twice.key: f"unreadable: {twice.key}.image.npy is there twice",
    }


def test_a_member_stored_without_its_holes_is_rejected(chips: list[Chip], tmp_path: Path) -> None:
    holey = replace(chips[0], height_HW=np.where(np.arange(16) == 15, chips[0].height_HW, np.float32(0)))
    path = write_tar(tmp_path / "0.tar", joined(chips[1:]))
    payload = npy(holey.height_HW)
    with tarfile.open(path, "a", format=tarfile.PAX_FORMAT) as archive:
        name, image = members(holey)[0]
        info = tarfile.TarInfo(name)
        info.size = len(image)
        archive.addfile(info, io.BytesIO(image))
        # What GNU tar --sparse --format=posix writes: a map of the parts that are there, then these.
        spread = b"1\n0\n%d\n" % len(payload)
        stored = spread.ljust(512, b"\0") + payload
        info = tarfile.TarInfo(f"GNUSparseFile.0/{holey.key}.height.npy")
        info.size = len(stored)
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": f"{holey.key}.height.npy",
            "GNU.sparse.realsize": str(len(payload)),
        }
        archive.addfile(info, io.BytesIO(stored))
    dataset = ingested(tmp_path)
    assert_holds(dataset, chips[1:])
    assert "tar --sparse" in rejections(dataset)[holey.key]


def test_the_first_usable_image_says_what_all_must_be(
    new_chip: Callable[..., Chip], chips: list[Chip], tmp_path: Path
) -> None:
    others = [new_chip(number, replace(SMALL, chip_size=8)) for number in range(10, 14)]
    unusable = [
        (f"{chip.key}.image.npy", npy(array))
        for chip, array in zip(
            others,
            [
                others[0].image_CHW.astype(np.float64),
                others[1].image_CHW.astype(">i2"),
                np.asfortranarray(others[2].image_CHW),
                others[3].image_CHW[0],
            ],
            strict=True,
        )
    ]
    write_tar(tmp_path / "0.tar", unusable)
    write_tar(tmp_path / "1.tar", joined(chips))
    dataset = ingested(tmp_path)
    assert_holds(dataset, chips)
    assert len(rejections(dataset)) == 4
    assert verify(VerifyConfig(str(tmp_path))) == []
    write_tar(tmp_path / "2.tar", unusable)  # came later
    assert verify(VerifyConfig(str(tmp_path))) == [f"{tmp_path}/2.tar: is not listed in {MANIFEST}"]

    write_tar(tmp_path / "unusable" / "0.tar", unusable)
    with pytest.raises(InputError, match=r"wrong dtype: image\.npy is <f8") as error:
        ingested(tmp_path / "unusable")
    assert others[0].key in str(error.value)


def test_eight_bands_of_32_pixels_with_names_of_their_own(
    new_chip: Callable[..., Chip], tmp_path: Path
) -> None:
    schema = Schema(tuple("abcdefgh"), "uint16", 0, 32)
    chips = [new_chip(number, schema) for number in range(5)]
    write_tar(tmp_path / "0.tar", joined(chips))
    with pytest.raises(InputError, match="8 bands, not the 4 named"):
        ingested(tmp_path, bands=("blue", "green", "red", "nir"))
    assert [path.name for path in tmp_path.iterdir()] == ["0.tar"], "nothing is left of a refused ingest"
    dataset = ingested(tmp_path, bands=schema.bands, nodata=0)
    assert dataset.schema == schema
    assert_holds(dataset, chips)
    assert verify(VerifyConfig(str(tmp_path))) == []


def test_a_number_of_bands_without_names_is_asked_for(chips: list[Chip], tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [(f"{c.key}.image.npy", npy(c.image_CHW[:3])) for c in chips])
    with pytest.raises(InputError, match="has 3 bands; name them with --bands"):
        ingested(tmp_path)


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_a_cut_tar_is_an_error_wherever_it_is_cut(tar_format: int, chips: list[Chip], tmp_path: Path) -> None:
    chips = named(chips[:2], "k" * 120 + "{}")
    write_tar(tmp_path / "0.tar", joined(chips))
    bad = write_tar(tmp_path / "1.tar", joined(named(chips, "other_{}" + "x" * 120)), tar_format)
    whole = bad.read_bytes()
    with tarfile.open(bad) as archive:
        *_, last = archive
    end = last.offset_data + -(-last.size // 512) * 512
    for size in itertools.chain(range(0, end + 1, 256), range(end - 300, end, 100)):
        bad.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"1\.tar"):
            ingested(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar", "1.tar"]
    bad.write_bytes(whole[: end + 512])  # enough to see the end
    assert ingested(tmp_path).manifest.samples("train") == 4


def test_a_damaged_header_is_not_the_end_of_a_tar(chips: list[Chip], tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", joined(chips))
    with tarfile.open(path) as archive:
        header = archive.getmembers()[7].offset
    data = bytearray(path.read_bytes())
    data[header + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"0\.tar: is damaged or cut at byte {header:,}"):
        ingested(tmp_path)


@pytest.mark.parametrize("content", [b"", b"this is no tar" * 100], ids=["no byte", "text"])
def test_what_is_no_tar_is_named(content: bytes, chips: list[Chip], tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", joined(chips))
    (tmp_path / "1.tar").write_bytes(content)
    with pytest.raises(InputError, match=r"1\.tar: cannot be read as a tar"):
        ingested(tmp_path)


def test_an_empty_tar_holds_no_chip(chips: list[Chip], tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [])
    with pytest.raises(InputError, match=r"no member ends in \.image\.npy"):
        ingested(tmp_path)
    write_tar(tmp_path / "1.tar", joined(chips))
    assert_holds(ingested(tmp_path), chips)


def test_of_a_key_that_occurs_in_two_tars_the_first_is_kept_and_the_second_named(
    chips: list[Chip], tmp_path: Path
) -> None:
    again = replace(chips[0], image_CHW=chips[1].image_CHW)
    write_tar(tmp_path / "0.tar", joined(chips))
    write_tar(tmp_path / "1.tar", joined([again]))
    dataset = ingested(tmp_path)
    assert_holds(dataset, chips)
    assert rejections(dataset) == {again.key: "duplicate key: is also in 0.tar, which comes first"}
    assert verify(VerifyConfig(str(tmp_path))) == []


def test_tars_are_held_out_by_their_names(chips: list[Chip], tmp_path: Path) -> None:
    names = ("a", "holdout-0", "holdout-1", "sub/holdout-2")
    for name, chip in zip(names, chips, strict=False):
        write_tar(tmp_path / f"{name}.tar", members(chip))
    dataset = ingested(tmp_path, val="holdout*")
    splits = {shard.name: shard.split for shard in dataset.manifest.shards}
    assert splits == {
        "a.tar": "train",
        "holdout-0.tar": "val",
        "holdout-1.tar": "val",
        "sub/holdout-2.tar": "train",
    }
    for name in (MANIFEST, *dataset.manifest.files):
        (tmp_path / name).unlink()
    assert ingested(tmp_path).manifest.samples("val") == 0
    for name in (MANIFEST, *dataset.manifest.files):
        (tmp_path / name).unlink()
    shutil.move(tmp_path / "sub", tmp_path / "val")
    assert ingested(tmp_path).manifest.samples("val") == 1


# As commands.


def test_tars_are_ingested_converted_and_verified_by_command(
    chips: list[Chip], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = str(tmp_path / "set"), str(tmp_path / "out")
    write_tar(tmp_path / "set" / "0.tar", [*joined(chips), ("alone.image.npy", b"?")])
    assert cli.run(["ingest", "tars", folder]) == 0
    assert "1 unreadable, first alone" in capsys.readouterr().out
    assert cli.run(["convert", folder, "--to", "zarr", "--out", out]) == 0
    assert_holds(open_dataset(out), chips)
    for data in (folder, out):
        capsys.readouterr()
        assert cli.run(["verify", data]) == 0
    for data, name in ((folder, "0.tar"), (out, "train.zarr/image/c/0/0/0/0")):
        path = Path(data) / name
        content = bytearray(path.read_bytes())
        content[1000] ^= 1
        path.write_bytes(content)
        capsys.readouterr()
        assert cli.run(["verify", data]) == 1
        assert str(path) in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["treeline", "verify", str(tmp_path / "nowhere")])
    monkeypatch.setattr("sys.excepthook", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "no dataset here" in lines[0]
    assert not exists(str(tmp_path / "nowhere"))
