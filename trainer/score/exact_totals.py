"""Exact totals of float64 numbers: whole numbers whose sum no order, batch or number of ranks changes.

A float64 number is a whole multiple of 2^-1074. Sums of such numbers are kept as whole numbers of that unit,
in limbs of 32 bits, each in an int64. Limbs add up with `+`, over chips, batches and ranks alike, and are
rounded here, once. trainer.devices.exact_sums makes them. Numbers of any size fit: nothing is scaled or cut.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

LIMBS = 66
"""Number of limbs: 2^-1074 to 2^1023, and 53 bits of a number that begin anywhere in a limb."""
WIDTH = LIMBS + 1
"""Length of an exact sum: its limbs, the lowest first, and the number of summands that were not finite."""
LIMB_BITS = 32
LOWEST_BIT = -1074
"""Exponent of the unit: the smallest float64 above 0 is 2^-1074 (IEEE 754)."""


def rounded(sums_XL: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the nearest float64 of each exact sum (..., WIDTH); NaN where a summand was not finite."""
    rows = sums_XL.reshape(-1, WIDTH).tolist()
    return np.array([_nearest(row) for row in rows], np.float64).reshape(sums_XL.shape[:-1])


def _nearest(row: list[int]) -> float:
    *limbs, not_finite = row
    if not_finite:
        return float("nan")
    units = sum(limb << (LIMB_BITS * place) for place, limb in enumerate(limbs))
    try:
        return float(Fraction(units, 1 << -LOWEST_BIT))  # correctly rounded, as division of integers is
    except OverflowError:
        return float("inf") if units > 0 else float("-inf")
