"""Reading one of very many objects: an absent or forbidden one differs from failed storage."""

import errno

from shards.errors import InputError
from shards.storage.objects import filesystem_of, is_local, local_name
from shards.storage.regular import read_regular


def read_chip_bytes(url: str, most: int | None = None) -> bytes:
    """Read the object at `url`.

    Args:
        url: its URL.
        most: of a larger object, one byte more than this is read.

    Raises:
        InputError: the object does not exist or may not be read.
        OSError: storage failed, after all tries; nothing is known about the object.
    """
    try:
        if is_local(url):
            return read_regular(local_name(url), most)
        filesystem, path = filesystem_of(url)
        return bytes(filesystem.cat_file(path, most=most))
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"{url}: {error.strerror or error}") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):  # not a valid file name
            raise InputError(f"{url}: {error.strerror}") from error
        raise
