"""A reader that was stopped: on any number of ranks it goes on with exactly the next chip.

A grid, without processes: ranks x batch sizes before and after x limits x stops x ragged ends.

- the ranks' parts of what is left, put together, are the order from the stop on, place by place
- every rank has as many batches, and says the same state after each
- a state survives JSON; what is no state is refused
- all of it holds for an epoch that meets some chips more often than others
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from shards.errors import InputError
from shards.read.balance import times_met
from shards.read.chip_reader import ChipReader
from shards.read.dataset import Dataset
from shards.read.order import Chips, Part, RaggedEnd
from shards.read.reader_state import ReaderState

GOOD: dict[str, Any] = {"epoch": 1, "seen": 18, "seed": 0, "fingerprint": "0badcafe-12345678"}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"epoch": 1},
        {key: value for key, value in GOOD.items() if key != "seen"},
        GOOD | {"rank": 0},
        *(GOOD | {name: bad} for name in ("epoch", "seen", "seed") for bad in (-1, 1.0, "1", None, True, [])),
        *(GOOD | {"fingerprint": bad} for bad in (7, None, ["a"])),
        None,
        [],
        [1, 2, 0, "a"],
        "state",
        3,
    ],
    ids=str,
)
def test_what_is_no_state_is_refused(values: Any) -> None:
    with pytest.raises(InputError, match="not the state of a reader") as error:
        ReaderState.from_json(values)
    assert "\n" not in str(error.value)


def test_a_state_survives_json() -> None:
    state = ReaderState.from_json(GOOD)
    assert ReaderState.from_json(json.loads(json.dumps(state.to_json()))) == state
    assert state.to_json() == GOOD


@pytest.fixture(scope="module")
def dataset(pairs_dataset: Any) -> Dataset:
    opened: Dataset = pairs_dataset.open()
    return opened


@pytest.fixture(scope="module")
def weights(dataset: Dataset) -> np.ndarray:
    weights = np.random.default_rng(8).random(dataset.chips("train").size) ** 3
    weights[::5] = 0
    return weights


def reader_of(dataset: Dataset, chips: Chips, batch_size: int, part: Part, ragged: RaggedEnd) -> ChipReader:
    return ChipReader(dataset, chips, batch_size, seed=5, part=part, ragged=ragged)


def read_by_all(readers: list[ChipReader], seen: int) -> Chips:
    """What all ranks meet of the present epoch after `seen` chips, in the order of the places."""
    places: dict[int, int] = {}
    world_size = len(readers)
    said = []
    for rank, reader in enumerate(readers):
        states = []
        for batch in reader.epoch():
            mine = range(batch.start + (rank - batch.start) % world_size, batch.start + batch.size)[
                ::world_size
            ]
            assert not places.keys() & set(mine), "no place is met twice"
            places |= dict(zip(mine, batch.chips.tolist(), strict=True))
            states.append((batch.start, batch.size, reader.state))
            assert reader.state.seen == batch.start + batch.size
        said.append([*states, reader.state])
    assert all(states == said[0] for states in said), "ranks agree on every batch and every state"
    assert sorted(places) == list(range(seen, seen + len(places)))
    return np.array([places[place] for place in sorted(places)], np.int64)


def expected_of(order: Chips, seen: int, batch_size: int, ragged: RaggedEnd) -> Chips:
    left = order.size - seen
    return order[seen : seen + (left if ragged == "keep" else left // batch_size * batch_size)]


@pytest.mark.parametrize("ragged", ["keep", "drop"])
@pytest.mark.parametrize("limit", [None, 1, 17, 0])
@pytest.mark.parametrize(("ranks_before", "ranks_after"), [(1, 2), (2, 3), (3, 1), (2, 5)])
@pytest.mark.parametrize(("before", "after"), [(4, 4), (6, 10), (10, 3), (64, 6)])
def test_a_stopped_reader_goes_on_with_the_next_chip(
    dataset: Dataset,
    ragged: RaggedEnd,
    limit: int | None,
    ranks_before: int,
    ranks_after: int,
    before: int,
    after: int,
) -> None:
    chips = dataset.chips("train", limit=limit)
    for stop in (0, 1, 3, 100):  # batches
        stopped = [
            reader_of(dataset, chips, before, Part(rank, ranks_before), ragged)
            for rank in range(ranks_before)
        ]
        order = stopped[0].order(0)
        met = [
            [batch.chips for batch in itertools.islice(reader.epoch(), stop)] if stop else []
            for reader in stopped
        ]
        assert len({len(parts) for parts in met}) == 1, "as many batches on every rank"
        assert all(reader.state == stopped[-1].state for reader in stopped)
        state = ReaderState.from_json(json.loads(json.dumps(stopped[0].state.to_json())))
        if state.epoch:  # it ended before the stop
            assert (state.epoch, state.seen) == (1, 0)
            seen = expected_of(order, 0, before, ragged).size
        else:
            seen = state.seen
            assert seen == min(stop * before, order.size)
        together = np.concatenate([order[:0], *itertools.chain(*met)])
        np.testing.assert_array_equal(np.sort(together), np.sort(order[:seen]))

        resumed = [
            reader_of(dataset, chips, after, Part(rank, ranks_after), ragged) for rank in range(ranks_after)
        ]
        for reader in resumed:
            reader.restore(state)
        order = resumed[0].order(state.epoch)
        rest = read_by_all(resumed, state.seen)
        np.testing.assert_array_equal(rest, expected_of(order, state.seen, after, ragged))
        assert (resumed[0].state.epoch, resumed[0].state.seen) == (state.epoch + 1, 0)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_stopping_after_every_batch_meets_the_same_epochs(dataset: Dataset, world_size: int) -> None:
    chips = dataset.chips("train")
    whole = reader_of(dataset, chips, 9, Part(1 % world_size, world_size), "keep")
    expected = [batch.chips.tolist() for _ in range(2) for batch in whole.epoch()]
    found, state = [], None
    while state is None or state.epoch < 2:
        reader = reader_of(dataset, chips, 9, Part(1 % world_size, world_size), "keep")
        if state is not None:
            reader.restore(state)
        found += [batch.chips.tolist() for batch in itertools.islice(reader.epoch(), 1)]
        # A reader that is at the end of its epoch gives no batch, and says the next epoch.
        state = reader.state
    assert found == expected


def test_batches_that_are_ready_ahead_are_not_counted_as_met(pairs_dataset: Any) -> None:
    dataset = pairs_dataset.open()
    chips = dataset.chips("train")
    reader = reader_of(dataset, chips, 5, Part(), "keep")
    for number, batch in enumerate(reader.epoch(batches_ahead=4)):
        assert reader.state.seen == 5 * number + batch.size
        if number == 2:
            break
    resumed = reader_of(dataset, chips, 5, Part(), "keep")
    resumed.restore(reader.state)
    rest = np.concatenate([batch.chips for batch in resumed.epoch()])
    np.testing.assert_array_equal(rest, reader.order(0)[15:])


def test_a_state_carries_its_seed(dataset: Dataset) -> None:
    chips = dataset.chips("train")
    stopped = ChipReader(dataset, chips, 5, seed=5)
    resumed = ChipReader(dataset, chips, 5, seed=6)
    assert resumed.order(0).tolist() != stopped.order(0).tolist()
    resumed.restore(stopped.state)
    np.testing.assert_array_equal(resumed.order(3), stopped.order(3))


class TestWeights:
    """ChipReader(weights=...): some chips are met more often than others, and some not at all."""

    @staticmethod
    def readers(
        dataset: Dataset, weights: np.ndarray, world_size: int, state: ReaderState
    ) -> list[ChipReader]:
        chips = dataset.chips("train")
        found = [
            ChipReader(dataset, chips, 7, part=Part(rank, world_size), weights=weights)
            for rank in range(world_size)
        ]
        for reader in found:
            reader.restore(state)
        return found

    def test_an_epoch_meets_each_chip_as_often_as_drawn(self, dataset: Dataset, weights: np.ndarray) -> None:
        chips = dataset.chips("train")
        reader = ChipReader(dataset, chips, 7, seed=2, weights=weights)
        for epoch in range(3):
            order, times = reader.order(epoch), times_met(weights, chips.size, 2, epoch)
            assert order.size == chips.size
            assert Counter(order.tolist()) == +Counter(dict(zip(chips.tolist(), times.tolist(), strict=True)))

    @pytest.mark.parametrize("epoch", [0, 3])
    @pytest.mark.parametrize("world_size", [1, 2, 3])
    def test_any_number_of_ranks_meets_the_same_sequence(
        self, dataset: Dataset, weights: np.ndarray, epoch: int, world_size: int
    ) -> None:
        reader = ChipReader(dataset, dataset.chips("train"), 7, seed=4, weights=weights)
        state = ReaderState(epoch, 0, 4, reader.state.fingerprint)
        met = read_by_all(self.readers(dataset, weights, world_size, state), 0)
        np.testing.assert_array_equal(met, reader.order(epoch))

    @pytest.mark.parametrize("world_size", [1, 3])
    def test_it_goes_on_with_the_next_chip(
        self, dataset: Dataset, weights: np.ndarray, pairs_dataset: Any, world_size: int
    ) -> None:
        reader = ChipReader(dataset, dataset.chips("train"), 5, seed=4, weights=weights)
        order, states = reader.order(0), [reader.state]
        states += [reader.state for _ in reader.epoch()]
        again = pairs_dataset.open()
        for state in states[:: len(states) // 3]:
            rest = read_by_all(self.readers(again, weights.copy(), world_size, state), state.seen)
            np.testing.assert_array_equal(rest, order[state.seen :])

    def test_other_weights_are_other_chips(self, dataset: Dataset, weights: np.ndarray) -> None:
        chips = dataset.chips("train")
        state = ChipReader(dataset, chips, 5, weights=weights).state
        for other in (None, weights[::-1]):
            with pytest.raises(InputError, match="other chips"):
                ChipReader(dataset, chips, 5, weights=other).restore(state)
