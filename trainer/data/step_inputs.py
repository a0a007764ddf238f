"""Help for any step of training: a key for its random numbers, its parts, and a chip for every rank."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.format.schema import Schema
from shards.format.tar import arrays_of, row_layout
from shards.read.dataset import Batch, Dataset
from shards.read.order import Chips, rank_part
from trainer.devices.ranks import Ranks


class StepKey(NamedTuple):
    """Key of a step's random numbers. They depend on nothing else, not even the number of ranks."""

    seed: int
    epoch: int
    seen: int
    """Chips of the epoch seen before, over all ranks."""


def part_of(rows: NDArray[Any], batch: Batch, ranks: Ranks) -> NDArray[Any]:
    """Take this rank's part of an array with a row for each chip of a global batch."""
    part = rank_part(rows, batch.start, ranks.rank, ranks.world_size)
    # An empty part has a stand-in chip, which needs a row; chips that were left out need none.
    return part[: len(batch.chips)] if len(part) else rows[:1]


class Places(NamedTuple):
    """Places of a rank's chips in the global batch: one in `world_size`, see shards.read.order.rank_part."""

    first: int
    """Place of its first chip."""
    world_size: int
    """Number of ranks."""
    size: int
    """Number of chips in the global batch."""

    @classmethod
    def of(cls, batch: Batch, ranks: Ranks) -> "Places":
        """Return the places of this rank's chips."""
        return cls((ranks.rank - batch.start) % ranks.world_size, ranks.world_size, batch.size)

    def within(self, part: slice, rows: int) -> slice:
        """Return which of this rank's `rows` chips lie in a part of the global batch."""
        first, end = (-(-(place - self.first) // self.world_size) for place in (part.start, part.stop))
        return slice(min(max(first, 0), rows), min(max(end, 0), rows))


def equal_parts(count: int, rows: int) -> list[slice]:
    """Cut a number of rows into up to `count` parts of nearly equal size."""
    bounds = np.linspace(0, rows, min(count, rows) + 1).astype(int).tolist()
    return [slice(first, end) for first, end in itertools.pairwise(bounds)]


def is_whole_batch(batch: Batch, dataset: Dataset) -> bool:
    """Tell whether no pixel of these chips is missing, by the index; a stand-in has no pixels.

    The host reads it from the index, since it would have to wait for an answer of the device.
    """
    return not batch.stands_in and bool(dataset.are_whole(batch.chips).all())


def never_empty(batches: Iterator[Batch], schema: Schema, chips: Chips) -> Iterator[Batch]:
    """Yield the batches, but put a stand-in into an empty one: a chip seen before, without its height.

    A rank's part may be empty if the last batch is short or a shard was left out. With a stand-in (the first
    of `chips` if there was none before) that rank still takes part in every collective operation, and adds
    nothing to loss and gradients.
    """
    rows_1S, chip_1 = np.zeros((1, row_layout(schema).span), np.uint8), chips[:1]
    for batch in batches:
        if batch.chips.size:
            # A copy, since a batch's memory may be used again.
            rows_1S, chip_1 = batch.rows_BS[:1].copy(), batch.chips[:1]
            yield batch
        else:
            stand_in_1S = rows_1S.copy()
            image_BCHW, height_BHW = arrays_of(stand_in_1S, schema)
            height_BHW[:] = np.nan
            yield replace(
                batch,
                chips=chip_1,
                rows_BS=stand_in_1S,
                image_BCHW=image_BCHW,
                height_BHW=height_BHW,
                stands_in=True,
            )
