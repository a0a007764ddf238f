"""Rows of shards in a given order: each shard is loaded shortly before its first row is needed, and dropped
after its last. Memory is bounded because the order keeps the rows of a shard near each other. `ahead` lets a
thread make batches of rows before they are asked for.
"""

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shards.errors import DatasetChangedError, DatasetError
from shards.read.arena import Memory
from shards.read.order import Chips
from shards.read.shard_loader import ShardLoader

Item = TypeVar("Item")

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Schedule:
    """First and last need of each shard, for a sequence of chips."""

    shards: Chips
    """Shards in the order of their first chip."""
    first: Chips
    """Place of that first chip in the sequence."""
    leaving: Chips
    """Shards in the order of their last chip."""
    last: Chips
    """Place of that last chip in the sequence."""
    rows: dict[int, Chips]
    """Rows that are needed, ascending, by shard."""

    @classmethod
    def of(cls, shard_of_chip: Chips, row_of_chip: Chips) -> "Schedule":
        """Make the schedule of chips in the order of their use."""
        shards, first = np.unique(shard_of_chip, return_index=True)
        last = shard_of_chip.size - 1 - np.unique(shard_of_chip[::-1], return_index=True)[1]
        sorted_rows = row_of_chip[np.lexsort((row_of_chip, shard_of_chip))]
        ends = np.cumsum(np.bincount(np.searchsorted(shards, shard_of_chip), minlength=shards.size))
        rows = (
            dict(zip(shards.tolist(), np.split(sorted_rows, ends[:-1]), strict=True)) if shards.size else {}
        )
        enter, leave = np.argsort(first), np.argsort(last)
        return cls(shards[enter], first[enter], shards[leave], last[leave], rows)

    def most_at_once(self) -> int:
        """Return the largest number of shards that are in use at a time."""
        entered = np.arange(1, self.first.size + 1)
        return int((entered - np.searchsorted(self.last, self.first, side="left")).max(initial=0))


class RowStream:
    """Loads shards on schedule and gathers their rows."""

    def __init__(self, loader: ShardLoader, shard_of_chip: Chips, row_of_chip: Chips, ahead: int) -> None:
        self._loader, self._shard_of_chip = loader, shard_of_chip
        self._schedule, self._ahead = Schedule.of(shard_of_chip, row_of_chip), max(1, ahead)
        self._arena = loader.arena()
        blocks = loader.blocks_per_row()
        self._block_of_chip = self._arena.first_block(shard_of_chip) + row_of_chip * blocks[shard_of_chip]

    def pieces(
        self, ends: Chips, skipped: dict[int, str] | None, memory: Memory | None = None
    ) -> Iterator[tuple[Chips, NDArray[np.uint8]]]:
        """Yield (places, rows) for each of `ends` (ascending): the places since the last end, and their rows.

        A shard that cannot be loaded goes to `skipped` with the reason, and its places are left out. If
        `skipped` is None, its error is raised. Rows go to the memory that `memory` gives; default: new
        memory.

        Raises:
            DatasetError: a shard cannot be loaded.
        """
        schedule, loader, arena = self._schedule, self._loader, self._arena
        loading: dict[int, Future[None]] = {}
        asked = entered = left = start = 0
        needed_at, gone_at = (
            np.searchsorted(places, ends).tolist() for places in (schedule.first, schedule.last)
        )
        threads = ThreadPoolExecutor(self._ahead, thread_name_prefix="treeline-shards")
        try:
            for end, needed, gone in zip(ends.tolist(), needed_at, gone_at, strict=True):
                # Shards ahead are asked for once the needed ones have come, so that shards for later batches
                # do not delay the first one.
                for until in (needed, needed + self._ahead):
                    for shard in schedule.shards[asked:until].tolist():
                        if not loader.is_mapped(shard):
                            load = (arena, shard, np.unique(schedule.rows[shard]), skipped is not None)
                            loading[shard] = threads.submit(loader.load, *load)
                    asked = max(asked, min(until, schedule.shards.size))
                    for shard in schedule.shards[entered:needed].tolist():
                        _wait_for(loading.pop(shard, None), shard, skipped)
                    entered = needed
                places = np.arange(start, end)
                if skipped:
                    places = places[~np.isin(self._shard_of_chip[places], list(skipped))]
                yield places, arena.gather(self._block_of_chip[places], memory)
                for shard in schedule.leaving[left:gone].tolist():
                    loader.drop(arena, shard)
                left, start = gone, end
        finally:
            # Running loads write to the arena, which must outlive them.
            threads.shutdown(wait=True, cancel_futures=True)


def _wait_for(load: Future[None] | None, shard: int, skipped: dict[int, str] | None) -> None:
    """Wait until `load` (None: nothing to do) has ended; note a bad shard in `skipped`, if given."""
    try:
        if load is not None:
            load.result()
    except DatasetError as error:
        if skipped is None or isinstance(error, DatasetChangedError):
            raise
        skipped[shard] = str(error)


def ahead(items: Iterable[Item], depth: int) -> Generator[Item]:
    """Yield the same items in the same order; a thread makes up to `depth` of them before they are asked for.

    An error in `items` is raised here, after the items before. Closing the generator ends the thread.
    """
    ready: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, value: Item | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - handed over, and raised again where items are consumed
            put("error", error)
            return
        put("end", None)

    thread = threading.Thread(target=produce, name="treeline-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
