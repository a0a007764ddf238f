"""One shard of a split as Zarr v3: a group of two arrays, whose shards hold chunks of whole chips.

SPLIT.zarr/zarr.json              bands, nodata, pixel size, label and its unit
SPLIT.zarr/image/c/NUMBER/0/0/0   shard NUMBER of image (chip, band, row, column), as stored
SPLIT.zarr/height/c/NUMBER/0/0    shard NUMBER of height (chip, row, column), float32 metres

zarr-python writes everything, and any reader of Zarr v3 can read it. An object holds its compressed chunks,
each with its crc32c, then an index of (offset, bytes) pairs with a crc32c: every byte that matters is
checked. The same chips give the same bytes. We decode ourselves, without zarr's tasks and event loop.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import google_crc32c
import numcodecs
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from shards.errors import DatasetError
from shards.format.schema import Chip, Schema
from shards.format.shard_cut import MAX_CHUNK_CHIPS

DIMENSIONS: Final = {"image": ("chip", "band", "row", "column"), "height": ("chip", "row", "column")}
CHECKSUM: Final = 4
"""Length in bytes of the crc32c at the end of a chunk and of the index."""
MISSING: Final = 2**64 - 1
"""Offset and size of a chunk that is not stored."""

# Share of the raw bytes, then chips decoded and encoded per second. Measured on 960 chips of
# ingest.synthetic.landscape (noisy int16, two thirds of the heights 0), 16 to a chunk, on one core of an AMD
# EPYC:
#                              image                      height
#   zstd 1                     0.76   36,000   19,000     0.36   76,000   18,000
#   zstd 5                     0.74   31,000    3,500     0.36   83,000    7,000
#   blosc zstd 3, bitshuffle   0.62   57,000   10,000     0.53   47,000    6,000
#   blosc zstd 5, shuffle      0.60   55,000    1,800     0.41   62,000    2,500
#   blosc lz4 5, bitshuffle    0.64   86,000   13,000     0.71  107,000   31,000
# Shuffling gathers the noise of an image in few planes, but breaks up the zeros of heights.
BLOSC_LEVEL: Final = 3
ZSTD_LEVEL: Final = 1
DECODERS: Final = {"image": numcodecs.Blosc(), "height": numcodecs.Zstd()}


def chunk_chips(shard_chips: int) -> int:
    """Return the chips in a chunk: Zarr wants a divisor of `shard_chips`."""
    return max(chips for chips in range(1, MAX_CHUNK_CHIPS + 1) if shard_chips % chips == 0)


def object_name(array: str, number: int) -> str:
    """Return the name in the group of shard `number` of `array`, e.g. image/c/3/0/0/0."""
    return "/".join((array, "c", str(number), *("0" for _ in DIMENSIONS[array][1:])))


def array_names(schema: Schema) -> tuple[str, ...]:
    """Return the names of a group's arrays: image and, if the schema has a label, height."""
    return ("image", "height") if schema.label else ("image",)


def metadata(schema: Schema, samples: int, shard_chips: int) -> dict[str, bytes]:
    """Make the metadata files, by name, that turn the shards of `samples` chips into a Zarr group."""
    files: dict[str, Buffer] = {}
    _create(files, schema, samples, shard_chips)
    return {name: content.to_bytes() for name, content in files.items()}


def encode(chips: Sequence[Chip], schema: Schema, shard_chips: int) -> dict[str, bytes]:
    """Encode `chips`, in their order, as one shard: an object for each array.

    A shard has `shard_chips` chips; the last one of a split may have fewer.
    """
    if not 0 < len(chips) <= shard_chips:
        raise ValueError(f"{len(chips)} chips for a shard of {shard_chips}")
    files: dict[str, Buffer] = {}
    arrays = _create(files, schema, len(chips), shard_chips)
    arrays["image"][...] = np.stack([chip.image_CHW for chip in chips])
    if schema.label:
        arrays["height"][...] = np.stack([chip.height_HW for chip in chips])
    return {array: files[object_name(array, 0)].to_bytes() for array in arrays}


def decode(
    objects: Mapping[str, NDArray[np.uint8]],
    samples: int,
    shard_chips: int,
    schema: Schema,
    image_BCHW: NDArray[Any],
    height_BHW: NDArray[np.float32],
) -> None:
    """Fill image (samples, bands, rows, columns) and height (samples, rows, columns) from a shard's objects.

    Other threads run while a chunk is decompressed. After an error the contents of the arrays are undefined.

    Raises:
        DatasetError: the bytes cannot be such a shard.
    """
    for array, out in zip(array_names(schema), (image_BCHW, height_BHW), strict=False):
        _decode_array(array, objects[array], samples, shard_chips, _layout(array, schema), out)


def _layout(array: str, schema: Schema) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return pixel type and shape of one chip."""
    if array == "image":
        return np.dtype(schema.dtype).newbyteorder("<"), schema.image_shape
    return np.dtype("<f4"), schema.label_shape


def _create(
    files: dict[str, Buffer], schema: Schema, samples: int, shard_chips: int
) -> dict[str, zarr.Array[Any]]:
    """Create the arrays, empty, in a group that keeps its files in `files`.

    Write through these objects: an array reopened from the group would not know of `write_empty_chunks`.
    """
    attributes = {
        "bands": list(schema.bands),
        "nodata": schema.nodata,
        "pixel_size": schema.pixel_size,
        "label": schema.label,
        "label_unit": schema.label_unit,
    }
    recorded = schema.to_json()
    for younger in ("class_names", "pixel_height", "pixel_unit", "pixel_metres"):
        if younger in recorded:
            attributes[younger] = recorded[younger]
    group = zarr.create_group(MemoryStore(files), attributes=attributes)
    arrays = {}
    for array in array_names(schema):
        dtype, shape = _layout(array, schema)
        blosc = BloscCodec(cname="zstd", clevel=BLOSC_LEVEL, shuffle="bitshuffle", typesize=dtype.itemsize)
        compressor = blosc if array == "image" else ZstdCodec(level=ZSTD_LEVEL)
        arrays[array] = group.create_array(
            array,
            shape=(samples, *shape),
            chunks=(chunk_chips(shard_chips), *shape),
            shards=(shard_chips, *shape),
            dtype=dtype,
            filters=None,
            serializer=BytesCodec(endian="little"),
            compressors=(compressor, Crc32cCodec()),
            fill_value=0 if array == "image" else np.nan,
            dimension_names=DIMENSIONS[array],
            # A chunk of zeros is stored as well, so that a missing chunk is always damage.
            config={"write_empty_chunks": True},
        )
    return arrays


def _decode_array(
    array: str,
    data: NDArray[np.uint8],
    samples: int,
    shard_chips: int,
    layout: tuple[np.dtype[Any], tuple[int, ...]],
    out: NDArray[Any],
) -> None:
    dtype, shape = layout
    count = chunk_chips(shard_chips)
    chunk_nbytes = count * int(np.prod(shape)) * dtype.itemsize
    index = _index(array, data, shard_chips // count)
    if samples > shard_chips:
        raise DatasetError(f"{array}: {samples} chips are more than a shard of {shard_chips} holds")
    for number, first in enumerate(range(0, samples, count)):
        offset, nbytes = index[number]
        where = f"{array}, chunk {number}"
        if offset == nbytes == MISSING:
            raise DatasetError(f"{where} is missing")
        if nbytes < CHECKSUM or offset + nbytes > data.size:
            raise DatasetError(
                f"{where}: {nbytes} bytes at {offset} are not within the {data.size} bytes of the object"
            )
        stored = _checked(where, data[offset : offset + nbytes])
        unpacked = _UNPACKED[array](stored)
        if unpacked != chunk_nbytes:  # said before memory is taken; the codecs believe it
            raise DatasetError(f"{where}: {unpacked} bytes where {count} chips have {chunk_nbytes}")
        try:
            # A new buffer each time is as fast as a kept one, and the codec itself sets its size.
            chunk = np.frombuffer(DECODERS[array].decode(stored), np.uint8)
        except (RuntimeError, ValueError) as error:
            raise DatasetError(f"{where}: {error}") from error
        if chunk.size != chunk_nbytes:
            raise DatasetError(f"{where}: {chunk.size} bytes where {count} chips have {chunk_nbytes}")
        last = min(first + count, samples)
        out[first:last] = chunk.view(dtype).reshape(count, *shape)[: last - first]


def _unpacked_blosc(data: NDArray[np.uint8]) -> int:
    """Return the size that a Blosc chunk's header says: bytes 4 to 8 (c-blosc, README_CHUNK_FORMAT)."""
    return int.from_bytes(data[4:8].tobytes(), "little") if data.size >= 16 else -1


def _unpacked_zstd(data: NDArray[np.uint8]) -> int:
    """Return the size that a Zstandard frame's header says, -1 without one (RFC 8878, 3.1.1)."""
    head = data[:18].tobytes()
    if head[:4] != b"\x28\xb5\x2f\xfd" or len(head) < 6:
        return -1
    flags = head[4]
    is_single = bool(flags & 0x20)
    size = (1 if is_single else 0, 2, 4, 8)[flags >> 6]
    start = 5 + (not is_single) + (0, 1, 2, 4)[flags & 3]
    if not size or len(head) < start + size:
        return -1
    return int.from_bytes(head[start : start + size], "little") + (256 if size == 2 else 0)


_UNPACKED: Final = {"image": _unpacked_blosc, "height": _unpacked_zstd}


def _index(array: str, data: NDArray[np.uint8], chunks: int) -> list[list[int]]:
    """Read (offset, bytes) of each chunk from the end of the object."""
    size = 16 * chunks + CHECKSUM
    if data.size < size:
        raise DatasetError(f"{array}: {data.size} bytes are too few for an index of {chunks} chunks")
    pairs: list[list[int]] = _checked(f"{array}, index", data[-size:]).view("<u8").reshape(-1, 2).tolist()
    return pairs


def _checked(where: str, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Check the crc32c at the end of `data`, and return the bytes before it."""
    content, stored = data[:-CHECKSUM], int.from_bytes(data[-CHECKSUM:].tobytes(), "little")
    if google_crc32c.value(content) != stored:
        raise DatasetError(f"{where}: the checksum does not match the bytes")
    return content
