"""A value that stands for nothing, although the file does not say so."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.scenes.sample import Sample
from shards.raster.finding import Finding

LEAST_FILLED = 0.01
"""Share of the pixels above which a value that fills all bands at once is named."""
FILLED_TOGETHER = 0.9
"""Least share of pixels with that value in all bands, of those with it in any band, and of those with any
value in all bands: a dark or saturated pixel is so in one band before it is in the next, and in a grey image
all pixels have one value in all bands."""
ALONE = 0.1
"""Share of the values' range that the largest one must lie above the next to be no saturated pixel's."""


def filled_pixels(sample: Sample) -> tuple[NDArray[np.bool_], Finding] | None:
    """Find the value that most pixels have in all bands at once, where it is one that is missing."""
    stored_BN = sample.stored_BN
    alike_N = (stored_BN == stored_BN[0]).all(0)
    if len(stored_BN) < 2 or not alike_N.any():
        return None
    values, counts = np.unique(stored_BN[0, alike_N], return_counts=True)
    value, count = values[counts.argmax()], int(counts.max())
    share = count / sample.seen
    others = max(int((stored_BN == value).any(0).sum()), int(alike_N.sum()))
    if share <= LEAST_FILLED or count < FILLED_TOGETHER * others or _is_saturation(stored_BN, value):
        return None
    said = f"{value:.7g}" if stored_BN.dtype.kind == "f" else str(value)
    line = f"{max(round(100 * share), 1)} % of pixels are {said} in all bands; is {said} nodata?"
    return alike_N & (stored_BN[0] == value), Finding("filled", line, f"if so, give --nodata {said}")


def _is_saturation(stored_BN: NDArray[Any], value: Any) -> bool:
    """Tell a largest value below which there are others from one that stands alone."""
    if value < stored_BN.max():
        return False
    others = stored_BN[stored_BN < value].astype(np.float64)
    return bool(others.size and value - others.max() < ALONE * (value - others.min()))
