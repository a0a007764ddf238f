"""Conversion of nested lists in Arrow tables to arrays, and of pixels from 0..1 back to stored values."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.chips.check import INCOMPLETE, UNREADABLE, WRONG_DTYPE, WRONG_SHAPE, Rejected, bands_first
from shards.errors import InputError
from shards.format.schema import Schema

TOLERANCE = 1e-3
"""Distance by which a scaled pixel may lie outside 0..1: half precision is no more exact."""
_LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)


def nested_array(column: pa.Array, row: int, name: str) -> NDArray[Any] | None:
    """Return a row of a column of nested lists as an array, if possible a view; None if the row is null.

    Missing numbers become NaN.

    Raises:
        Rejected: its lists differ in length, are null or empty, or are damaged.
    """
    values = (column.storage if isinstance(column, pa.ExtensionArray) else column).slice(row, 1)
    if values.null_count:
        return None
    shape: list[int] = []
    while isinstance(values.type, _LISTS):
        if values.null_count or not len(values):
            raise Rejected(WRONG_SHAPE, f"{name} has lists that are null or empty")
        if isinstance(values.type, pa.FixedSizeListType):
            shape.append(values.type.list_size)
            values = values.flatten()
            continue
        ends = np.asarray(values.offsets)
        lengths = np.diff(ends)
        shape.append(int(lengths[0]))
        if (lengths != shape[-1]).any():
            raise Rejected(WRONG_SHAPE, f"{name} has lists of {lengths.min()} to {lengths.max()} elements")
        if not 0 <= ends[0] <= ends[-1] <= len(values.values):
            raise Rejected(UNREADABLE, f"{name} is damaged")
        values = values.values.slice(int(ends[0]), int(ends[-1] - ends[0]))
    array: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(shape)
    return array


def as_stored(image: NDArray[Any], schema: Schema, scales: tuple[float, ...]) -> NDArray[Any]:
    """Return the image as (bands, rows, columns) in the schema's type.

    An image of a wrong shape keeps it, with zeros for pixels, so that the check rejects it.
    """
    dtype = np.dtype(schema.dtype)
    image = bands_first(image, schema)
    if image.shape != schema.image_shape:
        return np.broadcast_to(dtype.type(0), image.shape)
    image_CHW = np.ascontiguousarray(image)
    if image_CHW.dtype.kind == "f":
        if scales:
            image_CHW = _unscaled(image_CHW, scales)
        if dtype.kind == "f":
            return image_CHW.astype(dtype, copy=False)
        image_CHW = np.rint(image_CHW) if scales else image_CHW
        missing_CHW = np.isnan(image_CHW)
        if missing_CHW.any():
            limits = np.iinfo(dtype)
            if schema.nodata is None or not limits.min <= schema.nodata <= limits.max:
                raise Rejected(INCOMPLETE, f"image has NaN, for which {dtype} needs another --nodata")
            image_CHW = np.where(missing_CHW, image_CHW.dtype.type(schema.nodata), image_CHW)
    with np.errstate(invalid="ignore"):  # the comparison finds values that do not fit
        stored_CHW = image_CHW.astype(dtype, copy=False)
    if (stored_CHW != image_CHW).any():
        raise Rejected(WRONG_DTYPE, f"image has values that {dtype} cannot hold")
    return stored_CHW


def _unscaled(image_CHW: NDArray[Any], scales: tuple[float, ...]) -> NDArray[Any]:
    """Multiply pixels of 0..1 by their band's scale, to within 0.01: float32 has 24 bits, pixels 16."""
    wide_CHW = image_CHW.astype(np.float32) if image_CHW.itemsize < 4 else image_CHW
    least, most = np.fmin.reduce(wide_CHW, axis=None), np.fmax.reduce(wide_CHW, axis=None)  # NaN aside
    if least < -TOLERANCE or most > 1 + TOLERANCE:
        raise Rejected("not scaled to 0..1", f"image has values from {least:g} to {most:g}")
    pixel_CHW: NDArray[Any] = np.clip(wide_CHW, 0, 1)
    pixel_CHW *= np.array(scales, wide_CHW.dtype)[:, None, None]
    return pixel_CHW


def pixel_type(where: str, kind: pa.DataType) -> Any:
    """Return the numpy type of the numbers in nested lists of type `kind`."""
    inner, depth = (kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind), 0
    while isinstance(inner, _LISTS):
        inner, depth = inner.value_type, depth + 1
    if depth not in (2, 3) or not (pa.types.is_integer(inner) or pa.types.is_floating(inner)):
        raise InputError(f"{where} is {kind}; it must hold arrays of numbers (Array3D), not files (Image)")
    return np.dtype(inner.to_pandas_dtype())
