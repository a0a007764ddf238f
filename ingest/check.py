"""Is this chip fit to learn from? Arrays in; a chip's arrays, or the reason why not, out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.schema import Schema

HEIGHT_NODATA = -9999.0
"""Height rasters and chips of this field mark missing heights so, or with NaN."""


class Rejected(Exception):
    """A chip that is not kept: `reason` is one of few, for counting; `detail` says what was found."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def checked_image(array: NDArray[Any], schema: Schema) -> NDArray[Any]:
    """The image as (bands, rows, columns) in stored type.

    Raises:
        Rejected: wrong type or shape, or a pixel without a measurement.
    """
    if array.dtype != np.dtype(schema.dtype):
        raise Rejected("wrong dtype", f"image is {array.dtype}, not {schema.dtype}")
    bands, rows, columns = schema.image_shape
    if array.shape == (rows, columns, bands):
        array = array.transpose(2, 0, 1)
    if array.shape != schema.image_shape:
        raise Rejected("wrong shape", f"image is {array.shape}, not {schema.image_shape}")
    if schema.nodata is not None and (array == schema.nodata).any():
        raise Rejected("nodata in image", f"{float((array == schema.nodata).mean()):.1%} of its values")
    return np.ascontiguousarray(array)


def checked_height(array: NDArray[Any], schema: Schema) -> NDArray[np.float32]:
    """The height as (rows, columns) float32 metres.

    Raises:
        Rejected: wrong type or shape, a missing height, or no height above 0.
    """
    if array.dtype.kind not in "fiu":
        raise Rejected("wrong dtype", f"height is {array.dtype}, not a number")
    if array.shape == (1, *schema.label_shape):
        array = array[0]
    if array.shape != schema.label_shape:
        raise Rejected("wrong shape", f"height is {array.shape}, not {schema.label_shape}")
    height_HW = np.ascontiguousarray(array, np.float32)
    missing = ~np.isfinite(height_HW) | (height_HW == HEIGHT_NODATA)
    if schema.nodata:  # 0 is a height
        missing |= height_HW == schema.nodata
    if missing.any():
        raise Rejected("NaN in height", f"{float(missing.mean()):.1%} of its pixels")
    if not (height_HW > 0).any():
        raise Rejected("no height above 0")
    return height_HW
