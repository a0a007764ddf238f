"""One command at a time writes into a folder; the second is refused while the first lives.

    with one_writer("s3://bucket/maps"): ...               # the folder
    with one_writer("maps", of="mosaic.tif"): ...          # one file of it

On a disk the file system locks a small file in the folder. The lock goes with the process, however it ends,
so the same command can be run again at once. On S3 there are no locks: see shards.storage.lease.

Only the process that runs the command holds the folder. What works for it does not ask: Ray's workers, the
ranks of a training, processes that read.
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from shards.errors import InputError, one_line
from shards.said import say
from shards.storage.lease import leased, no_lease
from shards.storage.objects import check_writable, is_local, join, local_path, missing_folders

HELD = ".treeline.lock"
"""Name of the file by which a folder is held; no reader of what we write takes it for its own."""
CANNOT_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of a file system without locks, such as an NFS whose server offers none."""
_open = set[int]()
"""Descriptors of the locks that this process holds."""


def one_writer(folder: str, of: str = "") -> AbstractContextManager[None]:
    """Hold `folder`, or only the file `of` in it; it may not exist yet.

    Afterwards nothing of it is left, not even the folder if nothing was written there.

    Raises:
        InputError: another command holds it, or it cannot be written.
    """
    name = f".{of}{HELD}" if of else HELD
    if is_local(folder):
        return _locked(folder, name)
    if no_lease(folder):
        return nullcontext()
    return leased(folder, join(folder, name))


@contextmanager
def _locked(folder: str, name: str) -> Iterator[None]:
    check_writable(folder or ".")
    new_folders = missing_folders(folder or ".")
    path = local_path(folder or ".") / name
    try:
        descriptor = _lock(folder or ".", path)
        try:
            yield
        finally:
            # Before the lock ends, so that nobody removes the file of the next one.
            with suppress(OSError):
                path.unlink()
            if descriptor is not None:
                _open.discard(descriptor)
                os.close(descriptor)
    finally:
        with suppress(OSError):  # not empty; then those above it are needed, too
            for new in new_folders:
                os.rmdir(new)


def _lock(folder: str, path: Path) -> int | None:
    """Lock the file at `path`; return its descriptor, None where the file system has no locks.

    Raises:
        InputError: another process has locked it.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # whoever held it has just removed the folder
            continue
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be locked ({error.strerror}: {path}); remove that file, or choose another "
                "place"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _said(os.pread(descriptor, 1000, 0))
            os.close(descriptor)
            if error.errno in CANNOT_LOCK:
                say(
                    f"note: {folder}: its file system has no locks ({one_line(error)}); run no "
                    "second command that writes here"
                )
                return None
            if not isinstance(error, BlockingIOError):
                raise
            raise InputError(
                f"{folder}: another command writes here ({holder}); wait until it has ended, or choose "
                "another place"
            ) from error
        if _is_at(path, descriptor):
            break
        os.close(descriptor)  # its last holder has removed it
    with suppress(OSError):
        os.fchmod(descriptor, 0o666)  # where it stays after a kill, another user may be the next
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _about(), 0)
    _open.add(descriptor)
    return descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    """Tell whether the open file is still the one at `path`."""
    try:
        there, own = os.stat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)


def _about() -> bytes:
    """Describe this process to those whom it keeps away."""
    since = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    return json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since}).encode()


def _said(about: bytes) -> str:
    """Say who holds a lock."""
    try:
        there = json.loads(about)
        return f"process {there['process']} on {there['host']}, since {there['since']} UTC"
    except (ValueError, KeyError, TypeError):  # it has not written that yet
        return "begun just now"


def _let_go_in_child() -> None:
    """Close the locks in a forked process, which would keep them after this one is killed."""
    while _open:
        os.close(_open.pop())


os.register_at_fork(after_in_child=_let_go_in_child)
