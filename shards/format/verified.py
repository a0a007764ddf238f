"""What `treeline verify` finds in anything but a dataset, and how a stored file is compared."""

from collections.abc import Iterator

from shards.errors import DatasetError, InputError
from shards.format.manifest import StoredObject
from shards.storage.checksum import hexadecimal_of_pieces
from shards.storage.objects import join, read_pieces

Found = tuple[list[str], list[str]]
"""Lines on what is wrong, and lines on what cannot be compared."""
ERRORS = (InputError, DatasetError)
"""Errors by which a reader says that something is wrong."""


def compared(url: str, stored: StoredObject) -> Iterator[str]:
    """Read a file piece by piece; yield a line if it is not what was written."""
    file = join(url, stored.name)
    try:
        digest, nbytes = hexadecimal_of_pieces(read_pieces(file))
    except ERRORS as error:
        yield str(error)
        return
    if nbytes != stored.nbytes:
        yield f"{file}: {nbytes:,} bytes instead of {stored.nbytes:,}; copy it again"
    elif digest != stored.xxh3:
        yield f"{file}: its {nbytes:,} bytes are not those that were written; copy it again"
