"""A cache for pieces of remote objects, on a local disk that the processes of a node share.

An entry is one file, whole or absent: the content, then its length, its XXH3 and a magic word. It is written
to a temporary file, which then takes the entry's name. One thread of one process fetches an entry; the others
wait and then read it. To do so they lock a byte of a common lock file. A lock ends with its process, so a
killed process keeps nobody waiting. Where the file system has no locks, every process fetches. Nothing is
synced: the checksum detects what a power cut damaged, and it is fetched again.

    cache = DiskCache("/scratch/treeline", limit_bytes=200 * 10**9)
    cache.fetch(f"{url} {checksum} {start}-{end}", into=buffer, get=lambda into: read_into(url, start, into))
"""

import errno
import fcntl
import hashlib
import io
import os
import re
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.said import say
from shards.storage.checksum import checksum
from shards.storage.objects import is_local, local_path

MAGIC = b"treeline-cache-1"
FOOTER = struct.Struct("<QQ16s")
"""End of an entry: bytes of content, their XXH3, MAGIC."""
ABANDONED_SECONDS = 3600
"""Age at which a temporary file is removed: writing one takes moments."""

_ENTRY = re.compile(r"treeline-[0-9a-f]{64}\.cached")
_TEMPORARY = re.compile(r"treeline-[0-9a-f]{64}(\.[0-9a-f]{16})?\.part")
_LOCK = "treeline-cache.lock"
_FOLDER = 0
"""Byte of the lock file that locks the folder; the bytes of entries follow."""
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags against anything that others put under our names: follow no link, wait for no pipe."""

_held: set[int] = set()


def _let_go() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)  # otherwise a child would hold its parent's locks


class DiskCache:
    """A folder of entries. Threads may share one; each process makes its own for the same folder."""

    def __init__(self, folder: str, limit_bytes: int) -> None:
        """Open or make the cache at `folder`.

        Args:
            folder: local path, made if absent. Foreign files in it are left alone.
            limit_bytes: most bytes of disk for the entries of all processes together.

        Raises:
            InputError: the folder cannot be made or written, or the limit is not above 0.
        """
        if limit_bytes <= 0:
            raise InputError(
                f"{folder}: a cache of {limit_bytes:,} bytes keeps nothing; give a limit above 0"
            )
        if not is_local(folder):
            raise InputError(f"{folder}: not a folder of this machine; give a local path for the cache")
        self._folder = local_path(folder).absolute()
        self._limit_bytes = limit_bytes
        self._counting = threading.Lock()
        self._known: set[tuple[str, int, int]] = set()
        self.hits = 0
        self.misses = 0
        """Number of calls of `get`."""
        self.evicted = 0
        self.not_kept = 0
        """Number of misses that were not stored: no folder, no disk space, or larger than the limit."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
            with self._lock(_FOLDER):
                self._make_room(0)
        except OSError as error:
            why = error.strerror or error
            raise InputError(f"{folder}: cannot hold a cache ({why}); choose another folder") from error

    def fetch(self, name: str, into: NDArray[np.uint8], get: Callable[[NDArray[np.uint8]], None]) -> bool:
        """Fill `into` from the cache, or else with `get(into)`, and store the result if possible.

        Args:
            name: name of content that never changes, for example its URL, checksum and range.
            into: contiguous, exactly as long as the content.
            get: fills its argument. Its errors are raised here, and then nothing is stored.

        Returns:
            Whether the bytes came from the cache.
        """
        assert into.ndim == 1
        assert into.dtype == np.uint8
        assert into.flags.carray, "not contiguous, or read-only"
        entry = self._entry(name)
        if not _read(entry, into):
            fits = into.size + FOOTER.size <= self._limit_bytes
            with self._lock(1 + int(entry.name[9:24], 16)) if fits else nullcontext():
                if not (fits and _read(entry, into)):
                    self._fetch_and_store(entry, into, get, fits)
                    return False
        with self._counting:
            self.hits += 1
        return True

    def _fetch_and_store(
        self, entry: Path, into: NDArray[np.uint8], get: Callable[[NDArray[np.uint8]], None], fits: bool
    ) -> None:
        with self._counting:
            self.misses += 1
        get(into)
        try:
            if not fits:
                raise OSError(errno.EFBIG, f"its limit is {self._limit_bytes:,} bytes")
            self._store(entry, into)
        except OSError as error:
            self._count_not_kept(into.size, error)

    def discard(self, name: str) -> None:
        """Remove the entry, if there is one, because its content is wrong."""
        _remove(self._entry(name))

    def _entry(self, name: str) -> Path:
        return self._folder / f"treeline-{hashlib.sha256(name.encode()).hexdigest()}.cached"

    def _count_not_kept(self, size: int, error: OSError) -> None:
        with self._counting:
            self.not_kept += 1
            first = self.not_kept == 1
        if first:
            what = f"{size:,} bytes were not kept ({error.strerror or error})"
            say(f"cache {self._folder}: {what}; reading continues")

    @contextmanager
    def _lock(self, byte: int) -> Iterator[None]:
        """Hold a byte of the lock file, or nothing where locking is not possible."""
        file = -1
        try:
            with suppress(OSError, AttributeError):  # systems other than Linux lack F_OFD_SETLKW
                file = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | _SAFELY, 0o666)
                _held.add(file)
                # The lock belongs to the open file, not to the process as with F_SETLKW, so that threads
                # wait for each other too.
                flock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
                fcntl.fcntl(file, fcntl.F_OFD_SETLKW, flock)
            yield
        finally:
            if file in _held:
                _held.discard(file)
                os.close(file)

    def _store(self, entry: Path, content: NDArray[np.uint8]) -> None:
        temporary = entry.with_suffix(f".{os.urandom(8).hex()}.part")
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFELY, 0o666)
        try:
            _write(file, content)
            with self._lock(_FOLDER):
                self._make_room(content.size + FOOTER.size, entry.name)
                if os.path.lexists(entry) and not stat.S_ISREG(entry.lstat().st_mode):
                    raise OSError(errno.EEXIST, f"{entry.name} is a foreign file")
                os.replace(temporary, entry)
        finally:
            with suppress(OSError):  # published or gone
                os.unlink(temporary)
            os.close(file)

    def _make_room(self, size: int, replaced: str = "") -> None:
        """Remove least recently used entries until `size` bytes fit, and leftovers of killed processes."""
        found = []
        for path in list(self._folder.iterdir()):
            with suppress(OSError):  # another process was faster, or the file may not be removed
                status = path.lstat()
                if not stat.S_ISREG(status.st_mode):
                    continue
                if _ENTRY.fullmatch(path.name) and path.name != replaced:
                    found.append((status.st_mtime_ns, path.name, status.st_ino, status.st_size))
                elif _TEMPORARY.fullmatch(path.name) and status.st_mtime < time.time() - ABANDONED_SECONDS:
                    path.unlink()
        room = self._limit_bytes - size
        if sum(found_size for *_, found_size in found) <= room:
            return
        # Only now is it worth opening each file, once, to leave out foreign files with names like ours.
        found = [file for file in found if file[1:] in self._known or _is_ours(self._folder / file[1])]
        self._known = {file[1:] for file in found}
        total = sum(found_size for *_, found_size in found)
        for _, name, _, found_size in sorted(found):
            if total <= room:
                break
            if _remove(self._folder / name):
                with self._counting:
                    self.evicted += 1
            elif os.path.lexists(self._folder / name):
                continue
            total -= found_size
        if total > room:
            raise OSError(errno.EPERM, "entries that cannot be removed fill it")


def _is_ours(path: Path) -> bool:
    """Tell whether a file ends as every entry does."""
    try:
        with _open(path) as file:
            file.seek(-len(MAGIC), os.SEEK_END)
            return file.read() == MAGIC
    except OSError:
        return False


def _open(path: Path) -> io.FileIO:
    return open(path, "rb", buffering=0, opener=lambda path, flags: os.open(path, flags | _SAFELY))


def _remove(entry: Path) -> bool:
    """Remove an entry; return False if it is not ours, is gone already or cannot be removed."""
    if not _is_ours(entry):
        return False
    try:
        entry.unlink()
    except OSError:
        return False
    return True


def _read(entry: Path, into: NDArray[np.uint8]) -> bool:
    """Fill `into` from a sound entry and mark that as used; if False is returned, `into` is undefined."""
    try:
        with _open(entry) as file:
            if os.fstat(file.fileno()).st_size != into.size + FOOTER.size:
                return False
            left = into.data
            while left and (count := file.readinto(left)):
                left = left[count:]
            if left or file.read() != FOOTER.pack(into.size, checksum(into), MAGIC):
                return False
            with suppress(OSError):  # a read-only disk
                _mark_used(file.fileno())
    except OSError:
        return False
    return True


def _write(file: int, content: NDArray[np.uint8]) -> None:
    footer = FOOTER.pack(content.size, checksum(content), MAGIC)
    for left in (content.data, memoryview(footer)):
        while left:
            left = left[os.write(file, left) :]
    _mark_used(file)


def _mark_used(file: int) -> None:
    now = time.time_ns()  # the kernel's own time stamps are milliseconds apart
    os.utime(file, ns=(now, now))
