"""Rank correlation of two matrices over pairs of regions, and what chance gives: permuted regions.

Pairs of regions are not independent: each region is in many of them. So the regions are permuted, not the
pairs, as by Mantel 1967: rows and columns of one matrix together. With four regions there are 24
permutations; no p-value is then below 1/24, whatever the data.
"""

from dataclasses import asdict, dataclass
from itertools import islice, permutations
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALL_UP_TO = 7
"""Most regions whose permutations are all tried: 5,040."""
SOME = 9_999
"""Permutations drawn for more regions, besides the one that is."""
_ROUNDING = 1e-12

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation over pairs of regions."""

    rho: float
    low: float
    """Lower end of the middle 95 % of the correlations of permuted regions."""
    high: float
    """Upper end."""
    p: float
    """Share of the permutations whose correlation is as far from 0; the one that is counts as well."""
    pairs: int
    """Ordered pairs of regions."""
    permutations: int
    is_exact: bool
    """Whether these are all permutations."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def ranks_of(values_N: NDArray[Any]) -> FloatArray:
    """Rank values from 1; equal ones get the mean of their ranks."""
    _, place_N, count_K = np.unique(values_N, return_inverse=True, return_counts=True)
    last_K = np.cumsum(count_K)
    return np.asarray((last_K - (count_K - 1) / 2)[place_N], np.float64)


def spearman(one_N: NDArray[Any], other_N: NDArray[Any]) -> float | None:
    """Return Spearman's rank correlation; None where all values of one are equal."""
    if len(one_N) < 2:
        return None
    first_N, second_N = (ranks_of(values_N) - (len(one_N) + 1) / 2 for values_N in (one_N, other_N))
    size = float(np.sqrt((first_N**2).sum() * (second_N**2).sum()))
    return float((first_N * second_N).sum() / size) if size else None


def permuted_correlation(distance_RR: FloatArray, error_RR: FloatArray, seed: int) -> RankCorrelation | None:
    """Correlate distances and errors over ordered pairs of different regions; None where that says nothing.

    Args:
        distance_RR: distance between regions, symmetric.
        error_RR: error of what was trained on the row's region and tested on the column's; NaN: unknown.
        seed: seed of the permutations, where not all are tried.
    """
    count = len(distance_RR)
    used_RR = np.isfinite(error_RR) & np.isfinite(distance_RR) & ~np.eye(count, dtype=bool)
    error_P = error_RR[used_RR]
    found = spearman(distance_RR[used_RR], error_P)
    if found is None:
        return None
    is_exact = count <= ALL_UP_TO
    order = _all(count) if is_exact else _drawn(count, seed)
    rhos = [spearman(distance_RR[np.ix_(moved, moved)][used_RR], error_P) for moved in order]
    values = np.array([rho for rho in rhos if rho is not None])
    low, high = np.quantile(values, (0.025, 0.975), method="inverted_cdf")
    p = float((np.abs(values) >= abs(found) - _ROUNDING).mean())
    return RankCorrelation(found, float(low), float(high), p, int(used_RR.sum()), len(values), is_exact)


def _all(count: int) -> list[NDArray[np.int64]]:
    return [np.array(moved) for moved in islice(permutations(range(count)), factorial(count))]


def _drawn(count: int, seed: int) -> list[NDArray[np.int64]]:
    drawn = np.random.default_rng(seed)
    return [np.arange(count), *(drawn.permutation(count) for _ in range(SOME))]
