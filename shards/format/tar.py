"""One tar shard as bytes: plain WebDataset, and an array of equal rows.

Every chip takes three members, in this order, each a 512-byte ustar header and a payload padded to 512:

    KEY.image.npy    128 bytes of npy header, then the pixels, (bands, rows, columns)
    KEY.height.npy   128 bytes of npy header, then float32 metres, (rows, columns)
    KEY.json         the chip's origin, padded with spaces to one length for the whole shard

so a shard is a (chips, stride) array of bytes and two zero blocks. Times and owners are zero: the same
chips give the same bytes. Without a label there is no height. For 4 bands of 64 x 64 int16 the two arrays
end at byte 51,200 of a row.
"""

import io
import json
import math
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import DatasetError
from shards.format.key import check_key
from shards.format.schema import Chip, Schema
from shards.storage.json_text import parsed

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)


NAME_BYTES = 100
"""Length of the member's name, with which a ustar header begins."""
CHECKSUM = slice(148, 156)
"""Place of a ustar header's own checksum: six octal digits, a zero byte and a space."""


@dataclass(frozen=True)
class RowLayout:
    """Offsets of a chip's arrays in its row of bytes; the same for every shard of a schema."""

    image_offset: int
    height_offset: int
    span: int
    """Bytes from the row's start to the end of the last array's member, which a batch has to copy."""


@dataclass(frozen=True)
class _ArrayMember:
    """A member that holds an array: where its tar header begins in the row, and what the header says."""

    ending: str
    start: int
    npy_header: bytes
    size: int
    """Bytes of the .npy file."""

    @property
    def values(self) -> int:
        """Offset of its values in the row."""
        return self.start + BLOCK + len(self.npy_header)

    @property
    def end(self) -> int:
        """Offset of the next member in the row."""
        return self.start + BLOCK + _padded(self.size)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


@lru_cache
def _arrays(schema: Schema) -> tuple[_ArrayMember, ...]:
    """List the members that hold the image and, if the schema has a label, the height."""
    members: list[_ArrayMember] = []
    arrays: list[tuple[str, str, tuple[int, ...]]] = [("image.npy", schema.dtype, schema.image_shape)]
    if schema.label:
        arrays.append(("height.npy", "float32", schema.label_shape))
    for ending, dtype, shape in arrays:
        header = _npy_header(dtype, shape)
        size = len(header) + math.prod(shape) * np.dtype(dtype).itemsize
        members.append(_ArrayMember(ending, members[-1].end if members else 0, header, size))
    return tuple(members)


@lru_cache
def row_layout(schema: Schema) -> RowLayout:
    """Compute the offsets in a row, in bytes; without a label, the height's offset is the row's end."""
    members = _arrays(schema)
    return RowLayout(
        members[0].values, members[1].values if schema.label else members[-1].end, members[-1].end
    )


def pack(chips: Sequence[Chip], schema: Schema) -> NDArray[np.uint8]:
    """Make the bytes of the shard that holds `chips`, in their order.

    Raises:
        InputError: a key cannot name a member.
    """
    for chip in chips:
        check_key(chip.key)
    origins = [json.dumps(chip.origin(), separators=(",", ":")).encode() for chip in chips]
    json_size = _padded(max(len(origin) for origin in origins))
    layout = row_layout(schema)
    stride = layout.span + BLOCK + json_size
    shard_S = np.zeros(len(chips) * stride + len(END_OF_ARCHIVE), np.uint8)
    rows_BS = shard_S[: len(chips) * stride].reshape(len(chips), stride)
    keys = [chip.key.encode("ascii") for chip in chips]
    for member in _arrays(schema):
        rows_BS[:, member.start : member.start + BLOCK] = _member_headers(keys, member.ending, member.size)
        header = np.frombuffer(member.npy_header, np.uint8)
        rows_BS[:, member.start + BLOCK : member.start + BLOCK + header.size] = header
    rows_BS[:, layout.span : layout.span + BLOCK] = _member_headers(keys, "json", json_size)
    rows_BS[:, layout.span + BLOCK :] = np.frombuffer(
        b"".join(origin.ljust(json_size) for origin in origins), np.uint8
    ).reshape(len(chips), json_size)
    image_BCHW, height_BHW = arrays_of(rows_BS, schema)
    for row, chip in enumerate(chips):
        image_BCHW[row] = chip.image_CHW
        height_BHW[row] = chip.height_HW
    return shard_S


def _member_headers(keys: Sequence[bytes], ending: str, size: int) -> NDArray[np.uint8]:
    """Make (keys, 512) ustar headers of the members KEY.ending, equal to those of tarfile, all at once.

    The checksum is the sum of a header's bytes, its own field taken as eight spaces (POSIX.1-1988, ustar).
    """
    template = tarfile.TarInfo("")
    template.size, template.mode = size, 0o644
    header = np.frombuffer(template.tobuf(format=tarfile.USTAR_FORMAT), np.uint8)
    headers_BT = np.tile(header, (len(keys), 1))
    names = np.array([key + b"." + ending.encode() for key in keys], f"S{NAME_BYTES}")
    headers_BT[:, :NAME_BYTES] = names.view(np.uint8).reshape(len(keys), NAME_BYTES)
    headers_BT[:, CHECKSUM] = ord(" ")
    sums_B = headers_BT.sum(1, dtype=np.int64)
    digits = ((sums_B[:, None] >> np.arange(15, -3, -3)) & 7) + ord("0")
    headers_BT[:, CHECKSUM.start : CHECKSUM.start + 6] = digits
    headers_BT[:, CHECKSUM.start + 6] = 0
    return headers_BT


def stride_of(nbytes: int, samples: int, schema: Schema) -> int:
    """Compute the bytes from one chip to the next in a shard of `nbytes` bytes.

    Raises:
        DatasetError: a shard cannot have this many bytes.
    """
    stride, rest = divmod(nbytes - len(END_OF_ARCHIVE), max(samples, 1))
    if rest or stride % BLOCK or stride < row_layout(schema).span + 2 * BLOCK:
        raise DatasetError(f"{nbytes:,} bytes are not a shard of {samples:,} chips of this dataset")
    return stride


def chips_of(shard_S: NDArray[np.uint8], samples: int, schema: Schema, where: str) -> list[Chip]:
    """Return the chips of a shard as `pack` made it, from its bytes alone; arrays are views.

    Args:
        shard_S: all bytes of the shard.
        samples: number of its chips.
        schema: schema of the dataset.
        where: the shard, for messages.

    Raises:
        DatasetError: the bytes are no shard of this many such chips, or say of a chip what cannot be.
    """
    stride = stride_of(shard_S.size, samples, schema)
    rows_BS = shard_S[: samples * stride].reshape(samples, stride)
    image_BCHW, height_BHW = arrays_of(rows_BS, schema)
    origins = rows_BS[:, row_layout(schema).span + BLOCK :]
    chips = []
    for image_CHW, height_HW, origin in zip(image_BCHW, height_BHW, origins, strict=True):
        facts = parsed(origin.tobytes(), where)
        try:
            chips.append(Chip(image_CHW=image_CHW, height_HW=height_HW, **facts))
        except TypeError as error:
            raise DatasetError(f"{where}: a chip's .json has other facts than those of a chip") from error
    return chips


def arrays_of(rows_BS: NDArray[np.uint8], schema: Schema) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return views image (B, bands, rows, columns) in stored type and height (B, rows, columns) in metres.

    `rows_BS` are the first `span` bytes (or more) of each chip's row, contiguous.
    """
    layout, (count, stride) = row_layout(schema), rows_BS.shape
    if not count:
        return np.empty((0, *schema.image_shape), schema.dtype), np.empty((0, *schema.label_shape), "<f4")
    (_, rows, columns), size = schema.image_shape, np.dtype(schema.dtype).itemsize
    label_rows, label_columns = schema.label_shape
    image_BCHW: NDArray[Any] = np.ndarray(
        (count, *schema.image_shape),
        np.dtype(schema.dtype).newbyteorder("<"),
        rows_BS.data,
        layout.image_offset,
        (stride, rows * columns * size, columns * size, size),
    )
    height_BHW: NDArray[np.float32] = np.ndarray(
        (count, label_rows, label_columns),
        "<f4",
        rows_BS.data,
        layout.height_offset if schema.label else 0,
        (stride, label_columns * 4, 4),
    )
    return image_BCHW, height_BHW
