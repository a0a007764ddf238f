"""Opening regular files only: a pipe would be waited for, and a device never ends."""

import errno
import os
import stat


def regular(path: str, flags: int) -> int:
    """Open a regular file, or a folder, without waiting: an `opener` for Python's open().

    Raises:
        OSError: something else is at `path`.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder, open() itself says so
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor
