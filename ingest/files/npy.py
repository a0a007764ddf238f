"""A chip's .npy file, which is rejected where it is none; nothing is unpickled."""

from ingest.chips.check import UNREADABLE, Rejected
from shards.format.npy import Npy, parse_npy


def npy_of_chip(data: bytes, where: str) -> Npy:
    """Return the array in `data`, as a view of these bytes.

    Raises:
        Rejected: the bytes are no .npy file, hold more than one array, or are a pickled object.
    """
    try:
        return parse_npy(data)
    except ValueError as error:
        raise Rejected(UNREADABLE, f"{where} {error}") from error
