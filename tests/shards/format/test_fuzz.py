"""Damage is never a wrong sample: thousands of random damages to every object of a dataset, each read whole.

- whatever a reader reads of a damaged dataset is what was written, or an error that names the damaged object
- an error is a DatasetError or an InputError, whatever the bytes are
- what does not need the damaged object is read as if nothing had happened

A damage is made before the dataset is opened: a local tar is mapped, and trusted while it is open.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import fsspec
import numpy as np
import pytest

from shards.errors import DatasetError, InputError
from shards.format.manifest import INDEX, MANIFEST, REJECTED, STATISTICS
from shards.read.chip_reader import ChipReader
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import find_files, join, read_bytes

CHIPS = 22
"""Three shards in train, the last of them short, and one in val."""
WHERE = "height_max > 3 and source == 'AK_IFSAR'"
LONGEST_RUN = 4096
KINDS = ("flip", "overwrite", "cut", "drop", "swap runs", "swap objects", "append", "empty", "delete")

Objects = dict[str, bytes | None]
"""By name; None: deleted."""


def damaged(rng: np.random.Generator, kind: str, name: str, other: str, sound: dict[str, bytes]) -> Objects:
    """One damage of `kind` to the object `name`, or to it and `other`."""
    data = sound[name]
    start = int(rng.integers(len(data)))
    # Many damages of a few bytes, some of kilobytes.
    length = int(rng.integers(1, 2 ** int(rng.integers(1, LONGEST_RUN.bit_length()))))
    stop = min(start + length, len(data))
    if kind == "flip":
        return {name: data[:start] + bytes([data[start] ^ 1 << int(rng.integers(8))]) + data[start + 1 :]}
    if kind == "overwrite":
        return {name: data[:start] + rng.bytes(stop - start) + data[stop:]}
    if kind == "cut":
        return {name: data[:start]}
    if kind == "drop":
        return {name: data[:start] + data[stop:]}
    if kind == "swap runs":
        a, b, c, d = np.sort(rng.integers(0, len(data) + 1, 4)).tolist()
        if rng.random() < 0.5:  # runs of one length, so that nothing else moves
            b, d = a + min(b - a, d - c), c + min(b - a, d - c)
        return {name: data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]}
    if kind == "swap objects":
        return {name: sound[other], other: data}
    if kind == "append":
        return {name: data + rng.bytes(length)}
    return {name: b"" if kind == "empty" else None}


def store(url: str, objects: Objects) -> None:
    """Put `objects` below `url`, as new files: one that is still mapped keeps its bytes."""
    for name, data in objects.items():
        filesystem, path = fsspec.core.url_to_fs(join(url, name))
        if filesystem.exists(path):
            filesystem.rm_file(path)
        if data is not None:
            filesystem.pipe_file(path, data)


@dataclass
class Sound:
    """A dataset as it was written: its objects, and all that a reader may say of it."""

    url: str
    objects: dict[str, bytes]
    keys: list[str]
    image_BCHW: np.ndarray
    height_BHW: np.ndarray
    index: Any
    rejected: Any
    statistics: Any
    order: np.ndarray
    selected: np.ndarray
    shard_names: list[set[str]]
    """By shard: its objects."""

    @classmethod
    def of(cls, written: Any) -> Sound:
        dataset = written.open()
        keys = dataset.index["key"].to_pylist()
        chips = [written.chips[key] for key in keys]
        sources, height_max = (dataset.index[name].to_pylist() for name in ("source", "height_max"))
        selected = [
            number
            for number, (source, height) in enumerate(zip(sources, height_max, strict=True))
            if height > 3 and source == "AK_IFSAR"
        ]
        return cls(
            url=written.url,
            objects={name: read_bytes(join(written.url, name)) for name in find_files(written.url)},
            keys=keys,
            image_BCHW=np.stack([chip.image_CHW for chip in chips]),
            height_BHW=np.stack([chip.height_HW for chip in chips]),
            index=dataset.index,
            rejected=dataset.rejected,
            statistics=dataset.statistics,
            order=dataset.epoch(np.arange(len(keys)), 5, 2),
            selected=np.array(selected),
            shard_names=[{stored.name for stored in shard.objects} for shard in dataset.manifest.shards],
        )

    def assert_right(self, batch: Any, chips: np.ndarray) -> None:
        np.testing.assert_array_equal(batch.chips, chips)
        assert batch.image_BCHW.tobytes() == self.image_BCHW[chips].tobytes()
        assert batch.height_BHW.tobytes() == self.height_BHW[chips].tobytes()

    def reads(
        self, dataset: Dataset, rng: np.random.Generator, batches_ahead: int = 0
    ) -> Iterator[tuple[str, set[str], Callable[[], None]]]:
        """(what, the objects it may need beside the manifest, a check of what is read of it)."""
        local = "://" not in self.url
        shards = set[str]().union(*self.shard_names)

        def index() -> None:
            assert dataset.index.equals(self.index)
            assert dataset.index["key"].to_pylist() == self.keys

        def rejected() -> None:
            assert dataset.rejected.equals(self.rejected)

        def statistics() -> None:
            assert dataset.statistics == self.statistics

        def selection() -> None:
            np.testing.assert_array_equal(dataset.chips("all", where=WHERE), self.selected)

        def order() -> None:
            np.testing.assert_array_equal(dataset.epoch(dataset.chips("all"), 5, 2), self.order)

        def batches() -> None:
            reader = ChipReader(dataset, dataset.chips("all"), batch_size=8, seed=5)
            expected = reader.order(0)
            assert sorted(expected.tolist()) == list(range(len(self.keys)))
            starts = itertools.count(0, 8)
            for start, batch in zip(starts, reader.epoch(batches_ahead), strict=False):
                self.assert_right(batch, expected[start : start + 8])
            assert reader.state.epoch == 1

        yield "index", {INDEX}, index
        yield "rejected", {REJECTED}, rejected
        yield "statistics", {STATISTICS}, statistics
        yield "selection", {INDEX}, selection
        yield "order", set(), order
        for count in (3,) if local else (1, 1, 3):  # one chip of a remote tar is a range
            chips = rng.choice(len(self.keys), count, replace=False)
            of_chips = [self.shard_names[number] for number in dataset.shard_of(chips)]
            needed = set[str]().union(*of_chips) | (set() if local else {INDEX})
            yield "gather", needed, lambda chips=chips: self.assert_right(dataset.gather(chips), chips)
        yield "batches", shards | (set() if local else {INDEX}), batches


def outcome_of(check: Callable[[], None], names: list[str]) -> str:
    said = ""
    try:
        check()
    except (DatasetError, InputError) as error:
        said = str(error) or "nothing"
    assert not said or any(name in said for name in names), f"names no {' or '.join(names)}: {said}"
    return "refused" if said else "right"


def opens(url: str, opened: list[Dataset]) -> None:
    opened.append(open_dataset(url))


def fuzz(written: Any, seed: int, damages: int) -> Counter[str]:
    """How often each outcome came of `damages` damages."""
    sound, outcomes = Sound.of(written), Counter[str]()
    kinds_of_object: dict[str, list[str]] = {}
    for name in sound.objects:
        kind = "shard" if any(name in names for names in sound.shard_names) else os.path.basename(name)
        kinds_of_object.setdefault(kind, []).append(name)
    assert {"shard", INDEX, MANIFEST, STATISTICS, REJECTED} <= set(kinds_of_object)
    for number in range(damages):
        rng = np.random.default_rng((seed, number))
        kind = KINDS[number % len(KINDS)]
        # Half of the damages are to shards, and the others to every other sort of object alike.
        sort = "shard" if rng.random() < 0.5 else str(rng.choice(list(kinds_of_object)))
        name = str(rng.choice(kinds_of_object[sort]))
        # A shard goes by another's name, or anything by any name.
        others = kinds_of_object["shard"] if sort == "shard" and rng.random() < 0.5 else list(sound.objects)
        other = str(rng.choice([other for other in others if other != name]))
        change = damaged(rng, kind, name, other, sound.objects)
        names = list(change)
        what = ""
        store(sound.url, change)
        try:
            what = "open"
            opened: list[Dataset] = []
            outcome = outcome_of(partial(opens, sound.url, opened), names)
            outcomes[f"{what} {outcome}"] += 1
            for dataset in opened:
                batches_ahead = 2 * (number % 4 == 0)  # with a thread and without
                for what, needed, check in sound.reads(dataset, rng, batches_ahead):
                    outcome = outcome_of(check, names)
                    outcomes[f"{what} {outcome}"] += 1
                    assert outcome == "right" or needed & set(names), "refused for what it does not need"
                dataset.loader.fetcher.close()
        except Exception as error:
            error.add_note(f"seed {seed}, damage {number}: {kind}, {' and '.join(names)}; {what}")
            raise
        finally:
            store(sound.url, {name: sound.objects[name] for name in names})
    # What is put back is sound again: no outcome above was that of an earlier damage.
    for _, _, check in sound.reads(written.open(), np.random.default_rng(seed)):
        check()
    return outcomes


def assert_both_came(outcomes: Counter[str]) -> None:
    for what in ("open", "index", "rejected", "statistics", "selection", "gather", "batches"):
        assert outcomes[f"{what} right"], what
        assert outcomes[f"{what} refused"], what


@pytest.fixture
def chips(new_chip: Callable[..., Any]) -> list[Any]:
    return [new_chip(number) for number in range(CHIPS)]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
@pytest.mark.parametrize("shard_format", ["tar", "zarr"])
def test_damage_on_disk_is_never_a_wrong_sample(
    tmp_path: Any, write_dataset: Callable[..., Any], chips: list[Any], shard_format: Any, seed: int
) -> None:
    written = write_dataset(tmp_path / "set", chips, shard_format=shard_format)
    assert_both_came(fuzz(written, seed, 210))


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("shard_format", ["tar", "zarr"])
def test_damage_in_remote_storage_is_never_a_wrong_sample(
    write_dataset: Callable[..., Any], chips: list[Any], shard_format: Any
) -> None:
    # Of a remote tar a few chips are fetched as ranges, and checked against the index.
    url = f"memory://fuzz/{shard_format}"
    try:
        written = write_dataset(url, chips, shard_format=shard_format)
        assert_both_came(fuzz(written, 100, 170))
    finally:
        fsspec.filesystem("memory").rm("/fuzz", recursive=True)
