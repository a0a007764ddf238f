"""Chips are met in proportion: bins of height to their shares, chips to their weights, in every epoch.

- weights of a bin sum to its share; empty bins give theirs to the others; scale and order do not matter
- an epoch has exactly as many draws as asked; each count is the floor or the ceil of what is expected
- the mean over epochs is what is expected, also of chips that are met less than once
- counts are a function of (seed, epoch), and not those of the epoch's order
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from shards.errors import InputError
from shards.format.height_classes import EDGES
from shards.read.balance import MOST_DRAWS, height_weights, times_met

HEIGHTS = {
    "skewed": np.random.default_rng(0).gamma(1.0, 3.0, 3000),
    "below and above the edges": np.array([-5.0, -0.1, 0.0, 0.2, 80.0, 3.0, 35.0, 34.9]),
    "one chip": np.array([4.0]),
    "one bin": np.full(7, 1.5),
    "32 bits": np.random.default_rng(1).gamma(1.0, 3.0, 500).astype(np.float32),
}
BINS = {"classes": EDGES, "two": (0.0, 1.0, 50.0), "one": (0.0, 1.0), "open": (-np.inf, 2.0, np.inf)}
WEIGHTS = {
    "equal": np.ones(12),
    "equal thirds": np.full(3000, 0.1),
    "one chip": np.array([0.3]),
    "some never": np.array([0, 1, 0, 2, 0, 4, 0.0]),
    "whole numbers": np.array([1, 2, 3, 4, 6]) / 16 * 0.1,
    "skewed": np.random.default_rng(2).pareto(1.0, 4000),
    "one rules": np.array([1.0, 1e-17, 1e-9, 1e-300]),
    "huge": np.array([1e308, 1e308, 1e307]),
    "minute": np.array([1e-310, 2e-310, 3e-310]),
}


def bins_of(heights: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    """One chip at a time, as the docstring says."""
    places = range(len(edges) - 1)
    return np.array(
        [next((i for i in reversed(places) if height >= edges[i]), 0) for height in heights.tolist()]
    )


@pytest.mark.parametrize("edges", BINS.values(), ids=BINS.keys())
@pytest.mark.parametrize("heights", HEIGHTS.values(), ids=HEIGHTS.keys())
def test_bins_are_met_in_proportion_to_their_shares(heights: np.ndarray, edges: tuple[float, ...]) -> None:
    bins = len(edges) - 1
    bin_of_chip = bins_of(heights, edges)
    held = np.isin(np.arange(bins), bin_of_chip)
    for shares in (
        None,
        [1.0] * bins,
        [float(i + 1) for i in range(bins)],
        [1e-3 * 7**i for i in range(bins)],
    ):
        weights = height_weights(heights, edges, shares)
        assert weights.shape == heights.shape
        assert weights.dtype == np.float64
        assert (weights > 0).all()
        assert weights.sum() == pytest.approx(1, rel=1e-12)
        expected = held * (np.ones(bins) if shares is None else np.array(shares))
        found = np.bincount(bin_of_chip, weights, minlength=bins)
        np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)
        for number in range(bins):
            assert np.unique(weights[bin_of_chip == number]).size <= 1, "chips of a bin weigh the same"


def test_a_share_of_zero_leaves_a_bin_out_and_the_scale_of_shares_does_not_matter() -> None:
    heights = HEIGHTS["skewed"]
    weights = height_weights(heights, (0, 1, 5, 10), (0, 1, 3))
    np.testing.assert_array_equal(weights == 0, heights < 1)
    np.testing.assert_allclose(weights, height_weights(heights, (0, 1, 5, 10), (0, 1e307, 3e307)), rtol=1e-12)
    order = np.random.default_rng(3).permutation(heights.size)
    np.testing.assert_array_equal(weights[order], height_weights(heights[order], (0, 1, 5, 10), (0, 1, 3)))


@pytest.mark.parametrize(
    ("heights", "edges", "shares", "message"),
    [
        ([1, np.nan, np.nan], (0, 1, 2), None, "2 of 3 chips have no height"),
        ([1, 2], (0, 2, 1), None, "each above the one before"),
        ([1, 2], (0, 1, 1), None, "each above the one before"),
        ([1, 2], (0, np.nan, 1), None, "each above the one before"),
        ([1, 2], (0,), None, "two or more"),
        ([1, 2], (0, 1, 2), (1,), "1 shares for 2 bins"),
        ([1, 2], (0, 1, 2), (1, 2, 3), "3 shares for 2 bins"),
        ([1, 2], (0, 1, 2), (1, -1), "0 or more"),
        ([1, 2], (0, 1, 2), (1, np.nan), "0 or more"),
        ([1, 2], (0, 1, 2), (0, 0), "share above 0"),
        ([1, 2], (0, 1, 2), (1, 0), "share above 0"),
        ([], (0, 1, 2), None, "no chip"),
    ],
)
def test_wrong_bins_are_refused(
    heights: list[float], edges: tuple[float, ...], shares: tuple[float, ...] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        height_weights(heights, edges, shares)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("draws", [0, 1, 2, 16, 999, 3000, 12_345, 10**6, MOST_DRAWS])
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_an_epoch_has_its_draws_and_each_count_is_floor_or_ceil(weights: np.ndarray, draws: int) -> None:
    relative = weights / weights.max()
    expected = draws * (relative / relative.sum())
    rounding = 1e-13 * expected  # floor(2.9999999999999996) is 3 here
    for seed, epoch in itertools.product((0, 7), range(4)):
        times = times_met(weights, draws, seed, epoch)
        assert times.dtype == np.int64
        assert times.shape == weights.shape
        assert times.sum() == draws
        assert (times >= np.floor(expected - rounding)).all()
        assert (times <= np.ceil(expected + rounding)).all()
        assert not times[weights == 0].any()


@pytest.mark.parametrize("count", [1, 3, 7, 49, 1000, 99_991])
@pytest.mark.parametrize("each", [1, 2, 5])
def test_equal_weights_meet_every_chip_equally_often(count: int, each: int) -> None:
    for weight, epoch in itertools.product((1.0, 0.1, 1 / 3, 1e-200), range(3)):
        assert (times_met(np.full(count, weight), each * count, 0, epoch) == each).all()


def test_a_million_chips_lose_no_draw() -> None:
    weights = np.random.default_rng(4).lognormal(0.0, 3.0, 1_000_000)
    for draws in (1, 999_999, 1_000_000, 3_141_592):
        times = times_met(weights, draws, 1, 2)
        assert times.sum() == draws
        assert np.abs(times - draws * weights / weights.sum()).max() < 1 + 1e-6


@pytest.mark.parametrize("draws", [1, 5, 13, 40])
def test_the_mean_over_epochs_is_what_is_expected(draws: int) -> None:
    weights = np.random.default_rng(5).gamma(0.5, 1.0, 20)
    expected = draws * weights / weights.sum()
    epochs = 4000
    mean = np.mean([times_met(weights, draws, 0, epoch) for epoch in range(epochs)], axis=0)
    part = expected % 1
    # A count is its floor plus a coin of probability `part`.
    assert (np.abs(mean - expected) <= 4.5 * np.sqrt(part * (1 - part) / epochs) + 1e-3).all()


def test_chips_that_are_drawn_together_change() -> None:
    """A fixed order of chips would never draw neighbours together."""
    met = np.array([times_met(np.ones(6), 2, 0, epoch) for epoch in range(400)])
    together = met.T @ met
    assert (together > 0).all()


def test_counts_depend_on_seed_and_epoch_only() -> None:
    weights = WEIGHTS["skewed"]
    times = {pair: times_met(weights, 4000, *pair) for pair in itertools.product(range(3), range(4))}
    np.random.default_rng(99).random(10)  # somebody else's generator changes nothing
    for pair, found in times.items():
        np.testing.assert_array_equal(times_met(weights, 4000, *pair), found)
    assert len({found.tobytes() for found in times.values()}) == len(times)


@pytest.mark.parametrize(
    ("weights", "draws", "message"),
    [
        ([1, -1], 3, "1 of 2 weights"),
        ([1, np.nan, np.inf], 3, "2 of 3 weights"),
        ([0, 0], 3, "one must be above 0"),
        ([], 3, "one must be above 0"),
        ([1], -1, "-1 draws"),
        ([1], MOST_DRAWS + 1, "draws: give 0 to"),
    ],
)
def test_wrong_weights_are_refused(weights: list[float], draws: int, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        times_met(weights, draws, 0, 0)
    assert "\n" not in str(caught.value)
