"""Intervals contain the truth as often as they say, where neighbours err alike and trainings differ."""

import numpy as np
import pytest

from shards.errors import InputError
from trainer.score.intervals import mean_of, rmse_difference, rmse_interval, t_quantile

DRAWS, BLOCKS, TILES = 5, 12, 30
SIMULATIONS, SOME = 1000, 60
BIAS, OF_BLOCK, OF_BOTH, OF_TILE = 0.6, 1.0, 0.5, 2.0
"""Standard deviations of a draw's bias, of what a block shares (in all draws, in one), and of a tile."""


def squared_errors(
    generator: np.random.Generator, shared_B: np.ndarray, gain: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate one model: sums of squares (draws, blocks) and squares of tiles (draws, blocks, tiles)."""
    bias_D11 = generator.normal(0, BIAS, (DRAWS, 1, 1))
    both_DB1 = generator.normal(0, OF_BOTH, (DRAWS, BLOCKS, 1))
    tile_DBT = generator.normal(0, OF_TILE + gain, (DRAWS, BLOCKS, TILES))
    square_DBT = (bias_D11 + shared_B[:, None] + both_DB1 + tile_DBT) ** 2
    return square_DBT.sum(2), square_DBT


def true_rmse(gain: float = 0.0) -> float:
    """Mean over draws of the RMSE on endless ground."""
    bias_N = np.random.default_rng(99).normal(0, BIAS, 200_000)
    return float(np.sqrt(bias_N**2 + OF_BLOCK**2 + OF_BOTH**2 + (OF_TILE + gain) ** 2).mean())


def test_intervals_contain_the_truth_in_90_to_99_percent_of_simulations() -> None:
    generator, counts_B, gain = np.random.default_rng(0), np.full(BLOCKS, TILES), 0.3
    truth, true_difference = true_rmse(), true_rmse(gain) - true_rmse()
    inside = inside_difference = inside_by_tiles = 0
    for number in range(SIMULATIONS):
        shared_B = generator.normal(0, OF_BLOCK, BLOCKS)
        one_DB, tile_DBT = squared_errors(generator, shared_B)
        other_DB, _ = squared_errors(generator, shared_B, gain)
        estimate = rmse_interval(one_DB, counts_B)
        inside += estimate.low <= truth <= estimate.high
        difference = rmse_difference(other_DB, one_DB, counts_B)
        inside_difference += difference.low <= true_difference <= difference.high
        if number < SOME:  # as if each tile told something new
            resampled = generator.choice(tile_DBT.reshape(-1), (200, tile_DBT.size))
            low, high = np.percentile(np.sqrt(resampled.mean(1)), [2.5, 97.5])
            inside_by_tiles += low <= truth <= high
    assert 0.90 <= inside / SIMULATIONS <= 0.99
    assert 0.90 <= inside_difference / SIMULATIONS <= 0.99
    assert inside_by_tiles / SOME < 0.8


def test_the_interval_of_a_mean_over_regions_contains_the_truth() -> None:
    generator, counts_B, truth = np.random.default_rng(1), np.full(BLOCKS, TILES), true_rmse()
    inside = 0
    for _ in range(300):
        regions = [squared_errors(generator, generator.normal(0, OF_BLOCK, BLOCKS))[0] for _ in range(3)]
        each = [rmse_interval(squares_DB, counts_B) for squares_DB in regions]
        mean = mean_of(each)
        assert mean.value == pytest.approx(np.mean([one.value for one in each]))
        assert mean.high - mean.low < max(one.high - one.low for one in each)
        inside += mean.low <= truth <= mean.high
    assert 0.90 <= inside / 300 <= 0.99


def test_an_interval_without_spread_is_a_point() -> None:
    estimate = rmse_interval(np.full((3, 4), 8.0), np.full(4, 2))
    assert (estimate.value, estimate.low, estimate.high) == (2.0, 2.0, 2.0)
    assert not rmse_difference(np.full((3, 4), 8.0), np.full((3, 4), 8.0), np.full(4, 2)).leaves_out_zero


def test_a_difference_is_paired() -> None:
    """Blocks that are hard for both models cancel out."""
    generator = np.random.default_rng(1)
    hard_B = generator.uniform(1, 9, BLOCKS)
    one_DB = np.tile(hard_B, (DRAWS, 1)) * TILES
    counts_B = np.full(BLOCKS, TILES)
    difference = rmse_difference(one_DB * 1.21, one_DB, counts_B)
    assert difference.leaves_out_zero
    assert difference.value == pytest.approx(0.1 * rmse_interval(one_DB, counts_B).value)
    alone = rmse_interval(one_DB, counts_B)
    assert difference.high - difference.low < 0.2 * (alone.high - alone.low)


def test_one_draw_has_the_variance_of_its_blocks_alone() -> None:
    generator = np.random.default_rng(2)
    squares_DB = generator.uniform(1, 9, (1, BLOCKS))
    estimate = rmse_interval(squares_DB, np.ones(BLOCKS))
    reach = (estimate.high - estimate.low) / 2
    doubled = rmse_interval(np.repeat(squares_DB, 2, 0), np.ones(BLOCKS))
    assert doubled.value == pytest.approx(estimate.value)
    assert (doubled.high - doubled.low) / 2 == pytest.approx(reach)


def test_blocks_without_tiles_do_not_count() -> None:
    squares_DB = np.array([[4.0, 0.0, 9.0]])
    assert rmse_interval(squares_DB, np.array([1, 0, 1])) == rmse_interval(
        squares_DB[:, [0, 2]], np.array([1, 1])
    )
    with pytest.raises(InputError, match="1 blocks of ground have tiles"):
        rmse_interval(squares_DB, np.array([1, 0, 0]))


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (5, 2.57058), (12, 2.17881), (120, 1.97993), (1e6, 1.95997)],
)
def test_students_quantile_is_that_of_the_tables(freedom: float, expected: float) -> None:
    assert t_quantile(freedom) == pytest.approx(expected, rel=1e-4)
