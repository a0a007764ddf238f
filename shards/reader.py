"""Reads a dataset: batches of chips in stored types, in the order of `shards.order`, ahead of their use.

dataset = open_dataset("s3://bucket/chips")
chips = dataset.chips("train", limit=10_000)
for batch in dataset.batches(dataset.epoch(chips, seed=0, epoch=3), batch_size=64):
    batch.image_BCHW, batch.height_BHW
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from shards.errors import DatasetError, InputError
from shards.index import read_table
from shards.manifest import INDEX, REJECTED, STATISTICS, Manifest, read_json, read_manifest
from shards.order import SHARD_WINDOW, Chips, epoch_order, global_batches, rank_part, subset
from shards.prefetch import ahead
from shards.statistics import Statistics
from shards.storage import is_local, join, local_path, read_bytes
from shards.tar import arrays_of, row_layout, rows_of

HELD_SHARDS = 2 * SHARD_WINDOW
"""Shards open at once: the window that is being read and the one that follows."""


@dataclass(frozen=True)
class Batch:
    """Some chips: image (B, bands, rows, columns) as stored, height (B, rows, columns) in metres.

    The two arrays are views of one buffer.
    """

    chips: Chips
    """Their positions in the dataset's index."""
    image_BCHW: NDArray[Any]
    height_BHW: NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """Which part of every global batch a process reads."""

    rank: int = 0
    world_size: int = 1


class Dataset:
    """A dataset that is complete: its manifest was read. Safe to use from one thread at a time."""

    def __init__(self, url: str, manifest: Manifest) -> None:
        self.url, self.manifest, self.schema = url, manifest, manifest.schema
        self._first_chip = np.cumsum([0, *(shard.samples for shard in manifest.shards)])
        self._rows: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._checked: set[int] = set()

    @cached_property
    def statistics(self) -> Statistics:
        """Of the training split.

        Raises:
            InputError: that split is empty.
        """
        values = read_json(join(self.url, STATISTICS))
        if not values:
            raise InputError(f"{self.url}: no statistics, since no chip is in the training split")
        return Statistics.from_json(values)

    @cached_property
    def index(self) -> Any:
        """The index as a pyarrow table; its row numbers are the chip numbers."""
        return read_table(join(self.url, INDEX))

    @cached_property
    def rejected(self) -> Any:
        """The refused chips as a pyarrow table: key, reason, detail."""
        return read_table(join(self.url, REJECTED))

    def chips(self, split: str, limit: int | None = None) -> Chips:
        """The chips of "train", "val" or "all", ascending; at most `limit`, nested in any larger limit."""
        numbers = [
            np.arange(first, first + shard.samples)
            for first, shard in zip(self._first_chip, self.manifest.shards, strict=False)
            if split in (shard.split, "all")
        ]
        found = np.concatenate([np.arange(0), *numbers])
        return found[subset(found.size, limit)]

    def epoch(self, chips: Chips, seed: int, epoch: int) -> Chips:
        """`chips` in the order in which `epoch` meets them."""
        shard_of_chip = np.searchsorted(self._first_chip, chips, side="right") - 1
        return chips[epoch_order(shard_of_chip, seed, epoch)]

    def batches(self, order: Chips, batch_size: int, part: Part = Part(), depth: int = 2) -> Iterator[Batch]:
        """This part of each global batch of `batch_size` chips of `order`, `depth` batches ahead.

        A part is empty where the last, short batch has fewer chips than there are ranks.
        """
        parts = (rank_part(batch, part.rank, part.world_size) for batch in global_batches(order, batch_size))
        return ahead(self._gathered(parts), depth)

    def gather(self, chips: Chips) -> Batch:
        """These chips, copied row by row of bytes into one buffer.

        Raises:
            DatasetError: a shard's bytes are not those that were written.
        """
        buffer = np.empty((chips.size, row_layout(self.schema).span), np.uint8)
        shard_of_chip = np.searchsorted(self._first_chip, chips, side="right") - 1
        for shard in np.unique(shard_of_chip):
            places = np.flatnonzero(shard_of_chip == shard)
            rows = self._shard_rows(int(shard))
            if places.size == chips.size:
                np.take(rows, chips - self._first_chip[shard], axis=0, out=buffer)
            else:
                buffer[places] = rows[chips[places] - self._first_chip[shard]]
        image_BCHW, height_BHW = arrays_of(buffer, self.schema)
        return Batch(chips, image_BCHW, height_BHW)

    def _gathered(self, parts: Iterable[Chips]) -> Iterator[Batch]:
        for chips in parts:
            yield self.gather(chips)

    def _shard_rows(self, number: int) -> NDArray[np.uint8]:
        """(samples, span) bytes of one shard: mapped if local, else fetched whole; checked once."""
        if number in self._rows:
            self._rows.move_to_end(number)
            return self._rows[number]
        shard = self.manifest.shards[number]
        url = join(self.url, shard.name)
        try:
            if is_local(url):
                data: NDArray[np.uint8] = np.memmap(local_path(url), np.uint8, "r")
            else:
                data = np.frombuffer(read_bytes(url), np.uint8)
        except (OSError, ValueError, InputError) as error:
            raise DatasetError(f"{url}: a shard of the dataset cannot be read ({error})") from error
        if number not in self._checked:
            if data.size != shard.nbytes or google_crc32c.value(data.tobytes()) != shard.crc32c:
                raise DatasetError(f"{url}: the bytes are not those that were written; copy the shard again")
            self._checked.add(number)
        span = row_layout(self.schema).span
        self._rows[number] = rows_of(data, shard.samples, self.schema)[:, :span]
        while len(self._rows) > HELD_SHARDS:
            self._rows.popitem(last=False)
        return self._rows[number]


def open_dataset(url: str) -> Dataset:
    """The dataset at `url`.

    Raises:
        InputError: there is none.
    """
    return Dataset(url, read_manifest(url))
