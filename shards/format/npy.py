"""Parsing of .npy files, without a copy; nothing is unpickled."""

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Npy:
    """An array in a file."""

    values: NDArray[Any]
    offset: int
    """Byte of the file at which the values begin."""


def parse_npy(data: bytes) -> Npy:
    """Return the array in `data`, as a view of these bytes.

    Raises:
        ValueError: the bytes are no .npy file, hold more than one array, or are a pickled object; its text
            goes on after the file's name: "is truncated or not .npy".
    """
    try:
        dtype, shape, fortran_order, offset = _header(data[: _header_end(data)])
        if dtype.hasobject:
            raise _Unusable("is a pickled object, which is never loaded")
        # A view: a header that promises more bytes than there are cannot make us allocate them.
        values = np.frombuffer(data, dtype, math.prod(shape), offset)
        if more := len(data) - offset - values.nbytes:  # np.save appends where a file is open
            raise _Unusable(f"has {more:,} bytes after its array; save one array in a file")
        return Npy(values.reshape(shape, order="F" if fortran_order else "C"), offset)
    except _Unusable:
        raise
    except _ERRORS as error:
        raise _Unusable("is truncated or not .npy") from error


class _Unusable(ValueError):
    """What is wrong, in words for users."""


_ERRORS = (
    *(ValueError, TypeError, KeyError, EOFError, OverflowError),
    *(TokenError, SyntaxError, RecursionError, MemoryError),  # of a header's text, which Python parses
)


def _header_end(data: bytes) -> int:
    """Find the end of the header from the length of its text, stored in two bytes (four from version 2)."""
    size = 2 if data[6:7] == b"\x01" else 4
    return 8 + size + int.from_bytes(data[8 : 8 + size], "little")


@lru_cache(maxsize=64)
def _header(start: bytes) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Parse a header: type, shape, whether in Fortran order, first byte of the values.

    Cached, as most files of a folder have the same header.
    """
    file = io.BytesIO(start)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran_order, dtype = read_header(file)
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {shape}")
    return dtype, shape, fortran_order, file.tell()
