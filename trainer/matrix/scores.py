"""Scores of trainings on the test tiles of a region, with intervals over its blocks and the draws.

score = score_of([draw_0, draw_1], "predicted", measure)
change = difference_of([draw_0, draw_1], [other_0, other_1], ("predicted", "predicted"), measure)
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from trainer.matrix.cell_file import BlockSums
from trainer.score.intervals import (
    Estimate,
    mean_difference,
    mean_interval,
    rmse_difference,
    rmse_interval,
)

ROUNDING = 1e-9
"""Share of a difference below which the width of its interval is rounding."""
LEAST_BLOCKS = 2
"""Fewest blocks of ground that tell how much scores vary."""


@dataclass(frozen=True)
class Measure:
    """The score by which models are compared; lower is better."""

    name: str
    """Key of the measure in matrix.json: "rmse" or "wrong"."""
    title: str
    unit: str
    """Unit of its values, "" where none is known."""

    @property
    def has_root(self) -> bool:
        """Whether it is the root of a mean, and not a mean."""
        return self.name == "rmse"

    def shown(self, value: float) -> str:
        """Write a value for people."""
        return f"{value:.3g}" if self.has_root else f"{value:.1%}"

    def signed(self, value: float) -> str:
        """Write a difference for people; shares in percentage points."""
        return f"{value:+.3g}" if self.has_root else f"{100 * value:+.1f}"


RMSE, WRONG = "rmse", "wrong"
WRONG_ONES = {"tile-class": "classes", "pixel-class": "pixels"}
"""Units whose wrong predictions are counted, by task."""


def measure_of(task: str, unit: str) -> Measure:
    """Return the measure of a task: the RMSE in the label's unit, or the share of wrong classes or pixels."""
    if task in WRONG_ONES:
        return Measure(WRONG, f"share of wrong {WRONG_ONES[task]}", "")
    return Measure(RMSE, "RMSE", unit)


@dataclass(frozen=True)
class Interval:
    """A value, and its 95 % interval where there is one."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, estimate: Estimate) -> "Interval":
        """Take over an estimate."""
        return cls(estimate.value, estimate.low, estimate.high)

    @property
    def verdict(self) -> str:
        """What a difference of errors, ours less theirs, says about ours."""
        if self.low is None or self.high is None:
            return NO_INTERVAL
        return BETTER if self.high < 0 else WORSE if self.low > 0 else NOT_TOLD_APART

    @property
    def leaves_out_zero(self) -> bool:
        """Whether there is an interval, on one side of 0."""
        return self.verdict in (BETTER, WORSE)

    def to_json(self) -> dict[str, float | None]:
        """Return plain JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


BETTER, WORSE, NOT_TOLD_APART, NO_INTERVAL = "better", "worse", "not told apart", "no interval"
VERDICTS = (BETTER, WORSE, NOT_TOLD_APART, NO_INTERVAL)


@dataclass(frozen=True)
class Score:
    """Score of trainings that differ in their draw alone, on one region."""

    error: Interval
    """The measure."""
    bias: float | None
    """Mean over draws of predicted - true; None for classes."""
    r2: float | None
    """Mean over draws of the share of variance that is explained; None for classes, or without variance."""
    count: int
    """Number of test tiles, or of measured or labelled pixels."""
    blocks: int
    draws: int

    def to_json(self, measure: Measure) -> dict[str, Any]:
        """Return plain JSON values."""
        numbers = {"bias": self.bias, "r2": self.r2, "n": self.count}
        return {measure.name: self.error.to_json(), **numbers, "blocks": self.blocks, "draws": self.draws}


def score_of(draws: list[BlockSums], predictor: str, measure: Measure) -> Score:
    """Score a predictor; `draws` have the same tiles."""
    first = draws[0]
    squares_DB = np.stack([draw.squares_B[predictor] for draw in draws])
    if len(first.blocks) < LEAST_BLOCKS:
        error = Interval(_mean(squares_DB, first.count_B, measure), None, None)
    else:
        found = (rmse_interval if measure.has_root else mean_interval)(squares_DB, first.count_B)
        # Student's t is symmetric; an error is not below 0.
        error = Interval(found.value, max(0.0, found.low), found.high)
    count = float(first.count_B.sum())
    bias = r2 = None
    if measure.has_root:
        bias = float(np.mean([draw.error_B[predictor].sum() / count for draw in draws]))
        variance = float(first.truth_squares_B.sum() - first.truth_B.sum() ** 2 / count)
        r2 = 1 - float(squares_DB.sum(1).mean()) / variance if variance > 0 else None
    return Score(error, bias, r2, int(count), len(first.blocks), len(draws))


def difference_of(
    ours: list[BlockSums], theirs: list[BlockSums], predictors: tuple[str, str], measure: Measure
) -> Interval:
    """Compare two predictors on the same tiles, ours less theirs; draw d of both is a pair."""
    pairs = zip((ours, theirs), predictors, strict=True)
    one_DB, other_DB = (np.stack([draw.squares_B[name] for draw in draws]) for draws, name in pairs)
    count_B = ours[0].count_B
    if len(ours[0].blocks) < LEAST_BLOCKS:
        values = (_mean(squares_DB, count_B, measure) for squares_DB in (one_DB, other_DB))
        return Interval(next(values) - next(values), None, None)
    compare = rmse_difference if measure.has_root else mean_difference
    if any(not np.array_equal(one.count_B, count_B) for one in (*ours, *theirs)):
        raise InputError(
            "cells were tested on different tiles (see --on-bad-shard); delete cells/, and train again"
        )
    found = compare(one_DB, other_DB, count_B)
    # The same difference in every block: nothing tells how much it varies.
    if found.value and found.high - found.low <= ROUNDING * abs(found.value):
        return Interval(found.value, None, None)
    return Interval.of(found)


def _mean(squares_DB: NDArray[np.float64], count_B: NDArray[np.float64], measure: Measure) -> float:
    mean_D = squares_DB.sum(1) / count_B.sum()
    return float((np.sqrt(mean_D) if measure.has_root else mean_D).mean())
