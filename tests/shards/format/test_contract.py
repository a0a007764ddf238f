"""One contract for every format in every storage: the same chips, order, states, and no wrong sample.

- what was written is read, each chip once an epoch with its own pixels, for any number of ranks
- order, states and statistics are those of any other format and storage
- a reader stopped anywhere goes on with the next chip, also with another number of ranks
- damage is an error that names the object, or it changes nothing
- conversion and verification work
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fsspec
import numpy as np
import pytest
from pixels import assert_chips_are_themselves

from shards.commands.convert import convert
from shards.commands.verify import verify
from shards.config import ConvertConfig, VerifyConfig
from shards.errors import DatasetError, InputError
from shards.format.manifest import FILES, MANIFEST
from shards.read.chip_reader import ChipReader
from shards.read.dataset import open_dataset
from shards.read.order import Part
from shards.read.read_options import ReadOptions
from shards.read.reader_state import ReaderState
from shards.storage.objects import find_files, join, publish, read_bytes


@pytest.mark.parametrize("shard_format", ["tar", "zarr"])
class TestContract:
    """What every format does in every storage."""

    @pytest.fixture
    def written(
        self, storage: str, shard_format: Any, pairs_dataset: Any, write_dataset: Callable[..., Any]
    ) -> Any:
        chips = list(pairs_dataset.chips.values())
        return write_dataset(join(storage, "set"), chips, shard_format=shard_format)

    def test_every_chip_is_met_once_with_its_own_pixels(self, written: Any) -> None:
        dataset = written.open()
        chips = dataset.chips("train")
        for world_size in (1, 2, 3):
            met = []
            for rank in range(world_size):
                reader = ChipReader(dataset, chips, 16, seed=3, part=Part(rank, world_size))
                for batch in reader.epoch():
                    assert_chips_are_themselves(dataset, written, batch)
                    met += batch.chips.tolist()
            assert sorted(met) == chips.tolist()

    def test_order_fingerprint_and_statistics_do_not_depend_on_format_and_storage(
        self, written: Any, pairs_dataset: Any
    ) -> None:
        dataset, other = written.open(), pairs_dataset.open()
        assert dataset.manifest.fingerprint == other.manifest.fingerprint
        assert dataset.statistics == other.statistics
        for split in ("train", "val"):
            chips = dataset.chips(split)
            np.testing.assert_array_equal(dataset.epoch(chips, 1, 2), other.epoch(other.chips(split), 1, 2))

    def test_a_stopped_reader_goes_on_elsewhere(self, written: Any, pairs_dataset: Any) -> None:
        dataset, other = written.open(), pairs_dataset.open()
        reader = ChipReader(dataset, dataset.chips("train"), 6, seed=1)
        before = [batch.chips for _, batch in zip(range(3), reader.epoch(), strict=False)]
        state = ReaderState.from_json(reader.state.to_json())
        assert (state.epoch, state.seen) == (0, 18)
        rest = []
        for rank in range(2):  # another number of ranks, format, storage and size of batches
            resumed = ChipReader(other, other.chips("train"), 10, seed=99, part=Part(rank, 2))
            resumed.restore(state)
            rest += [batch.chips for batch in resumed.epoch()]
            assert (resumed.state.epoch, resumed.state.seen) == (1, 0)
        order = dataset.epoch(dataset.chips("train"), 1, 0)
        np.testing.assert_array_equal(np.concatenate(before), order[:18])
        np.testing.assert_array_equal(np.sort(np.concatenate(rest)), np.sort(order[18:]))

    def test_a_few_chips_of_many_shards_are_themselves(self, written: Any) -> None:
        dataset = written.open()
        chips = np.array([50, 3, 3, 17, 41])
        batch = dataset.gather(chips)
        np.testing.assert_array_equal(batch.chips, chips)
        assert_chips_are_themselves(dataset, written, batch)

    @pytest.mark.parametrize("damage", ["flip", "cut", "swap", "missing"])
    def test_a_damaged_shard_is_an_error_that_names_it(self, written: Any, damage: str) -> None:
        first, second = written.manifest.shards[0], written.manifest.shards[1]
        names = [stored.name for stored in first.objects]
        for name, other in zip(names, [stored.name for stored in second.objects], strict=True):
            url = join(written.url, name)
            data = read_bytes(url)
            if damage == "missing":
                filesystem, path = fsspec.core.url_to_fs(url)
                filesystem.rm_file(path)
            elif damage == "cut":
                publish(url, data[:700])
            elif damage == "swap":
                publish(url, read_bytes(join(written.url, other)))
            else:
                publish(url, data[:1000] + bytes([data[1000] ^ 4]) + data[1001:])
            dataset = written.open()
            with pytest.raises(DatasetError, match=name):
                dataset.gather(np.array([0, 50]))
            with pytest.raises(DatasetError, match=name):
                for _ in dataset.batches(dataset.chips("all"), 8):
                    pass
            publish(url, data)

    def test_a_bad_shard_can_be_left_out_on_all_ranks_alike(
        self, written: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bad = written.manifest.shards_of("train")[1]
        url = join(written.url, bad.name)
        data = read_bytes(url)
        publish(url, data[:2000] + bytes([data[2000] ^ 4]) + data[2001:])
        dataset = written.open(ReadOptions(on_bad_shard="skip"))
        chips = dataset.chips("train")
        names = np.array(dataset.index["shard"].to_pylist())
        expected = chips[names[chips] != bad.name].tolist()
        for world_size in (1, 2):
            met, batches = [], set()
            for rank in range(world_size):
                parts = list(dataset.batches(chips, 8, Part(rank, world_size)))
                batches.add(len(parts))
                for batch in parts:
                    assert_chips_are_themselves(dataset, written, batch)
                    met += batch.chips.tolist()
            assert sorted(met) == expected
            assert len(batches) == 1, "every rank has as many batches"
        assert list(dataset.bad_shards) == [bad.name]
        said = [line for line in capsys.readouterr().err.splitlines() if "left out a bad shard" in line]
        assert len(said) == 1, "once, however often it is met"
        assert bad.name in said[0]
        assert dataset.any_can_be_read(chips)
        assert not dataset.any_can_be_read(np.flatnonzero(names == bad.name))

    def test_a_state_of_other_chips_is_refused(self, written: Any) -> None:
        dataset = written.open()
        reader = ChipReader(dataset, dataset.chips("train"), 8)
        state = ChipReader(dataset, dataset.chips("train", limit=10), 8).state
        with pytest.raises(InputError, match="other chips"):
            reader.restore(state)

    def test_conversion_loses_nothing_either_way(
        self, written: Any, shard_format: str, storage: str, pairs_dataset: Any
    ) -> None:
        to: Any = "zarr" if shard_format == "tar" else "tar"
        there, back = join(storage, "there"), join(storage, "back")
        convert(ConvertConfig(data=written.url, to=to, out=there))
        assert verify(VerifyConfig(there)) == []
        assert open_dataset(there).manifest.fingerprint == written.manifest.fingerprint
        convert(ConvertConfig(data=there, to=shard_format, out=back))  # type: ignore[arg-type]
        assert find_files(back) == find_files(written.url)
        for name in find_files(back):
            assert read_bytes(join(back, name)) == read_bytes(join(written.url, name)), name

    def test_verification_finds_what_is_off(self, written: Any) -> None:
        assert verify(VerifyConfig(written.url)) == []
        for stored in written.manifest.shards[2].objects:
            url = join(written.url, stored.name)
            data = read_bytes(url)
            publish(url, data[:900] + bytes([data[900] ^ 1]) + data[901:])
            assert [stored.name in problem for problem in verify(VerifyConfig(written.url))] == [True]
            publish(url, data)
        for name in FILES:
            url = join(written.url, name)
            data = read_bytes(url)
            publish(url, data[:-1] + bytes([data[-1] ^ 1]))
            assert any(name in problem for problem in verify(VerifyConfig(written.url)))
            publish(url, data)
        publish(join(written.url, "train", "999999.tar"), b"?")
        assert [MANIFEST in problem for problem in verify(VerifyConfig(written.url))] == [True]
