"""The label of a chip's footprint: the values that rasters have on its pixels in, a number out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.config import LabelsConfig

Label = float | int | None
"""Label of a chip; None: missing."""


@dataclass(frozen=True)
class LabelRule:
    """A rule that makes one number of a footprint's values."""

    majority: bool
    """Whether the label is the most frequent whole number, and not the mean."""
    valid: tuple[float, float] | None = LabelsConfig.valid
    """Lowest and highest value that counts; None: all do."""
    as_zero: tuple[float, ...] = LabelsConfig.as_zero
    """Values that count as 0, also where they are nodata or not valid."""
    least_covered: float = LabelsConfig.least_covered
    """Least share (0..1) of the footprint's pixels that must have values."""

    def counted(self, stored_HW: NDArray[Any], missing_HW: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the values that count, those `as_zero` as 0; NaN where there is none."""
        value_HW = stored_HW.astype(np.float64)
        out_HW = missing_HW | ~np.isfinite(value_HW)
        if self.valid is not None:
            low, high = self.valid
            out_HW |= (value_HW < low) | (value_HW > high)
        zero_HW = np.isin(value_HW, self.as_zero)
        value_HW[out_HW] = np.nan
        value_HW[zero_HW] = 0.0
        return value_HW

    def label(self, value_HW: NDArray[np.float64]) -> Label:
        """Compute the label of a footprint's pixels (rows, columns), NaN where there is no value.

        Of several numbers that are equally frequent, the lowest is the majority.
        """
        value_N = value_HW[~np.isnan(value_HW)]
        if not value_N.size or value_N.size < self.least_covered * value_HW.size:
            return None
        if not self.majority:
            return float(value_N.mean())
        number_C, count_C = np.unique(value_N, return_counts=True)
        return int(number_C[count_C.argmax()])
