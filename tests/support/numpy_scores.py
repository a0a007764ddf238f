"""Scores of heights as NumPy computes them on the host: what the sums of the device are held against.

sums_KS, density_PM = numpy_sums(predicted_BHW, measured_BHW)
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.height_classes import EDGES, NAMES
from trainer.score.metrics import DENSITY_BINS, DENSITY_TOP_M

Floats = NDArray[np.floating[Any]]


def numpy_sums(predicted: Floats, measured: Floats) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums by height class (K) and kind (S), and counts by predicted and measured height (P, M)."""
    known = np.isfinite(measured)
    predicted_N, measured_N = predicted[known].astype(np.float64), measured[known].astype(np.float64)
    error_N = predicted_N - measured_N
    kinds = np.ones_like(error_N), error_N, abs(error_N), error_N**2, measured_N, measured_N**2
    class_N = np.searchsorted(EDGES[1:-1], measured_N, side="right")
    sums_KS = np.stack([np.bincount(class_N, values_N, len(NAMES)) for values_N in kinds], 1)
    bins = [
        np.clip(v * (DENSITY_BINS / DENSITY_TOP_M), 0, DENSITY_BINS - 1).astype(int)
        for v in (predicted_N, measured_N)
    ]
    flat = np.bincount(bins[0] * DENSITY_BINS + bins[1], minlength=DENSITY_BINS**2)
    return sums_KS, flat.reshape(DENSITY_BINS, DENSITY_BINS)
