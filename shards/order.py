"""The order in which chips are met: a pure function of (seed, epoch). Arrays in, arrays out.

An epoch visits every chip once. Shards are shuffled, taken in windows of a few, and the chips of a window
are shuffled together, so that a reader never needs more than a window of shards at a time. Global batches
are consecutive runs of that sequence; each rank reads its own consecutive part of every batch. The batches
are therefore the same sets of chips whatever the number of ranks.

    order = epoch_order(shard_of_chip, seed=0, epoch=3)
    for batch in global_batches(order, batch_size=64):
        mine = rank_part(batch, rank, world_size)
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Chips = NDArray[np.int64]
"""Chip numbers: positions in the dataset's index."""

SHARD_WINDOW = 8
"""Shards whose chips are shuffled together: 8 x 50 MB are held at a time, and each batch mixes 8 shards."""

_SUBSET_SEED = 20_231_006
"""Fixed, so that a subset depends on the dataset and its size alone, not on a run's seed."""


def epoch_order(shard_of_chip: Chips, seed: int, epoch: int, window: int = SHARD_WINDOW) -> Chips:
    """All chips, shuffled; the value at i is an index into `shard_of_chip`.

    Args:
        shard_of_chip: (chips,) the shard that holds each chip, any numbers.
        seed: of the run.
        epoch: 0, 1, ...
        window: number of shards that are mixed.
    """
    generator = np.random.default_rng((seed, epoch))
    shards = generator.permutation(np.unique(shard_of_chip))
    # Chips sorted by the shuffled rank of their shard; the runs of one shard are then contiguous.
    rank_of_shard = np.empty(int(shards.max(initial=-1)) + 1, np.int64)
    rank_of_shard[shards] = np.arange(shards.size)
    window_of_chip = rank_of_shard[shard_of_chip] // window
    shuffled = generator.permutation(shard_of_chip.size)
    return shuffled[np.argsort(window_of_chip[shuffled], kind="stable")]


def global_batches(order: Chips, batch_size: int) -> Iterator[Chips]:
    """Consecutive runs of `batch_size` chips; the last one may be shorter."""
    for start in range(0, order.size, batch_size):
        yield order[start : start + batch_size]


def rank_part(batch: Chips, rank: int, world_size: int) -> Chips:
    """The consecutive part of a global batch that `rank` reads; sizes differ by at most one chip."""
    return np.array_split(batch, world_size)[rank]


def subset(count: int, limit: int | None) -> Chips:
    """`limit` of `count` chips, ascending, without bias; the chips of a smaller limit are among them."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(_SUBSET_SEED).permutation(count)[:limit])
