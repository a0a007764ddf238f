""".npz files read sizes first: how much they hold is known before memory is taken."""

import io
import zipfile
import zlib
from typing import Any

from numpy.typing import NDArray

from shards.errors import InputError, one_line
from shards.format.npy import parse_npy
from shards.storage.limits import Limit


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
                entry.filename.removesuffix(".npy"): parse_npy(archive.read(entry)).values
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
