"""One tar shard as bytes: plain WebDataset, and an array of equal rows.

Every chip takes three members, in this order, each a 512-byte ustar header and a payload padded to 512:

    KEY.image.npy    128 bytes of npy header, then the pixels, (bands, rows, columns)
    KEY.height.npy   128 bytes of npy header, then float32 metres, (rows, columns)
    KEY.json         the chip's origin, padded with spaces to one length for the whole shard

so a shard is a (chips, stride) array of bytes and two zero blocks. Times and owners are zero: the same
chips give the same bytes. For 4 bands of 64 x 64 int16 the two arrays end at byte 51,200 of a row.
"""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import DatasetError
from shards.schema import Chip, Schema

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)


@dataclass(frozen=True)
class RowLayout:
    """Where the arrays of a chip are within its row of bytes; the same for every shard of a schema."""

    image_offset: int
    height_offset: int
    span: int
    """Bytes from the row's start to the end of the height member: what a batch has to copy."""


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _member_header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(format=tarfile.USTAR_FORMAT)


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * np.dtype(dtype).itemsize


@lru_cache
def row_layout(schema: Schema) -> RowLayout:
    """Offsets in bytes within a row."""
    image_header = len(_npy_header(schema.dtype, schema.image_shape))
    height_header = len(_npy_header("float32", schema.label_shape))
    image_end = BLOCK + _padded(image_header + _nbytes(schema.dtype, schema.image_shape))
    height_end = image_end + BLOCK + _padded(height_header + _nbytes("float32", schema.label_shape))
    return RowLayout(BLOCK + image_header, image_end + BLOCK + height_header, height_end)


def pack(chips: Sequence[Chip], schema: Schema) -> bytes:
    """The shard that holds `chips`, in their order."""
    origins = [json.dumps(chip.origin(), separators=(",", ":")).encode() for chip in chips]
    json_size = _padded(max(len(origin) for origin in origins))
    image_header = _npy_header(schema.dtype, schema.image_shape)
    height_header = _npy_header("float32", schema.label_shape)
    image_dtype = np.dtype(schema.dtype).newbyteorder("<")
    parts: list[bytes] = []
    for chip, origin in zip(chips, origins, strict=True):
        members = (
            ("image.npy", image_header + chip.image_CHW.astype(image_dtype, copy=False).tobytes()),
            ("height.npy", height_header + chip.height_HW.astype("<f4", copy=False).tobytes()),
            ("json", origin.ljust(json_size)),
        )
        for ending, payload in members:
            padding = bytes(_padded(len(payload)) - len(payload))
            parts += (_member_header(f"{chip.key}.{ending}", len(payload)), payload, padding)
    parts.append(END_OF_ARCHIVE)
    return b"".join(parts)


def stride_of(nbytes: int, samples: int, schema: Schema) -> int:
    """Bytes from one chip to the next in a shard of `nbytes` bytes.

    Raises:
        DatasetError: so many bytes cannot be such a shard.
    """
    stride, rest = divmod(nbytes - len(END_OF_ARCHIVE), max(samples, 1))
    if rest or stride % BLOCK or stride < row_layout(schema).span:
        raise DatasetError(f"{nbytes:,} bytes are not a shard of {samples:,} chips of this dataset")
    return stride


def arrays_of(rows_BS: NDArray[np.uint8], schema: Schema) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Views image (B, bands, rows, columns) in stored type and height (B, rows, columns) in metres.

    `rows_BS` are the first `span` bytes (or more) of each chip's row, contiguous.
    """
    layout, (count, stride) = row_layout(schema), rows_BS.shape
    if not count:
        return np.empty((0, *schema.image_shape), schema.dtype), np.empty((0, *schema.label_shape), "<f4")
    (_, rows, columns), size = schema.image_shape, np.dtype(schema.dtype).itemsize
    image_BCHW: NDArray[Any] = np.ndarray(
        (count, *schema.image_shape),
        np.dtype(schema.dtype).newbyteorder("<"),
        rows_BS.data,
        layout.image_offset,
        (stride, rows * columns * size, columns * size, size),
    )
    height_BHW: NDArray[np.float32] = np.ndarray(
        (count, rows, columns), "<f4", rows_BS.data, layout.height_offset, (stride, columns * 4, 4)
    )
    return image_BCHW, height_BHW
