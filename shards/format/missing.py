"""What is missing in an array: the one definition, for ingest, statistics, baselines and pictures.

`trainer.model.normalise` applies the same definition to tensors.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

NODATA = -9999
"""Value that means "no measurement" in images and heights of this field, unless something else is said."""


def missing_values(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Tell which values are missing: those equal to `nodata` and, among floats, NaN and infinity."""
    is_missing = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, np.bool_)
    if nodata is not None:
        is_missing |= values == nodata
    return is_missing


def missing_pixels(image_CHW: NDArray[Any], nodata: float | None) -> NDArray[np.bool_] | None:
    """Return (rows, columns) True where any band is missing, or None if no pixel misses a band."""
    missing_CHW = missing_values(image_CHW, nodata)
    # Nearly every chip is complete, and finding that out is four times as fast as counting.
    return np.asarray(missing_CHW.any(0)) if missing_CHW.any() else None
