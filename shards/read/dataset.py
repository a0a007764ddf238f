"""A dataset open for reading: its chips, their order in an epoch, and batches in stored types.

dataset = open_dataset("s3://bucket/chips")
chips = dataset.chips("train", where="source != 'AK_IFSAR'", limit=10_000)
for batch in dataset.batches(dataset.epoch(chips, seed=0, epoch=3), batch_size=64):
    batch.image_BCHW, batch.height_BHW

`shards.read.chip_reader` reads epoch after epoch, and resumes.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.errors import DatasetChangedError, DatasetError, InputError
from shards.format.index import INDEX_SCHEMA, read_table
from shards.format.manifest import INDEX, REJECTED, SPLITS, STATISTICS, Manifest, read_json, read_manifest
from shards.format.path_names import check_name
from shards.format.statistics import Statistics
from shards.format.tar import arrays_of
from shards.read.arena import Memory
from shards.read.balance import height_weights, times_met
from shards.read.order import (
    Chips,
    Part,
    RaggedEnd,
    epoch_order,
    global_batches,
    rank_part,
    reads_alone,
    stream_count,
    subset,
)
from shards.read.read_options import ReadOptions
from shards.read.row_stream import RowStream
from shards.read.selection import columns_named, matching
from shards.read.shard_loader import ShardLoader, unless_changed
from shards.said import say
from shards.storage.disk_cache import DiskCache
from shards.storage.objects import is_local
from shards.storage.typed_json import shown


@dataclass(frozen=True)
class Batch:
    """Some chips: image (B, bands, rows, columns) as stored, height (B, rows, columns) in metres."""

    chips: Chips
    """Positions of the chips in the dataset's index."""
    rows_BS: NDArray[np.uint8]
    """Buffer that both arrays are views of, at the offsets of `shards.format.tar.row_layout`."""
    image_BCHW: NDArray[Any]
    height_BHW: NDArray[np.float32]
    start: int = 0
    """Place of the global batch in the epoch's order."""
    size: int = 0
    """Number of chips in the global batch, over all ranks."""
    stands_in: bool = False
    """Whether its only chip stands for none, so that a rank without chips has something to compute."""


class Dataset:
    """A complete dataset, whose manifest was read."""

    def __init__(self, url: str, manifest: Manifest, options: ReadOptions = ReadOptions()) -> None:
        self.url, self.manifest, self.schema = url, manifest, manifest.schema
        self.options = options
        self.bad_shards: dict[str, str] = {}
        """Shards that were skipped: name and reason."""
        self._columns: dict[str, NDArray[Any]] = {}
        self._columns_lock = threading.Lock()
        cache = DiskCache(options.cache, options.cache_bytes) if options.cache else None
        self.loader = ShardLoader(url, manifest, self._column, cache, options.check)

    @cached_property
    def statistics(self) -> Statistics:
        """Statistics of the training split.

        Raises:
            InputError: that split is empty, or has no valid pixel.
        """
        with unless_changed(self.url, self.manifest):
            values = read_json(self._url_of(STATISTICS), self.manifest.files[STATISTICS])
        if not values:
            raise InputError(
                f"{self.url}: no statistics, since no chip is in the training split or none has valid pixels"
            )
        url = self._url_of(STATISTICS)
        statistics = Statistics.from_json(values, url)
        if tuple(statistics.bands) != self.schema.all_bands or bool(statistics.height) != bool(
            self.schema.label
        ):
            raise InputError(
                f"{url}: has statistics of {shown(list(statistics.bands))}, not of the schema's bands and "
                "label; copy it again"
            )
        return statistics

    @cached_property
    def index(self) -> Any:
        """Index as a pyarrow table; its row numbers are the chip numbers."""
        return self._index(None)

    @cached_property
    def rejected(self) -> Any:
        """Rejected chips as a pyarrow table: key, reason, detail."""
        with unless_changed(self.url, self.manifest):
            rows = sum(self.manifest.rejected.values())
            return read_table(self._url_of(REJECTED), self.manifest.files[REJECTED], None, rows)

    def chips(self, split: str, limit: int | None = None, where: str = "") -> Chips:
        """Return the chips of a split or of "all", ascending, that match `where` (`shards.read.selection`).

        At most `limit` chips are returned; a larger limit has all chips of a smaller one.

        Raises:
            InputError: there is no such split, the limit is below 0, or `where` cannot be understood.
        """
        if split not in (*SPLITS, "all"):
            raise InputError(f"split {split!r}: choose one of {', '.join(SPLITS)}, all")
        if limit is not None and limit < 0:
            raise InputError(f"limit {limit}: give a number of chips, 0 or more")
        found = self._chips_of_split(split)
        if where:
            table = self._index(columns_named(where, [*INDEX_SCHEMA.names, *self.manifest.attributes]))
            found = found[matching(table, where)[found]]
        return found[subset(found.size, limit)]

    def _chips_of_split(self, split: str) -> Chips:
        if self.manifest.split_column and split != "all":
            return np.flatnonzero(pc.equal(self._index(["split"])["split"], split).to_numpy())
        numbers = [
            np.arange(first, first + shard.samples)
            for first, shard in zip(self.manifest.first_chip, self.manifest.shards, strict=False)
            if split in (shard.split, "all")
        ]
        return np.concatenate([np.arange(0), *numbers])

    def troubles(self) -> list[str]:
        """List troubles so far, one line each: requests made again and shards left out."""
        retried = self.loader.fetcher.retried
        lines = [f"made {count:,} requests again after {name}" for name, count in sorted(retried.items())]
        return lines + [f"left out {name}: {reason}" for name, reason in self.bad_shards.items()]

    def chips_of_shard(self, number: int) -> Chips:
        """Return the chips of shard `number`, in its order."""
        return np.arange(self.manifest.first_chip[number], self.manifest.first_chip[number + 1])

    def epoch(self, chips: Chips, seed: int, epoch: int, weights: NDArray[np.float64] | None = None) -> Chips:
        """Return `chips` in the order of `epoch`: each once, or as often as its weight says."""
        if weights is not None:
            chips = np.repeat(chips, times_met(weights, chips.size, seed, epoch))
        return chips[epoch_order(self.shard_of(chips), seed, epoch)]

    def height_weights(self, chips: Chips, edges: tuple[float, ...]) -> NDArray[np.float64]:
        """Compute (chips,) weights that make bins of maximum height (edges in metres) equally frequent."""
        weights: NDArray[np.float64] = height_weights(self._column("height_max")[chips], edges)
        return weights

    def are_whole(self, chips: Chips) -> NDArray[np.bool_]:
        """Tell which chips have all bands and a label at every pixel, by the index."""
        whole: NDArray[np.bool_] = self._column("valid_fraction")[chips] == 1
        return whole

    def shard_of(self, chips: Chips) -> Chips:
        """Return the number of the shard that holds each chip."""
        return np.searchsorted(self.manifest.first_chip, chips, side="right") - 1

    def batches(
        self,
        order: Chips,
        batch_size: int,
        part: Part = Part(),
        seen: int = 0,
        ragged: RaggedEnd = "keep",
        memory: Memory | None = None,
    ) -> Iterator[Batch]:
        """Read a part of each global batch of `batch_size` chips of `order`, after the first `seen` chips.

        A part is empty where the last, short batch has fewer chips than there are ranks. For a remote
        dataset, at most (shards in use + `shards_ahead`) shards are held, and only this rank's rows of each.
        With `memory`, each batch's rows go to the memory that it gives, and last as long as that does.
        """
        if batch_size < 1:
            raise InputError(f"batches of {batch_size} chips: give 1 or more")
        self._say_if_bytes_are_shared(order, part)
        return self._batches(order, batch_size, part, seen, ragged, memory)

    def gather(self, chips: Chips) -> Batch:
        """Read these chips, in this order.

        Raises:
            DatasetError: a shard's bytes are not those that were written.
        """
        with self._saying_what_to_do():
            _, rows_BS = next(self._stream(chips).pieces(np.array([len(chips)]), None))
        return self._batch(chips, rows_BS, 0, len(chips))

    def any_can_be_read(self, chips: Chips) -> bool:
        """Tell whether a shard of these chips can be read: the shards are tried in turn, up to the first one.

        Those before it are noted in `bad_shards`. A local tar stays mapped; other shards are read again when
        they are needed.
        """
        arena, shard_of_chip = self.loader.arena(), self.shard_of(chips)
        for number in np.unique(shard_of_chip).tolist():
            rows = np.unique(chips[shard_of_chip == number]) - self.manifest.first_chip[number]
            try:
                self.loader.load(arena, number, rows, whole=True)
            except DatasetError as error:
                self._leave_out(number, str(error))
            else:
                self.loader.drop(arena, number)
                return True
        return False

    def _stream(self, chips: Chips) -> RowStream:
        shard = self.shard_of(chips)
        row = chips - self.manifest.first_chip[shard]
        return RowStream(self.loader, shard, row, self.options.shards_ahead)

    def _batches(
        self,
        order: Chips,
        batch_size: int,
        part: Part,
        seen: int,
        ragged: RaggedEnd,
        memory: Memory | None,
    ) -> Iterator[Batch]:
        batches = list(global_batches(order, batch_size, seen, ragged))
        parts = [rank_part(batch, start, part.rank, part.world_size) for start, batch in batches]
        mine = np.concatenate([order[:0], *parts])
        stream = self._stream(mine)
        skipped: dict[int, str] | None = {} if self.options.on_bad_shard == "skip" else None
        ends = np.cumsum([len(chips) for chips in parts])
        with self._saying_what_to_do():
            pieces = stream.pieces(ends, skipped, memory)
            for (start, batch), (places, rows_BS) in zip(batches, pieces, strict=True):
                for number, reason in (skipped or {}).items():
                    self._leave_out(number, reason)
                yield self._batch(mine[places], rows_BS, start, len(batch))

    def _leave_out(self, number: int, reason: str) -> None:
        """Note that a shard is left out, and say so unless it was said before: each epoch tries it again."""
        name = self.manifest.shards[number].name
        if self.bad_shards.get(name) != reason:
            say(f"left out a bad shard: {reason}")
        self.bad_shards[name] = reason

    @contextmanager
    def _saying_what_to_do(self) -> Iterator[None]:
        """Add to an error about one shard how to find all that are damaged."""
        try:
            yield
        except DatasetChangedError:
            raise
        except DatasetError as error:
            error.add_note(f"treeline verify {self.url} names every damaged shard")
            raise

    def _say_if_bytes_are_shared(self, order: Chips, part: Part) -> None:
        if part.rank or part.world_size == 1 or is_local(self.url):
            return
        streams = stream_count(np.sort(self.shard_of(order)))
        if reads_alone(part.world_size, streams):
            return
        say(
            f"{part.world_size} ranks do not divide the {streams} streams of these chips: "
            "the order is the same, but some bytes are fetched by several ranks"
        )

    def _url_of(self, name: str) -> str:
        return self.manifest.url_of(self.url, name)

    def _batch(self, chips: Chips, rows_BS: NDArray[np.uint8], start: int, size: int) -> Batch:
        return Batch(chips, rows_BS, *arrays_of(rows_BS, self.schema), start, size)

    def _column(self, name: str) -> NDArray[Any]:
        """Return a numeric column of the index."""
        with self._columns_lock:
            if name not in self._columns:
                self._columns[name] = self._index([name])[name].to_numpy()
            return self._columns[name]

    def _index(self, columns: list[str] | None) -> Any:
        with unless_changed(self.url, self.manifest):
            rows = int(self.manifest.first_chip[-1])
            table = read_table(self._url_of(INDEX), self.manifest.files[INDEX], columns, rows)
        for column, allowed in (("split", SPLITS), ("shard", ())):
            if column in table.column_names:
                for name in pc.unique(table[column]).to_pylist():
                    try:
                        check_name(name, allowed)
                    except InputError as error:
                        raise InputError(f"{self._url_of(INDEX)}: {column}: {error}") from error
        return table


def open_dataset(url: str, options: ReadOptions = ReadOptions()) -> Dataset:
    """Open the dataset at `url`.

    Raises:
        InputError: there is no dataset.
        DatasetError: its manifest is damaged.
    """
    return Dataset(url, read_manifest(url), options)
