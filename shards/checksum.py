"""XXH3 (64 bits): of a stored object, and of a chip's pixels whatever holds them.

Measured on 54 MB, one core: 37 GB/s, and Python's lock is free meanwhile; CRC-32C had 14 to 17 GB/s. A chip
of 48 KB costs some 1.5 microseconds.
"""

from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray


def checksum(data: bytes | NDArray[np.uint8]) -> int:
    """Of contiguous bytes."""
    return xxhash.xxh3_64_intdigest(data.data if isinstance(data, np.ndarray) else data)


def chip_checksum(image_CHW: NDArray[Any], height_HW: NDArray[np.float32]) -> int:
    """Of the image's bytes and then the height's, both little-endian in C order: the same in every format."""
    both = xxhash.xxh3_64(np.ascontiguousarray(image_CHW, image_CHW.dtype.newbyteorder("<")).data)
    both.update(np.ascontiguousarray(height_HW, "<f4").data)
    return both.intdigest()


def content_checksum(keys: list[str], chip_checksums: NDArray[np.uint64]) -> int:
    """Of a shard's content: its keys, its chips' checksums, and their order."""
    return checksum("\n".join(keys).encode() + chip_checksums.astype("<u8").tobytes())
