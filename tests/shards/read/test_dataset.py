"""A dataset on storage: what was added is what is read, or an error; it exists entirely or not at all.

- every chip is read exactly once an epoch, with its own pixels, for any number of ranks and size of batches
- a corrupt byte, a cut, swapped or missing shard is a DatasetError, never a wrong sample
- names that lead out of the folder are not followed, whoever sealed them
- a failure before the end leaves no dataset.json; a mistake of the user's leaves nothing
- the same on a remote file system as on a local one
- reading ahead keeps order, passes errors on and ends its thread when left early
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pixels import assert_chips_are_themselves

from cluster import cli
from shards.errors import DatasetError, InputError
from shards.format.key import split_of
from shards.format.manifest import MANIFEST, SPLITS, UNFINISHED, read_manifest
from shards.format.schema import Chip, Schema
from shards.read.dataset import open_dataset
from shards.read.order import SHARD_WINDOW, Part
from shards.read.read_options import ReadOptions
from shards.read.row_stream import ahead
from shards.storage.checksum import hexadecimal
from shards.storage.gdal import gdal_path
from shards.storage.objects import check_writable, exists, join, list_files, publish, read_bytes, staged
from shards.storage.patterns import expand
from shards.write.finished_shard import write_shard
from shards.write.writer import DatasetWriter


@pytest.fixture
def copy(pairs_dataset: Any, tmp_path: Path) -> Path:
    """A copy of the dataset that may be spoilt."""
    return Path(shutil.copytree(pairs_dataset.url, tmp_path / "copy"))


# What is read


def test_manifest_index_and_shards_agree(pairs_dataset: Any) -> None:
    dataset = pairs_dataset.open()
    rows = dataset.index.to_pylist()
    assert dataset.manifest == pairs_dataset.manifest
    assert sorted(row["key"] for row in rows) == sorted(pairs_dataset.chips)
    expected = [
        (shard.split, shard.name, row) for shard in dataset.manifest.shards for row in range(shard.samples)
    ]
    assert [(row["split"], row["shard"], row["row"]) for row in rows] == expected
    for shard in dataset.manifest.shards:
        assert (Path(dataset.url) / shard.name).stat().st_size == shard.nbytes
    assert len(dataset.manifest.shards_of("train")) > 3
    for split in SPLITS:
        in_split = [number for number, row in enumerate(rows) if row["split"] == split]
        assert dataset.chips(split).tolist() == in_split
        assert dataset.manifest.samples(split) == len(in_split)
        assert in_split or split not in ("train", "val")


def test_the_index_tells_which_chips_miss_nothing(
    write_dataset: Callable[..., Any], new_chip: Callable[..., Chip], schema: Schema, tmp_path: Path
) -> None:
    """So a step of training need not look at the pixels; a chip misses a band, a label, both or nothing."""
    chips = [new_chip(number) for number in range(4)]
    for chip in chips:
        chip.image_CHW[chip.image_CHW == schema.nodata] = 1
        chip.height_HW[np.isnan(chip.height_HW)] = 1
    chips[1].image_CHW[2, 5, 7] = schema.nodata
    chips[2].height_HW[0, 0] = np.nan
    chips[3].image_CHW[0], chips[3].height_HW[0] = schema.nodata, np.nan
    dataset = write_dataset(tmp_path / "out", chips, 10).open()
    name_of = dataset.index["key"].to_pylist()
    assert [name_of[chip] for chip in np.flatnonzero(dataset.are_whole(dataset.chips("all")))] == [
        chips[0].key
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 8, 13, 100])
@pytest.mark.parametrize("split", ["train", "val"])
def test_an_epoch_reads_every_chip_once_with_its_own_pixels(
    pairs_dataset: Any, split: str, world_size: int, batch_size: int
) -> None:
    dataset = pairs_dataset.open()
    order = dataset.epoch(dataset.chips(split), seed=5, epoch=1)
    ranks = [list(dataset.batches(order, batch_size, Part(r, world_size))) for r in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    for step in zip(*ranks, strict=True):
        start, size = step[0].start, step[0].size
        read = np.empty(size, np.int64)
        for rank, batch in enumerate(step):
            read[(rank - start) % world_size :: world_size] = batch.chips
        np.testing.assert_array_equal(read, order[start : start + size])
    np.testing.assert_array_equal(np.sort(order), dataset.chips(split))
    for batch in itertools.chain(*ranks):
        assert_chips_are_themselves(dataset, pairs_dataset, batch)


@pytest.mark.parametrize("shard_chips", [1, 2, 5, 1000])
def test_any_size_of_shards_holds_the_same_chips_and_statistics(
    pairs_dataset: Any, write_dataset: Callable[..., Any], tmp_path: Path, shard_chips: int
) -> None:
    written = write_dataset(tmp_path / "out", list(pairs_dataset.chips.values()), shard_chips)
    dataset, other = written.open(), pairs_dataset.open()
    assert_chips_are_themselves(dataset, written, dataset.gather(dataset.chips("all")))
    assert len(dataset.chips("all")) == 60
    assert dataset.statistics == other.statistics
    for name in ("statistics.json", "counts.npz"):
        assert (tmp_path / "out" / name).read_bytes() == (Path(other.url) / name).read_bytes()


def test_more_shards_than_are_held_open_are_read_right_again_and_again(
    pairs_dataset: Any, write_dataset: Callable[..., Any], tmp_path: Path
) -> None:
    written = write_dataset(tmp_path / "out", list(pairs_dataset.chips.values()), shard_chips=2)
    dataset = written.open()
    assert len(dataset.manifest.shards) > 2 * SHARD_WINDOW
    for epoch in range(2):
        for batch in dataset.batches(dataset.epoch(dataset.chips("all"), 0, epoch), 16):
            assert_chips_are_themselves(dataset, written, batch)


def test_a_stopped_reader_continues_with_the_next_chip_on_another_number_of_ranks(
    pairs_dataset: Any,
) -> None:
    dataset, seen = pairs_dataset.open(), 16
    order = dataset.epoch(dataset.chips("train"), 0, 4)
    for step in zip(*[dataset.batches(order, 8, Part(r, 4), seen) for r in range(4)], strict=True):
        start, size = step[0].start, step[0].size
        met = np.concatenate([batch.chips for batch in step])
        np.testing.assert_array_equal(np.sort(met), np.sort(order[start : start + size]))
        seen += size
    assert seen == order.size


def test_limits_are_nested_and_stay_in_their_split(pairs_dataset: Any) -> None:
    dataset = pairs_dataset.open()
    limits = [5, 10, 20, 1000]
    chosen = [set(dataset.chips("train", limit).tolist()) for limit in limits]
    assert [len(chips) for chips in chosen[:3]] == limits[:3]
    assert all(small < large for small, large in itertools.pairwise(chosen))
    assert chosen[-1] == set(dataset.chips("train").tolist())


def test_no_chips_give_empty_arrays_of_the_right_shape(pairs_dataset: Any) -> None:
    dataset = pairs_dataset.open()
    batch = dataset.gather(dataset.chips("train", limit=0))
    assert batch.image_BCHW.shape == (0, *dataset.schema.image_shape)
    assert batch.height_BHW.shape == (0, *dataset.schema.label_shape)
    assert batch.image_BCHW.dtype == dataset.schema.dtype


def test_gathered_arrays_are_views_of_one_buffer(pairs_dataset: Any) -> None:
    batch = pairs_dataset.open().gather(np.array([40, 3, 3, 17]))
    assert batch.image_BCHW.base is not None
    assert batch.image_BCHW.flags.writeable
    start = batch.image_BCHW.__array_interface__["data"][0]
    assert 0 < batch.height_BHW.__array_interface__["data"][0] - start < 51_200
    np.testing.assert_array_equal(batch.image_BCHW[1], batch.image_BCHW[2])


# What is damaged


@pytest.mark.parametrize("place", [0, 5_000, 40_000, 51_300, -1])
def test_a_corrupt_byte_is_an_error(copy: Path, place: int) -> None:
    dataset = open_dataset(str(copy))
    shard = copy / dataset.manifest.shards[1].name
    data = bytearray(shard.read_bytes())
    data[place] ^= 1
    shard.write_bytes(data)
    first = dataset.manifest.shards[0].samples
    dataset.gather(np.arange(first))  # the others are sound
    with pytest.raises(DatasetError, match=shard.name):
        dataset.gather(np.array([0, first]))


@pytest.mark.parametrize("keep", [0, 1, 51_200, -53_760, -512])
def test_a_truncated_shard_is_an_error(copy: Path, keep: int) -> None:
    dataset = open_dataset(str(copy))
    shard = copy / dataset.manifest.shards[0].name
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(DatasetError, match=shard.name):
        list(dataset.batches(dataset.chips("all"), 8))


def test_a_missing_shard_is_an_error(copy: Path) -> None:
    dataset = open_dataset(str(copy))
    (copy / dataset.manifest.shards[0].name).unlink()
    with pytest.raises(DatasetError, match=dataset.manifest.shards[0].name):
        dataset.gather(np.array([0]))


def test_swapped_shards_are_an_error(copy: Path) -> None:
    dataset = open_dataset(str(copy))
    first, second = (copy / shard.name for shard in dataset.manifest.shards_of("train")[:2])
    data = first.read_bytes()
    assert len(data) == second.stat().st_size
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(DatasetError):
        dataset.gather(dataset.chips("train"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not a JSON"),
        (b"\xff\xfe", "not a JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "format"),
        (b'{"format": "treeline", "version": 99}', "'treeline' 99"),
    ],
)
def test_a_manifest_of_another_kind_is_named(copy: Path, content: bytes, says: str) -> None:
    (copy / MANIFEST).write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        open_dataset(str(copy))
    assert str(copy) in str(caught.value)


def test_a_folder_without_a_manifest_is_no_dataset(copy: Path) -> None:
    (copy / MANIFEST).unlink()
    with pytest.raises(InputError, match="no dataset here"):
        open_dataset(str(copy))


def test_the_fingerprint_tells_datasets_apart(
    pairs_dataset: Any, write_dataset: Callable[..., Any], tmp_path: Path
) -> None:
    chips = list(pairs_dataset.chips.values())
    again = write_dataset(tmp_path / "again", chips)
    assert again.manifest.fingerprint == pairs_dataset.manifest.fingerprint
    assert (
        json.loads((tmp_path / "again" / MANIFEST).read_text())["fingerprint"] == again.manifest.fingerprint
    )
    chips[0].image_CHW[0, 0, 0] ^= 1
    try:
        other = write_dataset(tmp_path / "other", chips)
    finally:
        chips[0].image_CHW[0, 0, 0] ^= 1
    assert other.manifest.fingerprint != again.manifest.fingerprint


# What is unfinished


def start(url: Path, schema: Schema, chips: list[Chip], error: Exception) -> None:
    """Add `chips` in shards of 2, then fail."""
    with DatasetWriter(str(url), schema, {}, shard_chips=2) as writer:
        for chip in chips:
            writer.add(chip, split_of(chip.key, 0.5))
        raise error


def test_a_failure_before_the_end_leaves_no_manifest_and_does_not_stand_in_the_way(
    pairs_dataset: Any, write_dataset: Callable[..., Any], schema: Schema, tmp_path: Path
) -> None:
    chips = list(pairs_dataset.chips.values())
    with pytest.raises(OSError, match="disk"):
        start(tmp_path / "out", schema, chips[:9], OSError("disk full"))
    assert not (tmp_path / "out" / MANIFEST).exists()
    with pytest.raises(InputError, match="no dataset here"):
        open_dataset(str(tmp_path / "out"))
    again = write_dataset(tmp_path / "out", chips)
    assert again.manifest == pairs_dataset.manifest
    dataset = again.open()
    assert_chips_are_themselves(dataset, again, dataset.gather(dataset.chips("all")))


@pytest.mark.parametrize("existed", [False, True])
def test_a_mistake_of_the_users_leaves_nothing(
    pairs_dataset: Any, schema: Schema, tmp_path: Path, existed: bool
) -> None:
    out = tmp_path / "out"
    if existed:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="stop here"):
        start(out, schema, list(pairs_dataset.chips.values())[:9], InputError("stop here"))
    left = sorted(path.name for path in out.rglob("*")) if out.exists() else None
    assert left == (["notes.txt"] if existed else None)


def test_no_chip_kept_is_an_error_with_the_reasons(schema: Schema, tmp_path: Path) -> None:
    with DatasetWriter(str(tmp_path / "out"), schema, {}) as writer:
        writer.reject("a", "unreadable", "cut")
        writer.reject("b", "unreadable", "cut")
        writer.reject("c", "wrong shape")
        with pytest.raises(InputError, match="2 unreadable, first a: cut; 1 wrong shape, first c"):
            writer.finish()
    assert not (tmp_path / "out").exists()


def test_rejections_are_counted_and_listed_however_many(
    pairs_dataset: Any, schema: Schema, tmp_path: Path
) -> None:
    chip = next(iter(pairs_dataset.chips.values()))
    with DatasetWriter(str(tmp_path / "out"), schema, {}, shard_chips=3) as writer:
        for number in range(10):
            writer.reject(f"chip_{number}", "odd" if number % 2 else "even", str(number))
        writer.reject("chip_10", "even")
        writer.add(chip, "train")
        writer.finish()
    dataset = open_dataset(str(tmp_path / "out"))
    assert list(dataset.manifest.rejected.items()) == [("even", 6), ("odd", 5)]
    assert dataset.rejected["key"].to_pylist() == [f"chip_{number}" for number in range(11)]


def test_without_a_training_split_there_are_no_statistics_and_it_says_so(
    pairs_dataset: Any, write_dataset: Callable[..., Any], tmp_path: Path
) -> None:
    written = write_dataset(tmp_path / "out", list(pairs_dataset.chips.values())[:3], val_share=1.0)
    dataset = written.open()
    assert dataset.chips("train").size == 0
    assert len(dataset.gather(dataset.chips("val")).chips) == 3
    with pytest.raises(InputError, match="no chip is in the training split"):
        _ = dataset.statistics


# Where it is


@pytest.fixture
def remote() -> Iterator[str]:
    """An empty place that is not on the local file system."""
    url, memory = "memory://bucket/place", fsspec.filesystem("memory")
    memory.makedirs(url)
    yield url
    memory.rm(url, recursive=True)


def test_a_remote_dataset_has_the_same_bytes_and_reads_the_same(
    pairs_dataset: Any, write_dataset: Callable[..., Any], remote: str
) -> None:
    written = write_dataset(join(remote, "set"), list(pairs_dataset.chips.values()))
    local = Path(pairs_dataset.url)
    names = [path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()]
    assert len(names) > 8
    for name in names:
        assert read_bytes(join(written.url, name)) == (local / name).read_bytes()
    dataset = written.open()
    for batch in dataset.batches(dataset.epoch(dataset.chips("all"), 0, 0), 8):
        assert_chips_are_themselves(dataset, pairs_dataset, batch)


def test_a_corrupt_remote_shard_is_an_error(
    pairs_dataset: Any, write_dataset: Callable[..., Any], remote: str
) -> None:
    written = write_dataset(join(remote, "set"), list(pairs_dataset.chips.values())[:10])
    url = join(written.url, written.manifest.shards[0].name)
    data = bytearray(read_bytes(url))
    data[3_000] ^= 128
    fsspec.filesystem("memory").pipe_file(url, bytes(data))
    with pytest.raises(DatasetError, match=written.manifest.shards[0].name):
        written.open().gather(np.array([0]))


def fail_half_way(url: str) -> None:
    with staged(url) as path:
        path.write_bytes(b"half")
        raise RuntimeError("half way")


@pytest.mark.parametrize("place", ["local", "remote"])
def test_an_object_appears_whole_or_not_at_all(place: str, remote: str, tmp_path: Path) -> None:
    folder = join(str(tmp_path) if place == "local" else remote, "deep")
    url = join(folder, "object.bin")
    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way(url)
    assert not exists(url)
    with staged(url) as path:
        path.write_bytes(b"all of it")
        assert not exists(url)
    assert read_bytes(url) == b"all of it"
    assert list_files(folder, "") == ["object.bin"]


@pytest.mark.parametrize("place", ["local", "remote"])
def test_globs_and_listings_are_sorted_and_empty_ones_are_errors(
    place: str, remote: str, tmp_path: Path
) -> None:
    folder = str(tmp_path) if place == "local" else remote
    for name in ("b.tif", "a.tif", "c.npy"):
        with staged(join(folder, name)) as path:
            path.write_bytes(b"x")
    assert [url.rsplit("/")[-1] for url in expand(join(folder, "*.tif"))] == ["a.tif", "b.tif"]
    assert [read_bytes(url) for url in expand(join(folder, "*"))] == [b"x"] * 3
    assert list_files(folder, ".tif") == ["a.tif", "b.tif"]
    for missing in ("*.jp2", "absent.tif"):
        with pytest.raises(InputError, match=missing.replace("*", r"\*")):
            expand(join(folder, missing))
    with pytest.raises(InputError, match="nowhere"):
        list_files(join(folder, "nowhere"), "")


def test_a_name_with_wildcards_that_is_a_file_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "scene[1].tif"
    path.write_bytes(b"x")
    assert expand(str(path)) == [str(path)]


def test_places_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nosuch://"):
        exists("nosuch://bucket/key")
    with pytest.raises(InputError, match="gs://"):
        gdal_path("gs://bucket/scene.tif")
    assert gdal_path("s3://bucket/a/scene.tif") == "/vsis3/bucket/a/scene.tif"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(str(tmp_path / "file" / "below"))
    with pytest.raises(InputError, match="no such file"):
        read_bytes(str(tmp_path / "absent"))
    check_writable(str(tmp_path / "not" / "yet"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    with pytest.raises(InputError):
        read_manifest(str(tmp_path / "not"))


# Names that are to become paths


LEADING_ELSEWHERE = ("../../evil", "/evil", "..", "a/../../evil", "a\\evil", "evil\0", "", 5)


def sealed_again(url: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest as somebody would who knows how it is sealed."""
    path = Path(url) / MANIFEST
    values = json.loads(path.read_text())
    del values["sha256"]
    change(values)
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**values, "sha256": digest}))


def name_split(values: dict[str, Any], name: Any) -> None:
    values["shards"][0]["split"] = name


def name_shard(values: dict[str, Any], name: Any) -> None:
    values["shards"][0]["objects"][0]["name"] = name


def name_file(values: dict[str, Any], name: Any) -> None:
    values["files"]["index.parquet"]["name"] = name


@pytest.fixture
def prepared(
    pairs_dataset: Any, write_dataset: Callable[..., Any], tmp_path: Path
) -> Callable[[Callable[[dict[str, Any]], None]], str]:
    """A dataset deep in a folder, with another manifest."""

    def make(change: Callable[[dict[str, Any]], None]) -> str:
        url = str(tmp_path / "a" / "b" / "dataset")
        write_dataset(url, list(pairs_dataset.chips.values())[:10])
        sealed_again(url, change)
        return url

    return make


@pytest.mark.parametrize("part", [name_split, name_shard, name_file])
@pytest.mark.parametrize("name", LEADING_ELSEWHERE)
def test_a_manifest_whose_names_lead_elsewhere_is_not_read(
    prepared: Callable[..., str], part: Callable[[dict[str, Any], Any], None], name: Any
) -> None:
    url = prepared(lambda values: part(values, name))
    with pytest.raises(InputError, match=rf"^{join(url, MANIFEST)}: ") as caught:
        open_dataset(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "command", [["convert", "--to", "zarr", "--out"], ["inspect", "--out"], ["verify"], ["split"]]
)
def test_no_command_follows_a_prepared_split(
    prepared: Callable[..., str], command: list[str], tmp_path: Path
) -> None:
    url = prepared(lambda values: name_split(values, "../../evil"))
    name, *options = command
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    out = [str(tmp_path / "c" / "d" / "out")] if options else []
    with pytest.raises(
        InputError, match=rf"^{url}/{MANIFEST}: shards\[0\]\.split: '../../evil' is none of train,"
    ):
        cli.run([name, url, *options, *out])
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(("column", "name"), [("split", "../evil"), ("split", "dev"), ("shard", "/evil")])
def test_an_index_whose_names_lead_elsewhere_is_not_read(
    prepared: Callable[..., str], column: str, name: str
) -> None:
    def change(values: dict[str, Any]) -> None:
        values["split_column"] = "0" * 16
        values["files"]["index.parquet"] |= {"nbytes": len(data), "xxh3": hexadecimal(data)}

    path = Path(url := prepared(lambda values: None)) / "index.parquet"
    table = pq.read_table(path)
    names = [name, *table[column].to_pylist()[1:]]
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, pa.array(names)), path)
    data = path.read_bytes()
    sealed_again(url, change)
    with pytest.raises(InputError, match=rf"^{path}: {column}: .*{name}"):
        _ = open_dataset(url).index


def test_no_key_leads_elsewhere_and_no_split_is_written_that_does(
    pairs_dataset: Any, schema: Schema, tmp_path: Path
) -> None:
    chip = next(iter(pairs_dataset.chips.values()))
    for key in ("../evil", "/evil", "a/b", "a.b", ""):
        with pytest.raises(InputError, match="key"):
            write_shard(str(tmp_path / "out"), ("train", 0), [replace(chip, key=key)], schema)
    for split in ("../evil", "/evil", "dev"):
        with pytest.raises(InputError, match=split):
            write_shard(str(tmp_path / "out"), (split, 0), [chip], schema)
    assert not list(tmp_path.iterdir())


# What is read ahead


def prefetchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "treeline-prefetch"]


@pytest.mark.parametrize("depth", [1, 2, 50])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_reading_ahead_gives_the_same_items_in_order(depth: int, count: int) -> None:
    assert list(ahead(range(count), depth)) == list(range(count))
    assert not prefetchers()


def test_reading_ahead_is_bounded() -> None:
    made = []
    items = ahead((made.append(n) or n for n in range(100)), 3)
    assert next(items) == 0
    time.sleep(0.05)
    # 1 consumed, 3 waiting, 1 in the thread's hand.
    assert 2 <= len(made) <= 5
    items.close()
    assert not prefetchers()


def fail_after(items: Iterable[int], error: BaseException) -> Iterator[int]:
    yield from items
    raise error


@pytest.mark.parametrize("error", [DatasetError("damaged"), KeyboardInterrupt()])
def test_an_error_is_passed_on_after_the_items_before_it(error: BaseException) -> None:
    items = ahead(fail_after(range(3), error), 2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(type(error)) as caught:
        next(items)
    assert caught.value is error
    assert not prefetchers()


@pytest.mark.parametrize("depth", [1, 4])
def test_leaving_early_ends_the_thread(depth: int) -> None:
    for item in (items := ahead(itertools.count(), depth)):
        if item == 7:
            break
    assert prefetchers()
    items.close()
    assert not prefetchers()


# What cannot be finished


@pytest.mark.parametrize("blocked", ["index.parquet", "rejected.parquet", "counts.npz", "statistics.json"])
def test_the_manifest_is_written_after_everything_else(
    pairs_dataset: Any, write_dataset: Callable[..., Any], tmp_path: Path, blocked: str
) -> None:
    in_the_way = tmp_path / "out" / blocked
    in_the_way.mkdir(parents=True)
    (in_the_way / "file").write_text("a folder that holds something cannot be replaced by a file")
    chips = list(pairs_dataset.chips.values())
    with pytest.raises(IsADirectoryError):
        write_dataset(tmp_path / "out", chips)
    assert not (tmp_path / "out" / MANIFEST).exists()
    shutil.rmtree(in_the_way)
    assert write_dataset(tmp_path / "out", chips).manifest == pairs_dataset.manifest


def test_a_limit_draws_from_the_whole_split_not_from_its_first_shards(pairs_dataset: Any) -> None:
    dataset = pairs_dataset.open()
    every, chosen = dataset.chips("train"), dataset.chips("train", limit=10)
    shards = dataset.index.take(chosen)["shard"].to_pylist()
    # 10 of some 45 chips in shards of 7: the first ten would come from two shards.
    assert len(set(shards)) > 2
    assert set(chosen.tolist()) <= set(every.tolist())


def test_shards_of_an_unfinished_run_do_not_stay_beside_the_dataset(
    pairs_dataset: Any, write_dataset: Callable[..., Any], schema: Schema, tmp_path: Path
) -> None:
    chips = list(pairs_dataset.chips.values())
    with pytest.raises(OSError, match="disk"):
        start(tmp_path / "out", schema, chips, OSError("disk full"))
    assert (tmp_path / "out" / UNFINISHED).exists()
    again = write_dataset(tmp_path / "out", chips)
    assert not (tmp_path / "out" / UNFINISHED).exists()
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.tar")}
    assert found == {shard.name for shard in again.manifest.shards}


@pytest.mark.parametrize("name", ["train/000000.tar", "statistics.json"])
def test_files_of_somebody_else_are_not_overwritten(
    pairs_dataset: Any, write_dataset: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    with pytest.raises(InputError, match=f"holds {name}, which would be overwritten"):
        write_dataset(tmp_path / "out", list(pairs_dataset.chips.values()))
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [b"theirs"]


@pytest.mark.parametrize("name", ["index.parquet", "rejected.parquet"])
def test_a_truncated_table_is_an_error_that_names_it(copy: Path, name: str) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:100])
    dataset = open_dataset(str(copy))
    with pytest.raises(DatasetError, match=name):
        _ = dataset.index if name == "index.parquet" else dataset.rejected


@pytest.mark.parametrize("missing", ["schema", "shards", "rejected", "made_by"])
def test_a_manifest_without_one_of_its_parts_is_named(copy: Path, missing: str) -> None:
    values = json.loads((copy / MANIFEST).read_text())
    del values[missing]
    (copy / MANIFEST).write_text(json.dumps(values))
    with pytest.raises((InputError, DatasetError), match=missing):
        open_dataset(str(copy))


def test_a_folder_in_the_place_of_a_shard_is_an_error(copy: Path) -> None:
    dataset = open_dataset(str(copy))
    shard = copy / dataset.manifest.shards[0].name
    shard.unlink()
    shard.mkdir()
    with pytest.raises(DatasetError, match=shard.name):
        dataset.gather(np.array([0]))


def test_a_shard_that_is_replaced_while_it_is_read_is_never_a_wrong_sample(
    copy: Path, pairs_dataset: Any, tmp_path: Path
) -> None:
    dataset = open_dataset(str(copy))
    chips = dataset.chips_of_shard(0)
    batches = dataset.batches(chips, 1)
    assert_chips_are_themselves(dataset, pairs_dataset, next(batches))
    shard, bad = copy / dataset.manifest.shards[0].name, tmp_path / "bad"
    data = bytearray(shard.read_bytes())
    data[5_000] ^= 1
    bad.write_bytes(data)
    kept = shard.rename(tmp_path / "kept")
    bad.rename(shard)
    with pytest.raises(DatasetError, match=shard.name):
        dataset.gather(chips)
    for batch in batches:  # it goes on with the pages of the file that it began with
        assert_chips_are_themselves(dataset, pairs_dataset, batch)
    shard.unlink()
    kept.rename(shard)
    assert_chips_are_themselves(dataset, pairs_dataset, dataset.gather(chips))


def test_what_was_fetched_damaged_is_not_kept(
    pairs_dataset: Any, write_dataset: Callable[..., Any], remote: str, tmp_path: Path
) -> None:
    written = write_dataset(join(remote, "set"), list(pairs_dataset.chips.values()))
    options = ReadOptions(cache=str(tmp_path / "cache"))
    url = join(written.url, written.manifest.shards[0].name)
    whole, some = written.open().chips_of_shard(0), np.array([0, 1])
    sound = read_bytes(url)
    damaged = bytearray(sound)
    damaged[3_000] ^= 1
    for chips in (whole, some):
        publish(url, damaged)
        for read in (options, replace(options, check=False)):  # without checks it is kept, and found later
            dataset = written.open(read)
            if read.check:
                with pytest.raises(DatasetError, match="copy"):
                    dataset.gather(chips)
            else:
                dataset.gather(chips)
        publish(url, sound)
        assert_chips_are_themselves(written.open(), pairs_dataset, written.open(options).gather(chips))


def test_a_forked_process_fetches_too(
    pairs_dataset: Any, write_dataset: Callable[..., Any], remote: str
) -> None:
    dataset = write_dataset(join(remote, "set"), list(pairs_dataset.chips.values())).open()
    dataset.gather(np.array([0]))
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, dataset.gather(np.array([3])).height_BHW.tobytes()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == dataset.gather(np.array([3])).height_BHW.tobytes()[:4000]
    assert os.waitpid(child, 0)[1] == 0


def test_sizes_and_ranks_that_cannot_be_are_refused(pairs_dataset: Any) -> None:
    dataset = pairs_dataset.open()
    for size in (0, -16):
        with pytest.raises(InputError, match=f"batches of {size}"):
            dataset.batches(dataset.chips("train"), size)
    with pytest.raises(ValueError, match="rank 5 of 2"):
        Part(5, 2)
    with pytest.raises(InputError, match="trian"):
        dataset.chips("trian")
    with pytest.raises(InputError, match="limit -1"):
        dataset.chips("train", limit=-1)
