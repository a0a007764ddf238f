"""Reading, listing and publishing of objects by URL, local or remote.

Every object appears whole under its final name or not at all. Credentials, region and endpoint come from the
standard environment and profile of each store (for S3: AWS_*), never from Treeline's configuration.

    publish("s3://bucket/set/dataset.json", data)
    with staged("maps/scene.tif") as path: ...     # a local path; published if the block succeeds
"""

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

import shards.storage.s3  # noqa: F401 - makes fsspec use it for s3://
from shards.addresses import check_address
from shards.errors import InputError
from shards.storage.mapped import PIECE_BYTES, MappedFile
from shards.storage.regular import regular

Bytes = bytes | bytearray | memoryview

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk, a used-up quota, and a file that is larger than the system allows."""
_UNFINISHED = re.compile(r"\.treeline-[0-9a-f]{16}-(.+)")
"""Names of files while they are being written."""


def join(url: str, *parts: str) -> str:
    """Append `parts` to `url`; an empty `url` is the present folder."""
    if not url:
        return "/".join(parts)
    return "/".join([url.rstrip("/"), *parts])


def name_of(url: str) -> str:
    """Return the last part of `url`: the file's name."""
    return url.rstrip("/").rsplit("/", 1)[-1]


def stem_of(url: str) -> str:
    """Return the file's name without its last ending."""
    return name_of(url).rsplit(".", 1)[0]


def is_local(url: str) -> bool:
    """Tell whether `url` names a place on this machine's file systems."""
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    """Return the path that a local `url` names."""
    return Path(local_name(url))


def local_name(url: str) -> str:
    """Return the same as a string, without the work that a Path costs."""
    # ~ is expanded as in fsspec: a shell leaves --out=~/maps as it is.
    return os.path.expanduser(url.removeprefix("file://"))


def beginning_with(url: str) -> list[str]:
    """List URLs of objects on S3, at most a hundred, that begin with `url`."""
    filesystem, path = filesystem_of(url)
    with reading(url, "file"):
        return [f"s3://{name}" for name in filesystem.beginning_with(path)]


def whole_url(url: str) -> str:
    """Make a local `url` absolute, so that it names the same place for every process of this machine."""
    return str(local_path(url).absolute()) if is_local(url) else url


def filesystem_of(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system that a URL is on, and its path there.

    Raises:
        InputError: there is no such file system, it is reached through another, or the URL holds secrets.
    """
    check_address(url)
    if "::" in url:
        raise InputError(f"{url}: chains of file systems (::) are not followed; give a path or s3://...")
    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except (ValueError, ImportError) as error:
        raise InputError(
            f"{url}: not a URL that can be used here ({error}); give a path or s3://..."
        ) from error


@contextmanager
def reading(url: str, what: str) -> Iterator[None]:
    """Turn errors of storage into InputError with the URL; `what` is a file or a folder."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{url}: no such {what}") from error
    except OSError as error:
        raise InputError(f"{url}: cannot be read ({error.strerror or error})") from error


def exists(url: str) -> bool:
    """Tell whether an object or folder is at `url`.

    Raises:
        InputError: the answer is not known, for example without access or connection.
    """
    filesystem, path = filesystem_of(url)
    with reading(url, "file"):
        return bool(filesystem.exists(path))


def read_bytes(url: str) -> bytes:
    """Read the whole object at `url`.

    Raises:
        InputError: there is nothing readable.
    """
    if is_local(url):  # a tenth of fsspec's time, which matters for small files
        with reading(url, "file"), open(local_name(url), "rb", 0, opener=regular) as file:
            return file.read()
    filesystem, path = filesystem_of(url)
    with reading(url, "file"):
        return bytes(filesystem.cat_file(path))


def map_file(url: str) -> MappedFile:
    """Map the file at a local `url` into memory.

    Raises:
        InputError: there is nothing readable.
        ValueError: the file is empty.
    """
    with reading(url, "file"), open(local_name(url), "rb", 0, opener=regular) as file:
        return MappedFile(file)


def size_of(url: str) -> int:
    """Return the size of the object at `url`, in bytes.

    Raises:
        InputError: there is no such object.
    """
    filesystem, path = filesystem_of(url)
    with reading(url, "file"):
        return int(filesystem.info(path)["size"])


def read_pieces(url: str, piece_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
    """Read the object at `url` piece by piece, so that this process never holds all of it.

    Raises:
        InputError: there is nothing readable.
    """
    filesystem, path = filesystem_of(url)
    size = size_of(url)
    for start in range(0, size, piece_bytes):
        with reading(url, "file"):
            piece = bytes(filesystem.cat_file(path, start=start, end=min(start + piece_bytes, size)))
        yield piece


def list_files(url: str, suffix: str) -> list[str]:
    """List the names (not paths) of the files directly in folder `url` that end in `suffix`, sorted.

    Raises:
        InputError: there is no such folder.
    """
    filesystem, path = filesystem_of(url)
    if isinstance(filesystem, LocalFileSystem):
        try:
            with os.scandir(path) as entries:
                return sorted(entry.name for entry in entries if entry.name.endswith(suffix))
        except OSError as error:
            raise InputError(f"{url}: no such folder ({error.strerror})") from error
    with reading(url, "folder"):
        names = [name_of(item["name"]) for item in filesystem.ls(path, detail=True) if item["type"] == "file"]
    return sorted(name for name in names if name.endswith(suffix))


def find_files(url: str) -> list[str]:
    """List the paths of all files below folder `url`, relative to it, sorted; [] without such a folder."""
    filesystem, path = filesystem_of(url)
    base = filesystem._strip_protocol(path).rstrip("/") + "/"
    with reading(url, "folder"):
        if not filesystem.exists(path):
            return []
        return sorted(found.removeprefix(base) for found in filesystem.find(path))


def sizes_of(url: str) -> dict[str, int]:
    """Return the files below folder `url`, relative to it, with their bytes; {} without such a folder."""
    return {name: int(version.split()[0]) for name, version in versions_of(url).items()}


def version_of(url: str) -> str:
    """Return a text that changes when the file at `url` is written again: size, and time or S3's tag.

    Raises:
        InputError: there is no such file.
    """
    filesystem, path = filesystem_of(url)
    with reading(url, "file"):
        return _version(filesystem.info(path))


def versions_of(url: str) -> dict[str, str]:
    """Return the files below folder `url`, relative to it, with their versions (see `version_of`).

    A file has itself, as "". Where there is nothing, neither is there a version.
    """
    filesystem, path = filesystem_of(url)
    base = filesystem._strip_protocol(path).rstrip("/")
    with reading(url, "folder"):
        if not filesystem.exists(path):
            return {}
        found = filesystem.find(path, detail=True)
    return {name.removeprefix(base).lstrip("/"): _version(info) for name, info in found.items()}


def _version(info: dict[str, Any]) -> str:
    return f"{info['size']} {info.get('ETag') or info.get('mtime') or info.get('created')}"


def check_writable(folder: str) -> None:
    """Refuse an unusable output `folder` before any work is done; leave nothing behind.

    Raises:
        InputError: the folder cannot be created or written.
    """
    if not is_local(folder):
        filesystem, _ = filesystem_of(folder)
        if urlsplit(folder).scheme == "s3":
            probe_url = join(folder, f".treeline-{os.getpid()}-{secrets.token_hex(4)}")
            try:
                publish(probe_url, b"")
                filesystem.rm_file(probe_url)
            except OSError as error:
                why = error.strerror or error
                raise InputError(f"{folder}: cannot be written ({why}); choose another output") from error
        return
    path = local_path(folder).absolute()
    try:
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
    except OSError as error:
        raise InputError(f"{folder}: is not a possible name of a folder ({error.strerror})") from error
    try:
        descriptor, probe = tempfile.mkstemp(dir=existing, prefix=".treeline-")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}: {existing}); choose another output"
        ) from error
    os.close(descriptor)
    os.unlink(probe)


@contextmanager
def staged(url: str) -> Iterator[Path]:
    """Provide a local path to write; its file appears at `url`, whole, if the block ends without an error.

    Raises:
        OSError: it cannot be written; names `url`.
    """
    filesystem, target = filesystem_of(url)
    if isinstance(filesystem, LocalFileSystem):
        folder = Path(target).parent
        folder.mkdir(parents=True, exist_ok=True)
        # The ending stays, because raster drivers and parquet writers look at it.
        temporary = folder / f".treeline-{secrets.token_hex(8)}-{Path(target).name}"
        try:
            yield temporary
            os.replace(temporary, target)
        except OSError as error:
            # A full disk names no file, and users do not know the temporary one.
            is_nameless = error.filename in (None, str(temporary)) and error.filename2 is None
            if is_nameless and error.errno is not None:  # without a number Python would not show the text
                error.filename = target
            raise
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        return
    with tempfile.TemporaryDirectory(prefix="treeline-") as scratch:
        temporary = Path(scratch) / name_of(url)
        yield temporary
        filesystem.put_file(str(temporary), target)


def publish(url: str, data: Bytes) -> None:
    """Write `data` as the object at `url`, atomically."""
    if is_local(url):
        try:
            with staged(url) as path, open(path, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:  # a write may take less than it is given: at most 2 GB on Linux
                    view = view[file.write(view) :]
        except OSError as error:
            if error.errno in _NO_ROOM:  # it names no file, or the one that has no name yet
                error.filename = url
            raise
        return
    filesystem, target = filesystem_of(url)
    filesystem.pipe_file(target, bytes(data))


def publish_folder(url: str, folder: str) -> None:
    """Publish all files below the local `folder` at the same paths below `url`."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            publish(join(url, path.relative_to(folder).as_posix()), path.read_bytes())


def remove_file(url: str) -> None:
    """Remove one of our objects, and its folder if that is then empty."""
    filesystem, path = filesystem_of(url)
    if filesystem.exists(path):
        filesystem.rm_file(path)
    if isinstance(filesystem, LocalFileSystem):
        with suppress(OSError):  # not empty
            Path(path).parent.rmdir()


def remove_empty_folders(url: str) -> None:
    """Remove local folder `url` and the folders below it where they hold no file."""
    if is_local(url):
        for folder, _, _ in os.walk(local_path(url), topdown=False):
            with suppress(OSError):  # not empty
                os.rmdir(folder)


def missing_folders(url: str) -> list[str]:
    """List `url` and the folders above it that do not exist yet, the deepest first."""
    if not is_local(url):
        return [] if exists(url) else [url]
    path = local_path(url).absolute()
    return [str(folder) for folder in (path, *path.parents) if not folder.exists()]


def remove_new_folders(folders: list[str]) -> None:
    """Remove `missing_folders` again: the first with all its content, those above it if they are empty."""
    if not folders:
        return
    remove_folder(folders[0])
    for folder in folders[1:]:
        with suppress(OSError):  # not empty: others use it
            os.rmdir(folder)


def remove_unfinished(url: str, below: bool = True, of: str = "") -> None:
    """Remove files in local folder `url` that our processes were writing when they were killed.

    No process may be writing there now. Remote folders need no cleaning: objects appear whole or not at all.

    Args:
        url: the folder.
        below: whether to clean the folders below it too.
        of: name of the only file whose unfinished copies are removed; "": any file.
    """
    if not is_local(url):
        return
    for folder, folders, names in os.walk(local_path(url)):
        for name in names:
            unfinished = _UNFINISHED.fullmatch(name)
            # Intermediate files that a writer makes beside a file have a longer name.
            if unfinished and (not of or f"{unfinished[1]}.".startswith(f"{of}.")):
                os.unlink(os.path.join(folder, name))
        if not below:
            folders.clear()


def remove_folder(url: str) -> None:
    """Remove folder `url`, which a failed run of ours wrote, if it exists."""
    filesystem, path = filesystem_of(url)
    if isinstance(filesystem, LocalFileSystem):
        shutil.rmtree(path, ignore_errors=True)
    else:
        for found in filesystem.find(path):
            filesystem.rm_file(found)
