"""The folder of the page that `treeline inspect` writes, where the user names none."""

import html
import re

from shards.errors import InputError
from shards.storage.checksum import hexadecimal
from shards.storage.objects import exists, is_local, join, local_path, name_of, read_bytes

PAGE = "index.html"
DIGITS = 6
"""Digits of the name of a folder that is not the first of its name."""
_DATASET = re.compile(r">([^<>]+) \(fingerprint [0-9a-f]{16}\)<")


def default_folder(data: str) -> str:
    """Return the page's folder: beside the dataset, never in it; here for a remote one.

    Datasets of one name in several buckets would share a folder here. The first one keeps the plain name, and
    others have some digits of their URL in it.
    """
    name = name_of(data)
    if is_local(data):
        # "." has no name to add to.
        stem = data.rstrip("/") if name.strip(".") else str(local_path(data).resolve())
    else:
        stem = name
    folder = f"{stem}-inspect"
    if not _is_of_another(folder, data):
        return folder
    return f"{stem}-{hexadecimal(_whole(data).encode())[:DIGITS]}-inspect"


def _is_of_another(folder: str, data: str) -> bool:
    """Tell whether a folder has the page of another dataset: of a remote one, if `data` is local."""
    url = join(folder, PAGE)
    if not exists(url):
        return False
    try:
        found = _DATASET.search(read_bytes(url).decode(errors="replace"))
    except InputError:
        return False
    if not found:
        return False
    there = html.unescape(found[1]).rstrip("/")
    if is_local(data):
        # A local dataset's own page may name it otherwise, or be of before it was moved.
        return not is_local(there)
    return there != data.rstrip("/")


def _whole(data: str) -> str:
    """Return a name of the dataset that means the same in any folder."""
    return str(local_path(data).resolve()) if is_local(data) else data.rstrip("/")
