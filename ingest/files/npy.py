"""The bytes of an .npy file as an array, without a copy and never unpickled."""

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.chips.check import UNREADABLE, Rejected


@dataclass(frozen=True)
class Npy:
    """An array, and where its values begin in the file."""

    values: NDArray[Any]
    offset: int


def parse_npy(data: bytes, where: str) -> Npy:
    """The array in `data`, a view of them.

    Raises:
        Rejected: they cannot be read as one.
    """
    try:
        dtype, shape, fortran_order, offset = _header(data[: _header_end(data)])
        if dtype.hasobject:
            raise Rejected(UNREADABLE, f"{where} is a pickled object, which is never loaded")
        # A view of the bytes: a header that promises more than there is cannot make us allocate it.
        values = np.frombuffer(data, dtype, math.prod(shape), offset)
        return Npy(values.reshape(shape, order="F" if fortran_order else "C"), offset)
    except (ValueError, TypeError, KeyError, EOFError, OverflowError, TokenError) as error:
        raise Rejected(UNREADABLE, f"{where} is truncated or not .npy") from error


def _header_end(data: bytes) -> int:
    """Where the header ends, by the two bytes (from version 2 four) that say how long its text is."""
    size = 2 if data[6:7] == b"\x01" else 4
    return 8 + size + int.from_bytes(data[8 : 8 + size], "little")


@lru_cache(maxsize=64)
def _header(start: bytes) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Type, shape, whether columns come first, where values begin; most files of a folder say the same."""
    file = io.BytesIO(start)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran_order, dtype = read_header(file)
    return dtype, shape, fortran_order, file.tell()
