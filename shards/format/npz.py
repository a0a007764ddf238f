""".npy and .npz files read header first: type, shape and size are known before memory is taken."""

import io
import math
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError, one_line
from shards.storage.limits import Limit

_HEADER_BYTES = 1 << 16
"""Most bytes of a header that are looked at: those of numpy have some hundred."""


def npz_arrays(data: bytes, where: str, limit: Limit) -> dict[str, NDArray[Any]]:
    """Read all arrays of an .npz file.

    Args:
        data: the file.
        where: its name, for messages.
        limit: on the unpacked bytes of all arrays.

    Raises:
        InputError: it is no .npz file, or holds more than the limit.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # No more than these bytes are unpacked, whatever is packed.
            limit.check(where, sum(entry.file_size for entry in archive.infolist()))
            return {
                entry.filename.removesuffix(".npy"): npy_array(archive.read(entry))
                for entry in archive.infolist()
            }
    except (
        *(zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError),
        *(
            NotImplementedError,
            RuntimeError,
            OverflowError,
        ),  # packed or locked in a way that zipfile does not know
    ) as error:
        raise InputError(
            f"{where}: is no whole .npz file ({one_line(error)[:200]}); copy it again"
        ) from error


def npy_array(data: bytes) -> NDArray[Any]:
    """Return the array of an .npy file, as a view of its bytes.

    Raises:
        ValueError: the bytes are something else, or more or fewer than the header says.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of .npy")
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    try:
        shape, fortran_order, dtype = read_header(file, max_header_size=_HEADER_BYTES)
    except (SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise ValueError(f"header of .npy: {error}") from error
    nbytes = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or nbytes != len(data) - file.tell():
        raise ValueError(f"header of .npy says {dtype} {shape}, but {len(data) - file.tell():,} bytes follow")
    values = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return values.reshape(shape, order="F" if fortran_order else "C")
