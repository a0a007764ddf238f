"""One range of addresses with a place for every shard, so that a batch from many shards is a single gather.

Reserved addresses cost no memory. A shard's file is mapped to its place, or fetched or decoded bytes are
written there; the place is emptied after the shard's last chip. Every row of every shard begins at a
multiple of 512 bytes, so `blocks_BS[block_numbers]` copies any rows of any shards into one batch buffer.

    arena = Arena(places=428, place_bytes=52_737_024, span=51_200)
    arena.map_file(7, path)                  # or arena.fill(8)[...] = ...
    batch_BS = arena.gather(arena.first_block(7) + np.array([0, 3]) * blocks_per_row)
    arena.empty(7)
"""

import ctypes
import mmap
import os
import sys
import weakref
from collections.abc import Callable
from ctypes import c_int, c_longlong, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.tar import BLOCK

_PLACE_BYTES = 2**21
"""Unit of a place's size: the size of a large page."""
_FIXED = 0x10
_NO_ACCESS = 0
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0
_POPULATE = 0x8000 if sys.platform == "linux" else 0
"""Flag to fill page tables at once (Linux). It saves 12,800 faults a shard and needs no Python lock."""
_MAY_MOVE, _FIXED_TARGET = 1, 2
_HUGE_PAGES: int | None = getattr(mmap, "MADV_HUGEPAGE", None)
_FAILED = c_void_p(-1).value

Memory = Callable[[int, int], NDArray[np.uint8]]
"""memory(rows, span): return memory for that many bytes, (rows, span), contiguous."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = c_void_p
_libc.mmap.argtypes = (c_void_p, c_size_t, c_int, c_int, c_int, c_longlong)
_libc.munmap.argtypes = (c_void_p, c_size_t)
_libc.madvise.argtypes = (c_void_p, c_size_t, c_int)
if sys.platform == "linux":
    _libc.mremap.restype = c_void_p
    _libc.mremap.argtypes = (c_void_p, c_size_t, c_size_t, c_int, c_void_p)


def _mmap(address: int | None, size: int, protection: int, flags: int, file: int = -1) -> int:
    return _mapped(_libc.mmap(address, size, protection, flags, file, 0), size)


def _mapped(address: Any, size: int) -> int:
    """Return `address`, or raise if the system call that gave it failed."""
    if address == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, f"{os.strerror(error)} (mapping {size:,} bytes)")
    return int(address)


def _bytes_at(address: int, size: int) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = np.frombuffer(
        memoryview((ctypes.c_uint8 * size).from_address(address)), np.uint8
    )
    return found


def _move(address: int, target: int, size: int, file: int) -> None:
    """Move the mapping of `file` at `address` to `target`, and replace what is there."""
    if sys.platform == "linux":  # with its page tables
        _mapped(_libc.mremap(address, size, size, _MAY_MOVE | _FIXED_TARGET, target), size)
    else:
        _mmap(target, size, mmap.PROT_READ, mmap.MAP_PRIVATE | _FIXED, file)
        _libc.munmap(address, size)


class Arena:
    """Places for shards in one range of addresses. Threads may use different places at the same time."""

    def __init__(self, places: int, place_bytes: int, span: int) -> None:
        """Reserve addresses.

        Args:
            places: number of shards.
            place_bytes: bytes of the largest shard.
            span: bytes to copy from each row, a multiple of 512.
        """
        self.place_bytes = -(-max(place_bytes, span, 1) // _PLACE_BYTES) * _PLACE_BYTES
        self._size = max(places, 1) * self.place_bytes
        self._start = _mmap(None, self._size, _NO_ACCESS, self._reserved)
        # Not at exit: a thread may still be reading, and the system frees everything then anyway.
        weakref.finalize(self, _libc.munmap, self._start, self._size).atexit = False
        # An empty place must never be touched: the system would kill the process.
        self._filled = np.zeros(max(places, 1), bool)
        self._bytes = _bytes_at(self._start, self._size)
        starts = (self._size - span) // BLOCK + 1
        self._blocks_BS = np.lib.stride_tricks.as_strided(
            self._bytes, (starts, span), (BLOCK, 1), writeable=False
        )

    _reserved = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE

    def first_block(self, place: int | NDArray[np.int64]) -> int | NDArray[np.int64]:
        """Return the number of the block at which `place` begins."""
        return place * (self.place_bytes // BLOCK)

    def holds(self, place: int) -> bool:
        """Tell whether `place` is filled."""
        return bool(self._filled[place])

    def map_file(
        self, place: int, path: Path, check: Callable[[NDArray[np.uint8]], Any] | None = None
    ) -> NDArray[np.uint8]:
        """Map the file at `path` to `place`, and return its bytes, read-only.

        `check` gets the bytes first; if it raises, the place stays as it was. A mapped file must not be
        shortened, because the system kills a process that touches the missing part. Replacing it is harmless.

        Raises:
            OSError: the file cannot be mapped, or is larger than the place.
        """
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= self.place_bytes:
                raise OSError(f"{size:,} bytes do not fit")
            elsewhere = _mmap(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE | _POPULATE, file.fileno())
            try:
                if check is not None:
                    check(_bytes_at(elsewhere, size))
            except BaseException:
                _libc.munmap(elsewhere, size)
                raise
            _move(elsewhere, self._address(place), size, file.fileno())
        self._filled[place] = True
        bytes_of_place = self._bytes[place * self.place_bytes :][:size]
        bytes_of_place.flags.writeable = False
        return bytes_of_place

    def fill(self, place: int, dense: bool = False) -> NDArray[np.uint8]:
        """Return writable memory at `place`, all zeros; untouched pages cost nothing.

        `dense` says that all of it will be written, row by row, so that large pages save time.
        """
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE | _FIXED
        _mmap(self._address(place), self.place_bytes, mmap.PROT_READ | mmap.PROT_WRITE, flags)
        if dense and _HUGE_PAGES is not None:
            _libc.madvise(
                self._address(place), self.place_bytes, _HUGE_PAGES
            )  # only advice, which may be refused
        self._filled[place] = True
        return self._bytes[place * self.place_bytes :][: self.place_bytes]

    def empty(self, place: int) -> None:
        """Give the memory of `place` back."""
        self._filled[place] = False
        _mmap(self._address(place), self.place_bytes, _NO_ACCESS, self._reserved | _FIXED)

    def gather(self, block_numbers: NDArray[np.int64], memory: Memory | None = None) -> NDArray[np.uint8]:
        """Copy the `span` bytes that begin at each of these blocks, in filled places, to (rows, span).

        They go to the memory that `memory` gives; default: new memory.
        """
        assert self._filled[block_numbers // (self.place_bytes // BLOCK)].all(), (
            "an empty place was asked for"
        )
        if memory is None:
            return self._blocks_BS[block_numbers]
        count, span = len(block_numbers), self._blocks_BS.shape[1]
        rows_BS = memory(count, span)
        # Block by block, since numpy takes into given memory from contiguous rows alone: overlapping ones it
        # would copy first. Without mode="clip" it would go through memory of its own.
        blocks_BK = block_numbers[:, None] + np.arange(span // BLOCK)
        into_BKX = rows_BS.reshape(count, -1, BLOCK)
        np.take(self._bytes.reshape(-1, BLOCK), blocks_BK, axis=0, out=into_BKX, mode="clip")
        return rows_BS

    def _address(self, place: int) -> int:
        return self._start + place * self.place_bytes
