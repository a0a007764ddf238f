"""Names of a dataset's files, and the removal of files that stopped runs left beside them.

A shard is written to its split's folder, its home: train/000003.tar, train.zarr/image/c/3/0/0/0. Once its
chips are no longer all of that split, it lies in a neutral folder: mixed/from-train/000003.tar.
"""

import re

from shards.errors import InputError
from shards.format.manifest import FILES, INDEX, SPLITS, Manifest
from shards.storage.inside import check_inside
from shards.storage.objects import find_files, join, list_files, remove_empty_folders, remove_file

MIXED = "mixed"
"""Folder of shards whose chips are not all of the split that the shard was written for."""
_FROM = f"{MIXED}/from-"

_ANY_FILE = re.compile(
    "|".join(rf"{stem}(\.\d+)?\.{ending}" for stem, _, ending in (name.partition(".") for name in FILES))
)
"""Names of FILES after any number of changes to the dataset."""


def name_in(name: str, generation: int) -> str:
    """Return the name of the file `name` in a dataset that was changed `generation` times."""
    stem, _, ending = name.rpartition(".")
    return f"{stem}.{generation}.{ending}" if generation else name


def tar_name(split: str, number: int) -> str:
    """Return the name of a tar shard below the dataset's URL."""
    return f"{split}/{number:06d}.tar"


def mixed_name(home: str) -> str:
    """Return the neutral name of a shard's object that has the name `home` in its split's folder."""
    return f"{_FROM}{home}"


def home_name(name: str) -> str:
    """Return the name in its split's folder of a shard's object, wherever it lies now."""
    return name.removeprefix(_FROM)


def refuse_foreign(url: str, with_shards: bool = True) -> None:
    """Refuse a place without a dataset where foreign files have names that the dataset will use.

    Where existing shards are taken as they are (`with_shards` False), those are allowed.

    Raises:
        InputError: there is such a file.
    """
    taken = is_of_a_dataset if with_shards else _ANY_FILE.fullmatch
    foreign = next((name for name in find_files(url) if taken(name)), None)
    if foreign is not None:
        raise InputError(
            f"{url}: holds {foreign}, which would be overwritten, but no dataset; choose another --out"
        )


def remove_old_files(url: str, manifest: Manifest | None) -> None:
    """Remove indexes, counts and statistics at `url` that the manifest, if any, does not list.

    index.parquet stays: it is the current index under the name that outsiders know.
    """
    kept = {INDEX, *(stored.name for stored in manifest.files.values())} if manifest else set()
    for name in list_files(url, ""):
        if _ANY_FILE.fullmatch(name) and name not in kept:
            remove_file(join(url, name))


def remove_unlisted_shards(url: str, listed: set[str]) -> None:
    """Remove shards below `url` that an unfinished run left and that the dataset does not list."""
    homes = [f"{split}{ending}" for split in SPLITS for ending in ("", ".zarr")]
    for folder in [*homes, *map(mixed_name, homes)]:
        check_inside(url, f"{folder}/")
        for name in find_files(join(url, folder)):
            if f"{folder}/{name}" not in listed and _is_shard(name):
                check_inside(url, f"{folder}/{name}")
                remove_file(join(url, folder, name))
        if folder.endswith(".zarr"):
            remove_empty_folders(join(url, folder))
    remove_empty_folders(join(url, MIXED))


def is_of_a_dataset(name: str) -> bool:
    """Tell whether a file of this name, below a dataset's URL, would be one of its files or shards."""
    folder, _, rest = home_name(name).partition("/")
    if folder.removesuffix(".zarr") in SPLITS and rest:
        return _is_shard(rest)
    return _ANY_FILE.fullmatch(name) is not None


def _is_shard(name: str) -> bool:
    """Tell whether `name`, below a split's folder, is a name that we give to shards."""
    return re.fullmatch(r"\d{6,}\.tar|(image|height)/(c/\d+(/0)+|zarr\.json)|zarr\.json", name) is not None
