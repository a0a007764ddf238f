"""What a missing pixel is, once for all: ingest, statistics, baselines, pictures. `trainer.model.normalise`
says the same of tensors."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def missing_values(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Tell which values are no measurements: those equal to `nodata`; among floats, NaN and infinity too."""
    is_missing = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, np.bool_)
    if nodata is not None:
        is_missing |= values == nodata
    return is_missing


def missing_pixels(image_CHW: NDArray[Any], nodata: float | None) -> NDArray[np.bool_] | None:
    """Return (rows, columns) where a band has no measurement, or None if every pixel has all."""
    missing_CHW = missing_values(image_CHW, nodata)
    # As good as every chip has all its pixels, and to find that out is four times as fast as to count them.
    return np.asarray(missing_CHW.any(0)) if missing_CHW.any() else None
