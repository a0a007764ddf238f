"""The order of chips in an epoch: a pure function of (seed, epoch). Arrays in, arrays out.

An epoch has every chip once. Its sequence is dealt from canonical streams, in turn, like cards from hands:

- every shard is cut into `streams` runs of neighbouring rows, one for each stream, equal to within one chip
- every stream visits its runs in the epoch's order of shards, shuffled over a sliding window of shards
- place p of the sequence comes from stream p modulo `streams` (in bit-reversed order)

Rank r of N reads the places p with p modulo N = r. Where N divides the number of streams, these are whole
streams, and their runs are neighbours in every shard: each rank needs 1/N of the bytes of each shard, in one
range, and no byte is needed twice. For other N the sequence is the same, but ranks share bytes (`reads_alone`
tells which).

    order = epoch_order(shard_of_chip, seed=0, epoch=3)
    for start, batch in global_batches(order, batch_size=64):
        mine = rank_part(batch, start, rank, world_size)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Chips = NDArray[np.int64]
"""Chip numbers: positions in the dataset's index."""

STREAMS = 64
"""Most canonical streams, and so the most ranks that can read without sharing bytes."""

LEAST_RUN = 8
"""Least average number of chips that a shard gives to a stream. A thin selection has fewer streams, so that
all advance through the shards together and few shards are in use."""

SHARD_WINDOW = 8
"""Shards mixed at a time: all ranks together hold 8 x 54 MB, and a batch mixes 8 shards."""

RaggedEnd = Literal["keep", "drop"]
"""Treatment of a last, short batch: kept, or left out of this epoch. It is the same on every rank."""

_SUBSET_SEED = 20_231_006
"""Fixed seed, so that a subset depends only on the dataset and its size, not on a run's seed."""


@dataclass(frozen=True)
class Part:
    """The part of every global batch that one process reads."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} of {self.world_size}")


def stream_count(shard_of_chip: Chips) -> int:
    """Compute the number of streams of chips (ascending): a power of two that depends on the chips alone."""
    shards = int(np.count_nonzero(np.diff(shard_of_chip))) + 1
    per_shard = max(1, shard_of_chip.size // (shards * LEAST_RUN))
    return min(STREAMS, 1 << (per_shard.bit_length() - 1))


def reads_alone(world_size: int, streams: int) -> bool:
    """Tell whether each byte is needed by one rank only: `world_size` divides the number of streams."""
    return streams % world_size == 0


def epoch_order(shard_of_chip: Chips, seed: int, epoch: int, window: int = SHARD_WINDOW) -> Chips:
    """Shuffle all chips; the value at i is an index into `shard_of_chip`.

    A chip's sort key is the place of its shard in the epoch, plus a fraction for its place in the shard's
    run, plus a jitter of up to `window` - 1 shards. The jitter starts at 0 and grows, so that the first batch
    needs one shard only.

    Args:
        shard_of_chip: (chips,) ascending, the shard that holds each chip.
        seed: seed of the run.
        epoch: 0, 1, ...
        window: number of shards that are mixed.
    """
    count = shard_of_chip.size
    if not count:
        return np.arange(0)
    generator = np.random.default_rng((seed, epoch))
    _, first, shard = np.unique(shard_of_chip, return_index=True, return_inverse=True)
    shard_place = generator.permutation(first.size)[shard]
    streams = stream_count(shard_of_chip)
    stream, place_in_run, run_length = _runs(shard, first, streams)
    # A chip's row must not decide its place in the run, so places are drawn.
    shuffled = generator.permutation(count)
    by_run = shuffled[np.lexsort((stream[shuffled], shard[shuffled]))]
    fraction = np.empty(count)
    fraction[by_run] = (place_in_run + generator.random()) / run_length
    key = shard_place + fraction
    key += generator.random(count) * np.minimum(window - 1, key)
    return _dealt(stream, key, streams)


def _runs(shard: Chips, first: Chips, streams: int) -> tuple[Chips, Chips, Chips]:
    """Compute each chip's stream and, sorted by shard and stream, its place in its run and the run's length.

    A shard of k chips gives k // streams chips to every stream. The k % streams chips left over go to one
    stream each, in turn from shard to shard, so that the streams' lengths differ by one chip at most.
    """
    sizes = np.diff([*first, shard.size])
    turn = np.arange(streams)
    extras = (turn[None] - (np.cumsum(sizes) - sizes)[:, None]) % streams < (sizes % streams)[:, None]
    lengths_ST = np.empty((sizes.size, streams), np.int64)
    lengths_ST[:, _stream_of_turn(streams)] = sizes[:, None] // streams + extras
    lengths = lengths_ST.ravel()
    place = np.arange(shard.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    stream = np.repeat(np.tile(turn, sizes.size), lengths)
    return stream, place, np.repeat(lengths, lengths)


def _stream_of_turn(streams: int) -> Chips:
    """List the stream dealt from at each turn: bits reversed, so that a rank's streams are neighbours."""
    bits = streams.bit_length() - 1
    turns = np.arange(streams)
    return sum(((turns >> bit & 1) << (bits - 1 - bit) for bit in range(bits)), np.zeros(streams, np.int64))


def _dealt(stream: Chips, key: NDArray[np.float64], streams: int) -> Chips:
    """Sort chips by key within their streams, and deal from the streams in turn."""
    by_stream = np.lexsort((key, stream))
    lengths = np.bincount(stream, minlength=streams)
    place_in_stream = np.arange(stream.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    turn_of_stream = np.argsort(_stream_of_turn(streams))
    order = np.empty(stream.size, np.int64)
    order[place_in_stream * streams + turn_of_stream[stream[by_stream]]] = by_stream
    return order


def global_batches(
    order: Chips, batch_size: int, seen: int = 0, ragged: RaggedEnd = "keep"
) -> Iterator[tuple[int, Chips]]:
    """Yield (start, chips) of consecutive runs of `batch_size` places of `order`, after the first `seen`."""
    for start in range(seen, order.size, batch_size):
        if ragged == "keep" or start + batch_size <= order.size:
            yield start, order[start : start + batch_size]


def rank_part(batch: Chips, start: int, rank: int, world_size: int) -> Chips:
    """Return the chips of a global batch that `rank` reads, one in `world_size`; sizes differ by one at most.

    `start` is the place of the batch in the epoch's order.
    """
    return batch[(rank - start) % world_size :: world_size]


def subset(count: int, limit: int | None, seed: int = 0) -> Chips:
    """Choose `limit` of `count` chips, ascending, without bias; a larger limit has all of a smaller one."""
    if limit is None or limit >= count:
        return np.arange(count)
    key = (_SUBSET_SEED, seed) if seed else _SUBSET_SEED
    return np.sort(np.random.default_rng(key).permutation(count)[:limit])
