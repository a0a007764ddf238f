"""CRC-32C (Castagnoli): of a stored object, and of a chip's pixels whatever holds them.

About 15 GB a second with the processor's own instruction; a chip of 48 KB costs some 4 microseconds.
"""

from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray


def checksum(data: bytes | NDArray[np.uint8]) -> int:
    """Of contiguous bytes."""
    return int(google_crc32c.value(data))


def chip_checksum(image_CHW: NDArray[Any], height_HW: NDArray[np.float32]) -> int:
    """Of the image's bytes and then the height's, both little-endian in C order: the same in every format."""
    image = np.ascontiguousarray(image_CHW, image_CHW.dtype.newbyteorder("<"))
    height = np.ascontiguousarray(height_HW, "<f4")
    return int(google_crc32c.extend(google_crc32c.value(image.view(np.uint8)), height.view(np.uint8)))


def content_checksum(keys: list[str], chip_checksums: NDArray[np.uint32]) -> int:
    """Of a shard's content: its keys, its chips' checksums, and their order."""
    return checksum("\n".join(keys).encode() + chip_checksums.astype("<u4").tobytes())
