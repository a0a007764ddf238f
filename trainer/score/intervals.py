"""95 % intervals of scores that were measured on blocks of ground, by several trainings. No torch, no files.

    estimate = rmse_interval(squares_DB, counts_B)              mean RMSE over D draws
    estimate = rmse_difference(squares_DB, other_DB, counts_B)  paired: the same draws and blocks
    estimate = mean_interval(wrong_DB, counts_B)            mean of any sum per tile: shares of wrong classes
    estimate = mean_difference(wrong_DB, other_DB, counts_B)
    estimate = mean_of([estimate, other])                   scores measured apart, as in several regions

Neighbouring tiles err alike, so blocks (bands of ground) are left out one at a time, never tiles: the
jackknife (Tukey 1958). Draws, such as random choices of labels or seeds of training, are a second level,
crossed with the blocks. The interval is Student's t with the degrees of freedom of Satterthwaite (1946).
tests/trainer/score/test_intervals.py measures how often such intervals contain the truth, and how rarely
those do that resample tiles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, lgamma, pi, sqrt, tan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError

FloatArray = NDArray[np.float64]
GRID = 20_001
"""Places at which Student's density is added up."""


@dataclass(frozen=True)
class Estimate:
    """A score and its 95 % interval."""

    value: float
    """Mean over draws."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""
    variance: float
    """Variance of the value."""
    freedom: float
    """Degrees of freedom of the variance."""

    @property
    def leaves_out_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def rmse_interval(squares_DB: NDArray[Any], counts_B: NDArray[Any]) -> Estimate:
    """Estimate the mean RMSE over draws.

    Args:
        squares_DB: sums of squared errors in each block, for each draw.
        counts_B: number of tiles (or pixels) in each block.

    Raises:
        InputError: there are fewer than two blocks with tiles.
    """
    return _estimate(_rmse(np.asarray(squares_DB, np.float64), counts_B), counts_B)


def rmse_difference(squares_DB: NDArray[Any], other_DB: NDArray[Any], counts_B: NDArray[Any]) -> Estimate:
    """Estimate the mean difference of two RMSEs, the first less the other, measured on the same tiles.

    Args:
        squares_DB: sums of squared errors in each block, for each draw.
        other_DB: those of the other model; draw d of both is a pair.
        counts_B: number of tiles in each block.

    Raises:
        InputError: there are fewer than two blocks with tiles.
    """
    one = _rmse(np.asarray(squares_DB, np.float64), counts_B)
    other = _rmse(np.asarray(other_DB, np.float64), counts_B)
    return _estimate(lambda kept_B: one(kept_B) - other(kept_B), counts_B)


def mean_interval(sums_DB: NDArray[Any], counts_B: NDArray[Any]) -> Estimate:
    """Estimate the mean over tiles of what is summed here in each block, as `rmse_interval` does."""
    return _estimate(_mean(np.asarray(sums_DB, np.float64), counts_B), counts_B)


def mean_difference(sums_DB: NDArray[Any], other_DB: NDArray[Any], counts_B: NDArray[Any]) -> Estimate:
    """Estimate the difference of two such means on the same tiles, as `rmse_difference` does."""
    return mean_interval(np.asarray(sums_DB, np.float64) - np.asarray(other_DB, np.float64), counts_B)


Score = Callable[[NDArray[np.bool_]], FloatArray]
"""Score of each draw, (D,), on the blocks that are kept."""


def _mean(sums_DB: FloatArray, counts_B: NDArray[Any]) -> Score:
    def score(kept_B: NDArray[np.bool_]) -> FloatArray:
        mean_D: FloatArray = sums_DB[:, kept_B].sum(1) / counts_B[kept_B].sum()
        return mean_D

    return score


def _rmse(squares_DB: FloatArray, counts_B: NDArray[Any]) -> Score:
    mean = _mean(squares_DB, counts_B)
    return lambda kept_B: np.sqrt(mean(kept_B))


def _estimate(score: Score, counts_B: NDArray[Any]) -> Estimate:
    """Return the mean over draws with its interval."""
    used = np.flatnonzero(counts_B)
    if used.size < 2:
        raise InputError(f"{used.size} blocks of ground have tiles: an interval needs two or more")
    is_used_B = np.asarray(counts_B) > 0
    values_D = score(is_used_B)
    # What each block adds to each draw's score: the jackknife's pseudo-values.
    added_BD = np.empty((used.size, len(values_D)))
    for place, block in enumerate(used):
        kept_B = is_used_B.copy()
        kept_B[block] = False
        added_BD[place] = used.size * values_D - (used.size - 1) * score(kept_B)
    return _with_interval(float(values_D.mean()), *_variance(added_BD))


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Estimate the mean of scores that were measured apart: in other regions, by other trainings."""
    variances = [one.variance / len(estimates) ** 2 for one in estimates]
    parts = sum(v**2 / one.freedom for v, one in zip(variances, estimates, strict=True))
    value = sum(one.value for one in estimates) / len(estimates)
    return _with_interval(value, sum(variances), sum(variances) ** 2 / parts if parts else 1.0)


def _with_interval(value: float, variance: float, freedom: float) -> Estimate:
    reach = t_quantile(freedom) * sqrt(variance) if variance else 0.0
    return Estimate(value, value - reach, value + reach, variance, freedom)


def _variance(added_BD: FloatArray) -> tuple[float, float]:
    """Return the variance of the mean over blocks and draws, and its degrees of freedom.

    Blocks and draws are crossed. The mean squares of both hold that of what is left, which is taken out once.
    """
    blocks, draws = added_BD.shape
    mean_B, mean_D = added_BD.mean(1), added_BD.mean(0)
    of_blocks = draws * float(mean_B.var(ddof=1))
    if draws == 1:
        return of_blocks / blocks, blocks - 1
    of_draws = blocks * float(mean_D.var(ddof=1))
    left_BD = added_BD - mean_B[:, None] - mean_D + added_BD.mean()
    left = float((left_BD**2).sum()) / ((blocks - 1) * (draws - 1))
    total = max(of_blocks + of_draws - left, left)
    parts = of_blocks**2 / (blocks - 1) + of_draws**2 / (draws - 1)
    parts += left**2 / ((blocks - 1) * (draws - 1))
    # The approximation can fall below the degrees of freedom of either level, which the mean has at least.
    return total / (blocks * draws), max(total**2 / parts if parts else 1, min(blocks, draws) - 1)


def t_quantile(freedom: float) -> float:
    """Return quantile 0.975 of Student's t with this many degrees of freedom, above 0, to six digits.

    With x = sqrt(freedom) tan(angle) the density becomes c cos(angle)^(freedom - 1), which is added up here.
    """
    widest = min(pi / 2, 10 / sqrt(freedom))
    angle_G = np.linspace(0, widest, GRID)
    height_G = np.cos(angle_G) ** (freedom - 1)
    scale = exp(lgamma((freedom + 1) / 2) - lgamma(freedom / 2)) / sqrt(pi)
    below_G = scale * np.concatenate([[0], np.cumsum((height_G[1:] + height_G[:-1]) / 2)]) * angle_G[1]
    return sqrt(freedom) * tan(float(np.interp(0.475, below_G, angle_G)))
