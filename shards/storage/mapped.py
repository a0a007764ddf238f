"""Local files mapped into memory: bytes are read from the disk when they are used.

The system drops pages when memory is short, and `release` drops those that are no longer needed. What is
written to pages stays in this process and never reaches the file.
"""

import mmap
import os
from collections.abc import Iterator
from typing import BinaryIO

PIECE_BYTES = 16 * 2**20
"""Bytes of a file that are read at a time."""
_DROP = getattr(mmap, "MADV_DONTNEED", None)
"""Advice that drops pages; None on systems without it, which keep them."""


class MappedFile(mmap.mmap):
    """A whole file in memory."""

    def __new__(cls, file: BinaryIO) -> "MappedFile":
        """Map an open file, which may be closed afterwards.

        Raises:
            ValueError: the file is empty.
        """
        if not os.fstat(file.fileno()).st_size:
            raise ValueError("is empty")
        return super().__new__(cls, file.fileno(), 0, access=mmap.ACCESS_COPY)

    def release(self, start: int, end: int) -> None:
        """Drop the pages between two bytes; what was written to them is lost.

        Pages at the edges stay, since others may use them.
        """
        start, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if _DROP is not None and end > start:
            self.madvise(_DROP, start, end - start)

    def pieces(self) -> Iterator[memoryview]:
        """Read the file from start to end in little memory, before anything is written to it."""
        with memoryview(self) as whole:
            for start in range(0, len(whole), PIECE_BYTES):
                yield whole[start : start + PIECE_BYTES]
                self.release(start, start + PIECE_BYTES)
