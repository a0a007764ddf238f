"""What a dataset's files are called, and what may be removed beside them: what stopped runs left."""

import re

from shards.errors import InputError
from shards.format.manifest import FILES, SPLITS, Manifest
from shards.storage.objects import find_files, join, list_files, remove_file

_ANY_FILE = re.compile(
    "|".join(rf"{stem}(\.\d+)?\.{ending}" for stem, _, ending in (name.partition(".") for name in FILES))
)
"""Names of FILES in a dataset that was changed any number of times."""


def name_in(name: str, generation: int) -> str:
    """What the file `name` is called in a dataset that was changed `generation` times."""
    stem, _, ending = name.rpartition(".")
    return f"{stem}.{generation}.{ending}" if generation else name


def tar_name(split: str, number: int) -> str:
    """What a tar shard is called below the dataset's URL."""
    return f"{split}/{number:06d}.tar"


def refuse_foreign(url: str, with_shards: bool = True) -> None:
    """Refuse a place without a dataset where files of somebody else's have the names that ours will have.

    Where shards are taken as they are (`with_shards` false), theirs are no obstacle.

    Raises:
        InputError: there is one.
    """
    taken = _is_of_a_dataset if with_shards else _ANY_FILE.fullmatch
    foreign = next((name for name in find_files(url) if taken(name)), None)
    if foreign is not None:
        raise InputError(
            f"{url}: holds {foreign}, which would be overwritten, but no dataset; choose another --out"
        )


def remove_old_files(url: str, manifest: Manifest | None) -> None:
    """Remove indexes, counts and statistics at `url` that are not the dataset's, if there is one."""
    kept = {stored.name for stored in manifest.files.values()} if manifest else set()
    for name in list_files(url, ""):
        if _ANY_FILE.fullmatch(name) and name not in kept:
            remove_file(join(url, name))


def remove_unlisted_shards(url: str, listed: set[str]) -> None:
    """Remove shards below `url` that a run which never finished left there: no part of the dataset."""
    for folder in [f"{split}{ending}" for split in SPLITS for ending in ("", ".zarr")]:
        for name in find_files(join(url, folder)):
            if f"{folder}/{name}" not in listed and _is_shard(name):
                remove_file(join(url, folder, name))


def _is_of_a_dataset(name: str) -> bool:
    """Whether a file of this name, below a dataset's URL, would be one of its files or shards."""
    folder, _, rest = name.partition("/")
    if folder.removesuffix(".zarr") in SPLITS and rest:
        return _is_shard(rest)
    return _ANY_FILE.fullmatch(name) is not None


def _is_shard(name: str) -> bool:
    """Whether `name`, below a split's folder, is one that we give."""
    return re.fullmatch(r"\d{6,}\.tar|(image|height)/(c/\d+(/0)+|zarr\.json)|zarr\.json", name) is not None
