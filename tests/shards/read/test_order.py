"""The order of an epoch: every chip once, a pure function of (seed, epoch), for any number of ranks.

- an epoch is a permutation of the chips, for any sizes of shards, any window and any selection
- batches cover it in its order, also after a stop; the ranks' parts of a batch are the batch
- ranks that divide the streams need each byte once, in one run of rows of each shard
- a reader needs about a window of shards at a time; the first batch needs one
- the shuffle is good: no trace of the stored order, and a batch mixes a window of shards
- a subset holds every smaller subset
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from shards.read.order import (
    SHARD_WINDOW,
    STREAMS,
    epoch_order,
    global_batches,
    rank_part,
    reads_alone,
    stream_count,
    subset,
)
from shards.read.row_stream import Schedule

SHARDS = {
    "none": [],
    "one chip": [1],
    "one shard": [40],
    "three shards": [7, 7, 3],
    "many shards": [5] * 30,
    "uneven shards": [1, 20, 2, 9, 1, 1, 33, 4, 4, 18, 6],
    "large shards": [1024, 1024, 1024, 517],
    "a thin choice": [3, 0, 1, 2, 5, 0, 0, 4] * 20,
}
WORLDS = [1, 2, 3, 4, 8, 64]
BATCHES = [1, 6, 16, 1000]
STOPS = [0, 1, 17, 64]


def shard_of_chip(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)


def most_at_once(shard_of_place: np.ndarray) -> int:
    return Schedule.of(shard_of_place, np.zeros_like(shard_of_place)).most_at_once()


@pytest.mark.parametrize("sizes", SHARDS.values(), ids=SHARDS.keys())
@pytest.mark.parametrize("window", [1, 2, 8])
def test_an_epoch_is_a_permutation(sizes: list[int], window: int) -> None:
    shards = shard_of_chip(sizes)
    for seed, epoch in itertools.product((0, 7), range(3)):
        order = epoch_order(shards, seed, epoch, window)
        np.testing.assert_array_equal(np.sort(order), np.arange(shards.size))


@pytest.mark.parametrize("seen", STOPS)
@pytest.mark.parametrize("sizes", SHARDS.values(), ids=SHARDS.keys())
@pytest.mark.parametrize("batch_size", BATCHES)
@pytest.mark.parametrize("world_size", WORLDS)
def test_ranks_together_read_every_chip_once_in_the_same_global_batches(
    sizes: list[int], batch_size: int, world_size: int, seen: int
) -> None:
    order = epoch_order(shard_of_chip(sizes), seed=1, epoch=2)
    batches = list(global_batches(order, batch_size, seen))
    np.testing.assert_array_equal(np.concatenate([order[:0], *(b for _, b in batches)]), order[seen:])
    assert all(batch.size == batch_size for _, batch in batches[:-1])
    for start, batch in batches:
        together = np.empty_like(batch)
        parts = [rank_part(batch, start, rank, world_size) for rank in range(world_size)]
        for rank, part in enumerate(parts):
            together[(rank - start) % world_size :: world_size] = part
        np.testing.assert_array_equal(together, batch)
        assert sum(part.size for part in parts) == batch.size
        assert np.ptp([part.size for part in parts]) <= 1


@pytest.mark.parametrize("sizes", SHARDS.values(), ids=SHARDS.keys())
@pytest.mark.parametrize("seen", STOPS)
def test_a_ragged_end_is_kept_or_dropped_whole(sizes: list[int], seen: int) -> None:
    order = epoch_order(shard_of_chip(sizes), seed=1, epoch=2)
    kept = [batch for _, batch in global_batches(order, 16, seen)]
    dropped = [batch for _, batch in global_batches(order, 16, seen, "drop")]
    assert [batch.tolist() for batch in dropped] == [b.tolist() for b in kept if b.size == 16]


@pytest.mark.parametrize("world_size", [1, 2, 4, 8, 16, 64])
@pytest.mark.parametrize("sizes", [[1024] * 5, [1024, 1024, 700], [64] * 9, [1000] * 3 + [5]], ids=str)
def test_ranks_that_divide_the_streams_share_no_bytes(sizes: list[int], world_size: int) -> None:
    shards = shard_of_chip(sizes)
    streams = stream_count(shards)
    world_size = min(world_size, streams)
    assert reads_alone(world_size, streams)
    rows = np.concatenate([np.arange(size) for size in sizes])
    for epoch in range(2):
        order = epoch_order(shards, 0, epoch)
        for rank, shard in itertools.product(range(world_size), range(len(sizes))):
            mine = rank_part(order, 0, rank, world_size)
            needed = np.sort(rows[mine[shards[mine] == shard]])
            assert (np.diff(needed) == 1).all(), "one run of neighbouring rows"
            assert abs(needed.size - sizes[shard] / world_size) <= streams / world_size


@pytest.mark.parametrize("world_size", [1, 4, 64])
def test_a_rank_meets_the_same_chips_in_every_epoch(world_size: int) -> None:
    """So that a cache on its machine holds what it needs."""
    shards = shard_of_chip([1024] * 4 + [77])
    parts = [set(rank_part(epoch_order(shards, 5, epoch), 0, 0, world_size).tolist()) for epoch in range(3)]
    assert parts[0] == parts[1] == parts[2]


def test_the_number_of_streams_is_a_power_of_two_that_follows_from_the_chips() -> None:
    for sizes, streams in [
        ([1024] * 3, STREAMS),
        ([5] * 30, 1),
        ([16] * 9, 2),
        ([], 1),
        ([100_000], STREAMS),
    ]:
        assert stream_count(shard_of_chip(sizes)) == streams


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    shards = shard_of_chip([9] * 12)
    orders = {pair: epoch_order(shards, *pair) for pair in itertools.product(range(3), range(4))}
    np.random.default_rng(99).random(10)  # somebody else's generator changes nothing
    for pair, order in orders.items():
        np.testing.assert_array_equal(epoch_order(shards, *pair), order)
    assert len({order.tobytes() for order in orders.values()}) == len(orders)


def test_the_names_of_the_shards_may_have_gaps() -> None:
    shards = shard_of_chip([4, 3, 6])
    np.testing.assert_array_equal(
        epoch_order(np.array([2, 11, 300])[shards], 0, 0), epoch_order(shards, 0, 0)
    )


@pytest.mark.parametrize("window", [1, 2, 3, 8])
@pytest.mark.parametrize("sizes", [[1024] * 40, [200] * 40, [20] * 200, [1024] * 30 + [100]], ids=len)
def test_about_a_window_of_shards_is_needed_at_a_time(sizes: list[int], window: int) -> None:
    shards = shard_of_chip(sizes)
    for epoch in range(3):
        met = shards[epoch_order(shards, 3, epoch, window)]
        assert most_at_once(met) <= window + 3
        assert most_at_once(rank_part(met, 0, 1, 8)) <= window + 3


@pytest.mark.parametrize("epoch", range(5))
def test_the_first_batch_needs_one_shard(epoch: int) -> None:
    shards = shard_of_chip([1024] * 20)
    assert np.unique(shards[epoch_order(shards, 0, epoch)[:256]]).size == 1


def test_the_met_order_has_no_trace_of_the_stored_order() -> None:
    """The rank correlation of stored and met place; of n shuffled things its deviation is 1/sqrt(n)."""
    shards = shard_of_chip([1024] * 60)
    found = [np.corrcoef(np.arange(shards.size), epoch_order(shards, 0, epoch))[0, 1] for epoch in range(8)]
    # 60 shards are shuffled freely, so between shards the deviation is 1/sqrt(60) = 0.13.
    assert abs(np.mean(found)) < 0.15
    within = []
    for epoch in range(8):
        order = epoch_order(shards, 0, epoch)
        rows_met = order[shards[order] == 7]
        within.append(np.corrcoef(np.arange(rows_met.size), rows_met)[0, 1])
    assert np.abs(within).max() < 4 / np.sqrt(1024)


def test_a_batch_mixes_a_window_of_shards() -> None:
    shards = shard_of_chip([1024] * 60)
    met = shards[epoch_order(shards, 0, 0)]
    between = range(10 * 1024, 50 * 1024, 64)  # away from the ends, where fewer shards are open
    largest = [np.bincount(met[start : start + 64]).max() / 64 for start in between]
    mixed = [np.unique(met[start : start + 64]).size for start in between]
    assert np.mean(mixed) > 0.9 * SHARD_WINDOW
    assert np.mean(largest) < 2 / SHARD_WINDOW
    assert np.max(largest) < 0.5


def test_every_chip_can_come_first_and_last() -> None:
    shards = shard_of_chip([2, 2, 2])
    orders = [epoch_order(shards, 0, epoch, window=1) for epoch in range(200)]
    assert {int(order[0]) for order in orders} == {int(order[-1]) for order in orders} == set(range(6))


@pytest.mark.parametrize("count", [0, 1, 10, 1000])
def test_subsets_are_nested_and_as_large_as_asked(count: int) -> None:
    smaller: set[int] = set()
    for limit in (0, 1, 5, 10, 100, 999, 1000, 5000):
        chosen = subset(count, limit)
        assert chosen.size == min(limit, count)
        np.testing.assert_array_equal(chosen, np.unique(chosen))
        assert smaller <= set(chosen.tolist()) <= set(range(count))
        smaller = set(chosen.tolist())
    np.testing.assert_array_equal(subset(count, None), np.arange(count))


def test_a_subset_has_no_favourites() -> None:
    chosen = subset(10_000, 2_000)
    in_tenths = np.bincount(chosen // 1000, minlength=10)
    # 200 expected in each tenth, standard deviation 12.
    assert np.all(np.abs(in_tenths - 200) < 60)
