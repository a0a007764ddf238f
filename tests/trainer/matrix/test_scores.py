"""Intervals of a matrix contain the truth; errors add up by block of ground."""

import numpy as np
import pyarrow as pa
import pytest

from trainer.matrix.cell_file import PREDICTORS, BlockSums, CellResult, block_sums, read_cell
from trainer.matrix.scores import (
    BETTER,
    NO_INTERVAL,
    NOT_TOLD_APART,
    WORSE,
    Interval,
    difference_of,
    measure_of,
    score_of,
)

DRAWS, BANDS, TILES = 5, 12, 25
SIMULATIONS = 500
BIAS, OF_BAND, OF_BOTH, OF_TILE = 0.6, 1.0, 0.5, 2.0
"""Deviations of what errors share: in a draw, in a band (all draws), in a band and a draw; and of a tile."""
OWN_BIAS, OWN_OF_BAND = 0.3, 0.4
"""Deviations of what an init alone has in a draw, since it learns otherwise from the same labels, and in a
band."""
GAIN = 0.3
"""By how much the tiles' own deviation is larger from scratch."""
RMSE = measure_of("tile-value", "%")
WRONG = measure_of("tile-class", "")


def table_of(error_BT: np.ndarray, ridge_BT: np.ndarray) -> pa.Table:
    """Test tiles of a region as a cell leaves them, with these errors of model and ridge; in any order."""
    bands, tiles = error_BT.shape
    truth_BT = np.linspace(10, 90, bands * tiles).reshape(bands, tiles)
    columns = {
        "key": [f"tile {number}" for number in range(bands * tiles)],
        "tested_on": ["conus"] * (bands * tiles),
        "block": [f"conus {band}" for band in range(bands) for _ in range(tiles)],
        "truth": truth_BT.ravel(),
        "predicted": (truth_BT + error_BT).ravel(),
        "ridge": (truth_BT + ridge_BT).ravel(),
        "mean": np.full(bands * tiles, 50.0),
        "pixels": np.ones(bands * tiles, np.int64),
    }
    order = np.random.default_rng(0).permutation(bands * tiles)
    return pa.table(columns).take(pa.array(order))


def simulated(generator: np.random.Generator, bands: int = BANDS) -> dict[str, list[BlockSums]]:
    """Errors of one matrix entry: of both inits the same labels in each draw, and the same bands."""
    band_B1 = generator.normal(0, OF_BAND, (bands, 1))
    own = {init: generator.normal(0, OWN_OF_BAND, (bands, 1)) for init in ("pretrained", "scratch")}
    draws: dict[str, list[BlockSums]] = {"pretrained": [], "scratch": []}
    for _ in range(DRAWS):
        labels = generator.normal(0, BIAS)  # the same labels err in the same direction
        for init, more in (("pretrained", 0.0), ("scratch", GAIN)):
            both_B1 = generator.normal(0, OF_BOTH, (bands, 1))
            tile_BT = generator.normal(0, OF_TILE + more, (bands, TILES))
            shared_B1 = labels + generator.normal(0, OWN_BIAS) + band_B1 + own[init]
            squares_B = ((shared_B1 + both_B1 + tile_BT) ** 2).sum(1)
            nothing_B = np.zeros(bands)
            count_B = np.full(bands, float(TILES))
            named = dict.fromkeys(PREDICTORS, squares_B)
            sums = (count_B, nothing_B, nothing_B, dict.fromkeys(PREDICTORS, nothing_B), named)
            draws[init].append(BlockSums(tuple(map(str, range(bands))), *sums))
    return draws


def true_rmse(more: float) -> float:
    """Mean over draws on endless ground."""
    bias_N = np.random.default_rng(99).normal(0, np.hypot(BIAS, OWN_BIAS), 200_000)
    rest = OF_BAND**2 + OWN_OF_BAND**2 + OF_BOTH**2 + (OF_TILE + more) ** 2
    return float(np.sqrt(bias_N**2 + rest).mean())


def test_intervals_of_simulated_matrices_contain_the_truth_in_90_to_99_percent() -> None:
    """Errors are simulated, and pre-trained less scratch as the matrix pairs them.

    Where draws and bands are the same to both inits, pairing leaves nothing of either level, and intervals of
    differences are wider than they need be: 99.4 % with OWN_BIAS and OWN_OF_BAND 0.
    """
    generator = np.random.default_rng(7)
    truth, change = true_rmse(0.0), true_rmse(0.0) - true_rmse(GAIN)
    inside = inside_change = told_wrongly = 0
    for _ in range(SIMULATIONS):
        draws = simulated(generator)
        error = score_of(draws["pretrained"], "predicted", RMSE).error
        inside += error.low <= truth <= error.high
        difference = difference_of(draws["pretrained"], draws["scratch"], ("predicted", "predicted"), RMSE)
        inside_change += difference.low <= change <= difference.high
        told_wrongly += difference.verdict == WORSE
    assert 0.90 <= inside / SIMULATIONS <= 0.99
    assert 0.90 <= inside_change / SIMULATIONS <= 0.99
    assert told_wrongly / SIMULATIONS < 0.03


def test_errors_add_up_by_block_in_any_order_of_tiles() -> None:
    generator = np.random.default_rng(3)
    error_BT, ridge_BT = generator.normal(0, 3, (2, 4, 6))
    sums = block_sums(table_of(error_BT, ridge_BT), "conus")
    assert sums.blocks == tuple(f"conus {band}" for band in range(4))
    assert sums.squares_B["predicted"] == pytest.approx((error_BT**2).sum(1))
    assert sums.error_B["ridge"] == pytest.approx(ridge_BT.sum(1))
    score = score_of([sums], "predicted", RMSE)
    assert score.error.value == pytest.approx(np.sqrt((error_BT**2).mean()))
    assert score.bias == pytest.approx(error_BT.mean())
    truth_N = np.linspace(10, 90, 24)
    assert score.r2 == pytest.approx(1 - (error_BT**2).sum() / ((truth_N - truth_N.mean()) ** 2).sum())
    assert (score.count, score.blocks, score.draws) == (24, 4, 1)


def test_verdicts_say_on_which_side_of_zero_the_interval_lies() -> None:
    assert Interval(-1.0, -2.0, -0.5).verdict == BETTER
    assert Interval(1.0, 0.5, 2.0).verdict == WORSE
    assert Interval(0.2, -0.5, 2.0).verdict == NOT_TOLD_APART
    assert Interval(5.0, None, None).verdict == NO_INTERVAL


def test_one_block_has_a_value_and_no_interval() -> None:
    error_BT, ridge_BT = np.random.default_rng(3).normal(0, 3, (2, 1, 6))
    sums = block_sums(table_of(error_BT, ridge_BT), "conus")
    score = score_of([sums, sums], "predicted", RMSE)
    assert (score.error.low, score.error.high) == (None, None)
    difference = difference_of([sums], [sums], ("predicted", "ridge"), RMSE)
    assert difference.value == pytest.approx(np.sqrt((error_BT**2).mean()) - np.sqrt((ridge_BT**2).mean()))
    assert difference.verdict == NO_INTERVAL


def test_classes_count_as_right_or_wrong() -> None:
    columns = {
        "key": ["a", "b", "c", "d"],
        "tested_on": ["conus"] * 4,
        "block": ["conus 1", "conus 1", "conus 2", "conus 2"],
        "truth": ["wood", "water", "wood", "field"],
        "predicted": ["wood", "wood", "wood", "field"],
        "ridge": ["field", "field", "field", "field"],
        "mean": ["wood"] * 4,
        "pixels": [1] * 4,
    }
    sums = block_sums(pa.table(columns), "conus")
    score = score_of([sums], "predicted", WRONG)
    assert score.error.value == 0.25
    assert (score.bias, score.r2) == (None, None)
    difference = difference_of([sums], [sums], ("predicted", "ridge"), WRONG)
    assert (difference.value, difference.verdict) == (-0.5, NO_INTERVAL), "the same in both bands"


def test_what_a_cell_left_is_read_as_it_was_written_and_not_when_it_is_damaged(tmp_path: object) -> None:
    error_BT, ridge_BT = np.random.default_rng(3).normal(0, 3, (2, 2, 6))
    result = CellResult(table_of(error_BT, ridge_BT), {"labels": 5, "best": {"epoch": 1}})
    assert result.to_bytes() == result.to_bytes()
    path = f"{tmp_path}/cell.parquet"
    with open(path, "wb") as file:
        file.write(result.to_bytes())
    read = read_cell(path)
    assert read.tiles.equals(result.tiles)
    assert read.about["labels"] == 5


def test_pixel_classes_are_scored_by_the_share_of_wrong_pixels_of_each_block() -> None:
    measure = measure_of("pixel-class", "")
    assert (measure.name, measure.title) == ("wrong", "share of wrong pixels")
    right = {"predicted": [60, 10, 300, 80], "ridge": [50, 20, 250, 70], "mean": [0, 0, 0, 100]}
    table = pa.table(
        {
            "tested_on": ["conus"] * 4,
            "block": ["conus 1", "conus 2", "conus 1", "conus 2"],
            "pixels": [100, 20, 400, 100],
            **{f"right_{name}": counts for name, counts in right.items()},
        }
    )
    sums = block_sums(table, "conus")
    assert sums.count_B.tolist() == [500, 120]
    assert sums.squares_B["predicted"].tolist() == [140, 30]
    score = score_of([sums], "predicted", measure)
    assert score.error.value == pytest.approx(170 / 620)
    assert (score.bias, score.r2, score.count) == (None, None, 620)
    assert difference_of([sums], [sums], ("predicted", "ridge"), measure).value == pytest.approx(-60 / 620)
