"""XXH3 checksums (64 bits) of stored objects and of chips' pixels, which are the same in every format.

Measured on 54 MB, one core: 37 GB/s, without Python's lock; CRC-32C had 14 to 17 GB/s. A chip of 48 KB takes
about 1.5 microseconds.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray


def checksum(data: bytes | NDArray[np.uint8]) -> int:
    """Compute the checksum of contiguous bytes."""
    return xxhash.xxh3_64_intdigest(data.data if isinstance(data, np.ndarray) else data)


def hexadecimal(data: bytes | NDArray[np.uint8]) -> str:
    """Compute the checksum as sixteen hexadecimal digits, for JSON, whose numbers may not hold 64 bits."""
    return f"{checksum(data):016x}"


def hexadecimal_of_pieces(pieces: Iterable[bytes | memoryview]) -> tuple[str, int]:
    """Compute `hexadecimal` of bytes that come piece by piece, and count them."""
    digest, count = xxhash.xxh3_64(), 0
    for piece in pieces:
        digest.update(piece)
        count += len(piece)
    return digest.hexdigest(), count


def chip_checksum(image_CHW: NDArray[Any], height_HW: NDArray[np.float32]) -> int:
    """Compute the checksum of the image's bytes, then the height's, both little-endian in C order."""
    both = xxhash.xxh3_64(np.ascontiguousarray(image_CHW, image_CHW.dtype.newbyteorder("<")).data)
    both.update(np.ascontiguousarray(height_HW, "<f4").data)
    return both.intdigest()


def content_checksum(rows: Sequence[dict[str, Any]]) -> str:
    """Compute the checksum of a shard's content from its index rows: keys, checksums and their order."""
    keys = "\n".join(row["key"] for row in rows)
    return hexadecimal(keys.encode() + np.array([row["xxh3"] for row in rows], "<u8").tobytes())
