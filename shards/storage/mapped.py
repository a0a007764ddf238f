"""Local files mapped into memory: bytes are read from the disk when they are used.

Pages that were read are the system's to drop when memory is short, and ours to drop when they are of no more
use. What is written to them stays in this process and never reaches the file.
"""

import mmap
from collections.abc import Iterator
from typing import BinaryIO

PIECE_BYTES = 16 * 2**20
_DROP = getattr(mmap, "MADV_DONTNEED", None)
"""Advice that drops pages; None on systems without it, which keep them."""


class MappedFile(mmap.mmap):
    """A whole file in memory."""

    def __new__(cls, file: BinaryIO) -> "MappedFile":
        """Map an open file, which may be closed then.

        Raises:
            ValueError: the file is empty.
        """
        return super().__new__(cls, file.fileno(), 0, access=mmap.ACCESS_COPY)

    def release(self, start: int, end: int) -> None:
        """Drop the pages that lie between two bytes and were read; written ones go back to what the file has.

        Pages at the edges, which others may use, stay.
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
