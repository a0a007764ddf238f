"""Shards in one range of addresses, and the stream that brings them there and takes them away.

- mapped files and filled memory give their own rows, in any order; a place changes no other place
- what is not there is refused: an empty place, an empty file, a file larger than its place
- a schedule knows when each shard is needed: the same as counting chip by chip
- a stream loads every shard once, few at a time, drops it after its last chip, and leaves no thread behind
"""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from shards.errors import DatasetError
from shards.format.tar import BLOCK
from shards.read.arena import Arena
from shards.read.order import Chips, epoch_order
from shards.read.row_stream import RowStream, Schedule
from shards.read.shard_loader import ShardLoader

SPAN = 3 * BLOCK
BLOCKS_PER_ROW = 4
ROWS = 16
PLACE_BYTES = ROWS * BLOCKS_PER_ROW * BLOCK


def bytes_of(number: int, rows: int = ROWS) -> np.ndarray:
    """The bytes of shard `number`."""
    generator = np.random.default_rng(number)
    return generator.integers(1, 256, rows * BLOCKS_PER_ROW * BLOCK, np.uint8)


def row_of(number: int, row: int) -> np.ndarray:
    return bytes_of(number).reshape(ROWS, -1)[row, :SPAN]


@pytest.fixture
def arena() -> Arena:
    return Arena(6, PLACE_BYTES, SPAN)


def blocks(arena: Arena, places: Any, rows: Any) -> Chips:
    return np.asarray(arena.first_block(np.asarray(places)) + np.asarray(rows) * BLOCKS_PER_ROW)


class TestArena:
    """Places for shards."""

    def test_rows_of_files_and_of_memory_are_themselves(self, arena: Arena, tmp_path: Path) -> None:
        for place in range(6):
            if place % 2:
                (tmp_path / str(place)).write_bytes(bytes_of(place).tobytes())
                mapped = arena.map_file(place, tmp_path / str(place))
                np.testing.assert_array_equal(mapped, bytes_of(place))
                assert not mapped.flags.writeable
            else:
                memory = arena.fill(place)
                assert not memory.any()
                memory[:PLACE_BYTES] = bytes_of(place)
            assert arena.holds(place)
        generator = np.random.default_rng(0)
        places, rows = generator.integers(0, 6, 200), generator.integers(0, ROWS, 200)
        gathered = arena.gather(blocks(arena, places, rows))
        assert gathered.shape == (200, SPAN)
        expected = [row_of(place, row) for place, row in zip(places, rows, strict=True)]
        np.testing.assert_array_equal(gathered, expected)

    def test_what_was_gathered_is_a_copy(self, arena: Arena) -> None:
        memory = arena.fill(0)
        memory[:] = 7
        gathered = arena.gather(blocks(arena, [0], [1]))
        memory[:] = 9
        arena.empty(0)
        assert (gathered == 7).all()
        gathered[:] = 1

    @pytest.mark.parametrize("order", [[0], [5], [0, 3], [3, 0], [4, 4, 1]], ids=str)
    def test_an_empty_place_is_refused(self, arena: Arena, order: list[int]) -> None:
        filled = order[0]
        for place in {0, 1, 3, 4, 5} - {filled}:
            arena.fill(place)
        with pytest.raises(AssertionError, match="empty place"):
            arena.gather(blocks(arena, order, np.zeros(len(order), int)))
        arena.fill(filled)
        assert arena.gather(blocks(arena, order, np.zeros(len(order), int))).shape == (len(order), SPAN)
        arena.empty(filled)
        assert not arena.holds(filled)
        with pytest.raises(AssertionError, match="empty place"):
            arena.gather(blocks(arena, order, np.zeros(len(order), int)))

    def test_a_place_filled_again_is_all_zeros(self, arena: Arena) -> None:
        for _ in range(3):
            memory = arena.fill(2)
            assert not memory.any()
            memory[:] = 1
            arena.empty(2)

    def test_places_are_independent(self, arena: Arena, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(bytes_of(9).tobytes())
        for place in (1, 2, 3):
            arena.fill(place)[:PLACE_BYTES] = bytes_of(place)
        for change in (lambda: arena.empty(2), lambda: arena.map_file(2, tmp_path / "file")):
            change()
            for place in (1, 3):
                found = arena.gather(blocks(arena, [place] * ROWS, np.arange(ROWS)))
                np.testing.assert_array_equal(found, bytes_of(place).reshape(ROWS, -1)[:, :SPAN])
        np.testing.assert_array_equal(arena.gather(blocks(arena, [2], [5]))[0], row_of(9, 5))

    def test_many_threads_use_places_of_their_own(self) -> None:
        arena, wrong = Arena(16, PLACE_BYTES, SPAN), []

        def use(place: int) -> None:
            for turn in range(30):
                arena.fill(place)[:] = (place + turn) % 251
                found = arena.gather(blocks(arena, [place] * 3, [0, 7, ROWS - 1]))
                if not (found == (place + turn) % 251).all():
                    wrong.append((place, turn))
                arena.empty(place)

        threads = [threading.Thread(target=use, args=(place,)) for place in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_a_file_that_fits_to_the_byte_and_one_that_does_not(self, arena: Arena, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(bytes(arena.place_bytes))
        assert arena.map_file(5, path).size == arena.place_bytes
        for size in (0, arena.place_bytes + 1, 3 * arena.place_bytes):
            path.write_bytes(bytes(size))
            with pytest.raises(OSError, match="do not fit"):
                arena.map_file(1, path)
            assert not arena.holds(1)

    @pytest.mark.parametrize("name", ["absent", ""])
    def test_no_file_is_an_error(self, arena: Arena, tmp_path: Path, name: str) -> None:
        with pytest.raises(OSError, match=r"No such file|Is a directory"):
            arena.map_file(0, tmp_path / name)
        assert not arena.holds(0)

    def test_reserved_addresses_cost_no_memory(self) -> None:
        arena = Arena(1000, 10**9, SPAN)  # a terabyte
        arena.fill(999)[-SPAN:] = 3
        last = np.array([arena.first_block(999) + (arena.place_bytes - SPAN) // BLOCK])
        assert (arena.gather(last) == 3).all()

    def test_no_places_are_an_arena_too(self) -> None:
        assert Arena(0, 0, SPAN).gather(np.arange(0)).shape == (0, SPAN)


def sequences() -> list[Chips]:
    """Shards in the order in which chips meet them."""
    generator = np.random.default_rng(5)
    found = [np.arange(0), np.zeros(1, np.int64), np.zeros(9, np.int64), np.arange(7), np.arange(7)[::-1]]
    for count, shards in [(5, 3), (30, 4), (200, 60), (200, 200), (500, 11)]:
        drawn = generator.integers(0, shards, count)
        found += [drawn, np.sort(drawn), drawn * 3 + 5]
        found.append(np.sort(drawn)[epoch_order(np.sort(drawn), 0, count)])
    return found


def shards_in_use(shard_of_chip: Chips, places: range) -> int:
    """Counted: shards met at or before the end of `places` and again at or after their begin."""
    met = set(shard_of_chip[: places.stop].tolist())
    return len(met & set(shard_of_chip[places.start :].tolist()))


class TestSchedule:
    """When each shard is needed."""

    @pytest.mark.parametrize("shard_of_chip", sequences(), ids=len)
    def test_it_is_what_counting_says(self, shard_of_chip: Chips) -> None:
        rows = np.random.default_rng(1).integers(0, 50, shard_of_chip.size)
        schedule, met = Schedule.of(shard_of_chip, rows), shard_of_chip.tolist()
        first = {shard: met.index(shard) for shard in met}
        last = {shard: place for place, shard in enumerate(met)}
        assert list(first.items()) == list(
            zip(schedule.shards.tolist(), schedule.first.tolist(), strict=True)
        )
        by_last = sorted(last.items(), key=lambda pair: pair[1])
        assert by_last == list(zip(schedule.leaving.tolist(), schedule.last.tolist(), strict=True))
        needed = {shard: sorted(rows[shard_of_chip == shard].tolist()) for shard in first}
        assert {shard: found.tolist() for shard, found in schedule.rows.items()} == needed
        counted = [shards_in_use(shard_of_chip, range(place, place + 1)) for place in range(len(met))]
        assert schedule.most_at_once() == max(counted, default=0)


class CountingLoader:
    """Stands where a ShardLoader does: rows that say whose they are, and a record of what is loaded."""

    def __init__(self, shards: int, bad: frozenset[int] = frozenset()) -> None:
        self.shards, self.bad = shards, bad
        self.loads: Counter[int] = Counter()
        self.drops: Counter[int] = Counter()
        self.held: set[int] = set()
        self.running = self.most_held = 0
        self.rows: dict[int, list[int]] = {}
        self._lock = threading.Lock()

    def arena(self) -> Arena:
        return Arena(self.shards, PLACE_BYTES, SPAN)

    def blocks_per_row(self) -> Chips:
        return np.full(self.shards, BLOCKS_PER_ROW)

    def is_mapped(self, number: int) -> bool:
        return False

    def load(self, arena: Arena, number: int, rows: Chips, whole: bool = False) -> None:
        with self._lock:
            self.loads[number] += 1
            self.running += 1
            self.held.add(number)
            self.most_held = max(self.most_held, len(self.held))
            self.rows[number] = rows.tolist()
        try:
            if number in self.bad:
                raise DatasetError(f"shard {number}: is damaged")
            place = arena.fill(number)[:PLACE_BYTES].reshape(ROWS, -1)
            for row in rows:  # the rows asked for and no others
                place[row] = [number, row] * (place.shape[1] // 2)
        finally:
            with self._lock:
                self.running -= 1

    def drop(self, arena: Arena, number: int) -> None:
        with self._lock:
            self.drops[number] += 1
            self.held.discard(number)
        arena.empty(number)


def stream_of(loader: CountingLoader, shard: Chips, row: Chips, ahead: int) -> RowStream:
    return RowStream(cast(ShardLoader, loader), shard, row, ahead)


def ends_of(count: int, batch_size: int) -> Chips:
    return np.array([min(start + batch_size, count) for start in range(0, count, batch_size)], np.int64)


def loading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("treeline-shards")]


def epoch_of_chips(shards: int = 20) -> tuple[Chips, Chips]:
    """(shard, row) of every chip, shuffled as an epoch is."""
    shard = np.repeat(np.arange(shards), ROWS)
    order = epoch_order(shard, seed=1, epoch=0, window=3)
    return shard[order], order % ROWS


class TestStream:
    """Shards loaded shortly before their first row, dropped after their last."""

    @pytest.mark.parametrize("ahead", [1, 2, 5])
    @pytest.mark.parametrize("batch_size", [1, 3, 64, 10_000])
    def test_each_shard_is_loaded_once_and_few_at_a_time(self, batch_size: int, ahead: int) -> None:
        shard, row = epoch_of_chips()
        loader = CountingLoader(20)
        ends = ends_of(shard.size, batch_size)
        starts, met = [0, *ends.tolist()], []
        for number, (places, rows_BS) in enumerate(
            stream_of(loader, shard, row, ahead).pieces(ends, skipped=None)
        ):
            np.testing.assert_array_equal(places, np.arange(starts[number], ends[number]))
            np.testing.assert_array_equal(rows_BS[:, 0], shard[places])
            np.testing.assert_array_equal(rows_BS[:, -1], row[places])
            gone = set(shard[: places[0]].tolist()) - set(shard[places[0] :].tolist())
            assert set(loader.drops) == gone, "dropped after its last chip, and not before"
            met += places.tolist()
        assert met == list(range(shard.size))
        assert loader.loads == loader.drops == Counter(range(20))
        assert not loader.held
        assert all(rows == list(range(ROWS)) for rows in loader.rows.values())
        in_use = [shards_in_use(shard, range(a, b)) for a, b in zip(starts, ends.tolist(), strict=False)]
        assert loader.most_held <= max(in_use) + ahead
        if batch_size == 1:
            assert max(in_use) == Schedule.of(shard, row).most_at_once()
        assert not loading_threads()

    def test_only_the_rows_that_are_needed_are_asked_for_once_each(self) -> None:
        shard, row = np.array([4, 4, 1, 4, 1]), np.array([9, 2, 3, 9, 3])
        loader = CountingLoader(6)
        for places, rows_BS in stream_of(loader, shard, row, 2).pieces(ends_of(5, 2), skipped=None):
            np.testing.assert_array_equal(rows_BS[:, :2], np.stack([shard[places], row[places]], 1))
        assert loader.rows == {4: [2, 9], 1: [3]}

    def test_empty_pieces_and_no_chips(self) -> None:
        shard, row = np.array([2, 2]), np.array([0, 1])
        stream = stream_of(CountingLoader(3), shard, row, 1)
        ends = np.array([0, 1, 1, 2, 2])
        sizes = [len(rows_BS) for _, rows_BS in stream.pieces(ends, skipped=None)]
        assert sizes == [0, 1, 0, 1, 0]
        nothing = stream_of(CountingLoader(3), np.arange(0), np.arange(0), 1)
        assert list(nothing.pieces(np.arange(0), skipped=None)) == []

    @pytest.mark.parametrize("batches", [1, 2, 7])
    def test_leaving_early_ends_the_threads_and_their_loads(self, batches: int) -> None:
        shard, row = epoch_of_chips()
        loader = CountingLoader(20)
        pieces = stream_of(loader, shard, row, 4).pieces(ends_of(shard.size, 5), skipped=None)
        for _ in range(batches):
            next(pieces)
        pieces.close()  # type: ignore[attr-defined]
        assert not loading_threads()
        assert loader.running == 0
        loads = sum(loader.loads.values())
        assert loads <= len(set(shard[: 5 * batches].tolist())) + 4
        assert max(loader.loads.values()) == 1

    def test_a_bad_shard_is_raised_when_it_is_needed_and_not_before(self) -> None:
        shard, row = np.repeat([3, 1, 2], 4), np.tile(np.arange(4), 3)
        loader = CountingLoader(4, frozenset({2}))
        pieces = stream_of(loader, shard, row, 3).pieces(ends_of(12, 4), skipped=None)
        assert [next(pieces)[0].tolist(), next(pieces)[0].tolist()] == [[0, 1, 2, 3], [4, 5, 6, 7]]
        with pytest.raises(DatasetError, match="shard 2"):
            next(pieces)
        assert not loading_threads()

    @pytest.mark.parametrize("batch_size", [1, 5, 1000])
    def test_bad_shards_are_left_out_and_named(self, batch_size: int) -> None:
        shard, row = epoch_of_chips()
        bad, skipped, met = frozenset({0, 7, 19}), dict[int, str](), []
        loader, ends = CountingLoader(20, bad), ends_of(shard.size, batch_size)
        pieces = list(stream_of(loader, shard, row, 2).pieces(ends, skipped))
        for places, rows_BS in pieces:
            np.testing.assert_array_equal(rows_BS[:, 0], shard[places])
            met += places.tolist()
        assert len(pieces) == len(ends)
        assert met == np.flatnonzero(~np.isin(shard, list(bad))).tolist()
        assert set(skipped) == bad
        assert all("is damaged" in reason for reason in skipped.values())
