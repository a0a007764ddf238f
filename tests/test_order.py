"""The order of an epoch: every chip once, a pure function of (seed, epoch), for any number of ranks.

- an epoch is a permutation of the chips, for any sizes of shards and any window
- batches cover it in its order; the ranks' parts of a batch are the batch, and differ by one chip at most
- a reader needs no more than a window of shards at a time
- a subset holds every smaller subset
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from shards.order import epoch_order, global_batches, rank_part, subset

SHARDS = {
    "none": [],
    "one chip": [1],
    "one shard": [40],
    "three shards": [7, 7, 3],
    "many shards": [5] * 30,
    "uneven shards": [1, 20, 2, 9, 1, 1, 33, 4, 4, 18, 6],
}
WORLDS = [1, 2, 3, 4, 8]
BATCHES = [1, 6, 16, 1000]


def shard_of_chip(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)


@pytest.mark.parametrize("sizes", SHARDS.values(), ids=SHARDS.keys())
@pytest.mark.parametrize("window", [1, 2, 8])
def test_an_epoch_is_a_permutation(sizes: list[int], window: int) -> None:
    shards = shard_of_chip(sizes)
    for seed, epoch in itertools.product((0, 7), range(3)):
        order = epoch_order(shards, seed, epoch, window)
        np.testing.assert_array_equal(np.sort(order), np.arange(shards.size))


@pytest.mark.parametrize("sizes", SHARDS.values(), ids=SHARDS.keys())
@pytest.mark.parametrize("batch_size", BATCHES)
@pytest.mark.parametrize("world_size", WORLDS)
def test_ranks_together_read_every_chip_once_in_the_same_global_batches(
    sizes: list[int], batch_size: int, world_size: int
) -> None:
    order = epoch_order(shard_of_chip(sizes), seed=1, epoch=2)
    batches = list(global_batches(order, batch_size))
    np.testing.assert_array_equal(np.concatenate([order[:0], *batches]), order)
    assert all(batch.size == batch_size for batch in batches[:-1])
    for batch in batches:
        parts = [rank_part(batch, rank, world_size) for rank in range(world_size)]
        np.testing.assert_array_equal(np.concatenate(parts), batch)
        assert np.ptp([part.size for part in parts]) <= 1


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
        np.sort(epoch_order(np.array([2, 11, 300])[shards], 0, 0)), np.arange(shards.size)
    )


@pytest.mark.parametrize("window", [1, 2, 3, 8])
def test_a_reader_needs_a_window_of_shards_at_a_time(window: int) -> None:
    sizes = [6] * 13
    shards = shard_of_chip(sizes)
    met = shards[epoch_order(shards, 3, 1, window)]
    runs = [met[start : start + 6 * window] for start in range(0, met.size, 6 * window)]
    seen = [set(run.tolist()) for run in runs]
    assert all(len(shards_of_run) <= window for shards_of_run in seen)
    assert sum(map(len, seen)) == len(sizes)


def test_shards_of_a_window_are_mixed_and_windows_change_with_the_epoch() -> None:
    shards = shard_of_chip([50] * 16)
    firsts = set()
    for epoch in range(5):
        met = shards[epoch_order(shards, 0, epoch)]
        # 64 chips drawn from 8 shards: fewer than 6 of them would be a chance below 1 in 10^9.
        assert len(set(met[:64].tolist())) >= 6
        firsts.add(frozenset(met[:400].tolist()))
    assert len(firsts) > 1


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
