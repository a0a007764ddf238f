"""Energy distances between samples of points (Székely and Rizzo 2013), without bias.

The distance of X and Y is 2 E|X - Y| - E|X - X'| - E|Y - Y'|, in units of the vectors, each mean over pairs
of different points. It is 0 in the mean for two samples of one distribution, so it can come out below 0.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
ROWS = 512
"""Points whose distances to all others are held at a time."""


def energy_distances(samples: Sequence[FloatArray], pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Measure each pair of samples (N, D) of two points or more."""
    needed = sorted({number for pair in pairs for number in pair})
    within = {number: mean_within(samples[number]) for number in needed}
    return [
        2 * mean_between(samples[one], samples[other]) - within[one] - within[other] for one, other in pairs
    ]


def mean_between(points_ND: FloatArray, others_MD: FloatArray) -> float:
    """Return the mean distance of a point to one of the others."""
    total = sum(float(apart.sum()) for apart in _rows_of_distances(points_ND, others_MD))
    return total / (len(points_ND) * len(others_MD))


def mean_within(points_ND: FloatArray) -> float:
    """Return the mean distance of two different points."""
    count = len(points_ND)
    total = 0.0
    for start, apart_RN in enumerate(_rows_of_distances(points_ND, points_ND)):
        rows = np.arange(len(apart_RN))
        apart_RN[rows, start * ROWS + rows] = 0  # of a point to itself, but for rounding
        total += float(apart_RN.sum())
    return total / (count * (count - 1))


def _rows_of_distances(points_ND: FloatArray, others_MD: FloatArray) -> Iterator[FloatArray]:
    for start in range(0, len(points_ND), ROWS):
        yield distances(points_ND[start : start + ROWS], others_MD)


def distances(points_ND: FloatArray, others_MD: FloatArray) -> FloatArray:
    """Return distances_NM of points to others."""
    squares_NM = (points_ND**2).sum(1)[:, None] + (others_MD**2).sum(1) - 2 * points_ND @ others_MD.T
    return np.asarray(np.sqrt(np.maximum(squares_NM, 0)), np.float64)
