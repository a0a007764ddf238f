"""The bytes of an .npy file as an array, without a copy and never unpickled."""

import io
import math
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.check import Rejected


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
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read_header(file)
        if dtype.hasobject:
            raise Rejected("unreadable", f"{where} is a pickled object, which is never loaded")
        # A view of the bytes: a header that promises more than there is cannot make us allocate it.
        values = np.frombuffer(data, dtype, math.prod(shape), file.tell())
        return Npy(values.reshape(shape, order="F" if fortran_order else "C"), file.tell())
    except (ValueError, KeyError, EOFError, OverflowError, TokenError) as error:
        raise Rejected("unreadable", f"{where} is truncated or not .npy") from error
