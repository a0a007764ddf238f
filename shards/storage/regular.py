"""Opening regular files only: a pipe would be waited for, and a device never ends."""

import errno
import os
import stat

NOT_REGULAR = "not a regular file"


def regular(path: str, flags: int) -> int:
    """Open a regular file, or a folder, without waiting: an `opener` for Python's open().

    Raises:
        OSError: something else is at `path`.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder, open() itself says so
        os.close(descriptor)
        raise OSError(errno.EINVAL, NOT_REGULAR, path)
    return descriptor


def read_regular(path: str, most: int | None = None) -> bytes:
    """Read a regular file; of one with more than `most` bytes, one byte more than these.

    Python's own open() asks the system twice as often, which counts with half a million small files.

    Raises:
        OSError: there is no such file, or something else is at `path`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            code = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
            raise OSError(code, os.strerror(code) if code == errno.EISDIR else NOT_REGULAR, path)
        left = status.st_size if most is None else min(status.st_size, most + 1)
        data = os.read(descriptor, left)
        if len(data) == left:
            return data
        parts = [data]  # one call reads 2 GB at most
        while parts[-1] and (left := left - len(parts[-1])):
            parts.append(os.read(descriptor, left))
        return b"".join(parts)
    finally:
        os.close(descriptor)
