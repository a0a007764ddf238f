"""Folders of shards after a split: one named after a split holds that split's chips alone, for any reader.

A shard stays in its home, the folder of the split that it was written for, while all its chips are of that
split; else it lies in a neutral folder (`shards.format.file_names.MIXED`). The shards of a Zarr array move
together. Tars that other people wrote stay where they are.

Each move is a change to the dataset of its own: first the new places, then the manifest that names them, then
the old places are removed. Whatever stops it, there is a whole dataset, and no chip of another split in a
split's folder.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from shards.format.file_names import home_name, mixed_name, remove_unlisted_shards
from shards.format.manifest import INDEX, Manifest, Shard, StoredObject
from shards.progress import progress
from shards.storage.copies import copy_object
from shards.storage.inside import check_inside
from shards.storage.objects import is_local, join, remove_file
from shards.write.change import parquet_bytes, publish_change

COPIES = 8
"""Copies that a server makes at a time."""


def are_home(manifest: Manifest, splits: Sequence[str]) -> list[bool]:
    """Tell for each shard whether its home is where it belongs, if the chips are in these splits."""
    pure = [
        set(splits[first : first + shard.samples]) == {shard.split}
        for first, shard in zip(manifest.first_chip, manifest.shards, strict=False)
    ]
    if manifest.shard_format == "zarr":
        mixed = {shard.split for shard, is_pure in zip(manifest.shards, pure, strict=True) if not is_pure}
        return [shard.split not in mixed for shard in manifest.shards]
    return pure if manifest.shard_format == "tar" else [True] * len(pure)


def moved_out(url: str, manifest: Manifest, index: Any, splits: Sequence[str]) -> Manifest:
    """Move shards to the neutral folder that may not stay at home once the chips are in `splits`.

    The dataset's split stays as it is.

    Args:
        url: the dataset.
        manifest: its manifest.
        index: its index.
        splits: split to come of each chip.
    """
    stay = are_home(manifest, splits)
    return _moved(
        url, manifest, index, lambda place, name: name if stay[place] else mixed_name(home_name(name))
    )


def moved_home(url: str, manifest: Manifest, index: Any) -> Manifest:
    """Move shards home from the neutral folder if all their chips are of the split they were written for."""
    go = are_home(manifest, index["split"].to_pylist())
    return _moved(url, manifest, index, lambda place, name: home_name(name) if go[place] else name)


def with_shard_names(index: Any, manifest: Manifest) -> Any:
    """Return the index with the present names of the manifest's shards, which hold the same chips."""
    names = np.array([shard.name for shard in manifest.shards], object)
    names = np.repeat(names, np.diff(manifest.first_chip))
    place = index.schema.get_field_index("shard")
    return index.set_column(place, "shard", pa.array(names, pa.string()))


def remove_leftovers(url: str, manifest: Manifest) -> None:
    """Remove shards that stopped moves left beside those of the dataset at `url`."""
    if manifest.shard_format != "webdataset":
        remove_unlisted_shards(url, _names(manifest))


def _moved(url: str, manifest: Manifest, index: Any, new_name: Callable[[int, str], str]) -> Manifest:
    """Move each object of shard number `place` to `new_name(place, name)`."""
    shards = tuple(
        replace(shard, objects=tuple(replace(one, name=new_name(place, one.name)) for one in shard.objects))
        for place, shard in enumerate(manifest.shards)
    )
    changed = replace(manifest, shards=shards, files=_with_metadata(manifest, shards))
    moves = {
        old.name: new.name
        for old, new in zip(_objects(manifest), _objects(changed), strict=True)
        if old.name != new.name
    }
    if not moves:
        return manifest
    check_inside(url, *moves, *moves.values())
    with progress("move", len(moves), "files") as advance:
        for _ in _copied(url, moves):
            advance(1)
    changed = publish_change(url, changed, {INDEX: parquet_bytes(with_shard_names(index, changed))})
    for name in moves:
        remove_file(join(url, name))
    return changed


def _copied(url: str, moves: Mapping[str, str]) -> Iterable[None]:
    """Give each object its second place; yield after each."""

    def copy(move: tuple[str, str]) -> None:
        copy_object(join(url, move[0]), join(url, move[1]))

    if is_local(url):  # no byte is copied, so threads would not help
        yield from map(copy, moves.items())
        return
    with ThreadPoolExecutor(COPIES, thread_name_prefix="treeline-copies") as threads:
        yield from threads.map(copy, moves.items())


def _with_metadata(manifest: Manifest, shards: tuple[Shard, ...]) -> dict[str, StoredObject]:
    """Return the manifest's files, with the metadata of each Zarr array beside its shards."""
    is_mixed = {home_name(shard.name).split("/")[0]: shard.name != home_name(shard.name) for shard in shards}
    return {
        name: replace(stored, name=mixed_name(name) if is_mixed.get(name.split("/")[0]) else name)
        if ".zarr/" in name
        else stored
        for name, stored in manifest.files.items()
    }


def _objects(manifest: Manifest) -> list[StoredObject]:
    """Return all objects of shards, and Zarr's metadata."""
    zarr_files = [stored for name, stored in manifest.files.items() if ".zarr/" in name]
    return [*(stored for shard in manifest.shards for stored in shard.objects), *zarr_files]


def _names(manifest: Manifest) -> set[str]:
    return {stored.name for stored in _objects(manifest)}
