"""Names with wildcards, and the files that they match, local or remote."""

import os
import re
from collections.abc import Iterable

import fsspec
from fsspec.implementations.local import LocalFileSystem

from shards.errors import InputError
from shards.storage.objects import filesystem_of, is_local, local_path, reading

_WILDCARD = re.compile(r"[*?[]")


def expand(pattern: str) -> list[str]:
    """List the URLs that match a glob `pattern`, sorted; a name that exists is no pattern, and gives itself.

    Raises:
        InputError: nothing matches.
    """
    filesystem, path = filesystem_of(pattern)
    if isinstance(filesystem, LocalFileSystem) and local_path(pattern).is_file():
        return [pattern]
    with reading(pattern, "folder"):
        if _WILDCARD.search(path) and filesystem.exists(path):
            found = [path]
        else:
            found = sorted(filesystem.glob(_with_folders_as_they_are(filesystem, path)))
    if not found:
        raise InputError(f"{pattern}: no file matches")
    return [str(match) if is_local(pattern) else filesystem.unstrip_protocol(match) for match in found]


def expand_as_given(pattern: str) -> list[str]:
    """List the same, for lines that people read: what a relative pattern matches has relative names.

    Raises:
        InputError: nothing matches.
    """
    found = expand(pattern)
    if not is_local(pattern) or local_path(pattern).is_absolute():
        return found
    return [os.path.relpath(match) if os.path.isabs(match) else match for match in found]


def _with_folders_as_they_are(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """Take the wildcards of `path` for themselves up to the last folder that exists under such a name."""
    folder = path.rpartition("/")[0]
    while _WILDCARD.search(folder):
        if filesystem.exists(folder):
            return _WILDCARD.sub(r"[\g<0>]", folder) + path[len(folder) :]
        folder = folder.rpartition("/")[0]
    return path


def each_file_once(urls: Iterable[str]) -> list[str]:
    """Keep the first name of each file, in order: a local file may be named in several ways."""
    found: dict[str, str] = {}
    for url in urls:
        found.setdefault(str(local_path(url).resolve()) if is_local(url) else url, url)
    return list(found.values())
