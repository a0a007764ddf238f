"""An array as the pixels of a scene."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.schema import Schema


def array_pixels(image: NDArray[Any], schema: Schema, may_be_tiles: bool = False) -> NDArray[Any]:
    """Return image_CHW as a scene of these pixels has them: of the schema's type, or else float32.

    NaN, infinity, the schema's nodata value and what a numpy mask hides are missing.

    Args:
        image: stored pixels, with the schema's bands in their order.
        schema: schema of the chips of training.
        may_be_tiles: whether image_BCHW will do, too.

    Raises:
        InputError: it has other axes or bands, or no numbers.
    """
    array = np.asanyarray(image)
    said = f"an array of {array.dtype} of shape {array.shape}"
    if array.dtype.kind not in "iuf":
        raise InputError(f"{said}: give pixels as numbers, {schema.dtype} as in training or floats")
    axes = (3, 4) if may_be_tiles else (3,)
    if array.ndim not in axes or array.shape[-3] != len(schema.bands) or not array.size:
        also = " or (tiles, bands, rows, columns)" if may_be_tiles else ""
        raise InputError(f"{said}: give (bands, rows, columns){also} with the bands {' '.join(schema.bands)}")
    if isinstance(array, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(array), np.nan, array.data).astype(np.float32)
    return array if array.dtype == schema.dtype else array.astype(np.float32)
