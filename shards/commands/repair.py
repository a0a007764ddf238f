"""`treeline verify --repair`: files of a dataset that can be made again, byte for byte, from what is whole.

index.parquet       the copy of the current index, or the current index from that copy; without either, from
                    tar shards, whose chips then have the split in which they were written
statistics.json     from the pixels of the training split
counts.npz          the same

A file is written only if its bytes are those that the manifest has the checksum of. rejected.parquet and
shards cannot be made again.
"""

from collections.abc import Iterator

import numpy as np

from shards.commands.convert import chips_of_shard, splits_of_shard
from shards.errors import DatasetError, InputError
from shards.format.manifest import COUNTS, INDEX, STATISTICS, Manifest, StoredObject, read_manifest
from shards.format.sealed import json_bytes
from shards.format.statistics import Counts, statistics_json
from shards.progress import progress
from shards.read.dataset import open_dataset
from shards.storage.objects import Bytes, exists, join, publish, read_bytes
from shards.storage.one_writer import one_writer
from shards.write.index_of_tars import index_of_tars

OTHER_INDEX = "(`treeline split` and `ingest labels` change what they do not hold)"


def repair(url: str) -> list[str]:
    """Make again what can be made again in the dataset at `url`; return a line for each file.

    Raises:
        InputError: there is no dataset.
        DatasetError: its manifest is damaged.
    """
    with one_writer(url):
        manifest = read_manifest(url)
        return [*_index(url, manifest), *_statistics(url, manifest)]


def _index(url: str, manifest: Manifest) -> Iterator[str]:
    """Copy the current index over its plain copy, or the other way round; or make it of tar shards."""
    current = manifest.files.get(INDEX)
    if current is None:
        return
    places = {INDEX: join(url, INDEX), current.name: join(url, current.name)}
    whole = {name for name, where in places.items() if is_whole(where, current)}
    damaged = places.keys() - whole
    if not damaged:
        return
    if whole:
        (source,) = whole
        data: Bytes = read_bytes(places[source])
    elif manifest.shard_format != "tar":
        yield f"not repaired: {current.name}: only tar shards hold what an index says; copy it again"
        return
    else:
        try:
            data, source = index_of_tars(url, manifest), "the tar shards"
        except (DatasetError, InputError) as error:
            yield f"not repaired: {current.name}: the tar shards cannot be read ({error})"
            return
        if not (len(data) == current.nbytes and current.is_of(np.frombuffer(data, np.uint8))):
            yield f"not repaired: {current.name}: tars give another index {OTHER_INDEX}; copy it again"
            return
    for name in sorted(damaged):
        publish(places[name], data)
        yield f"{places[name]}: was made again from {source}"


def _statistics(url: str, manifest: Manifest) -> Iterator[str]:
    """Count the pixels of the training split again."""
    damaged = [
        stored
        for name in (COUNTS, STATISTICS)
        if (stored := manifest.files.get(name)) and not is_whole(join(url, stored.name), stored)
    ]
    if not damaged:
        return
    try:
        counts = _counted(url)
    except (DatasetError, InputError) as error:
        yield f"not repaired: {', '.join(stored.name for stored in damaged)}: pixels cannot be read ({error})"
        return
    made = {
        COUNTS: counts.to_bytes(),
        STATISTICS: json_bytes(statistics_json(counts, manifest.schema)),
    }
    for name, data in made.items():
        stored = manifest.files[name]
        if stored not in damaged:
            continue
        where = join(url, stored.name)
        if len(data) == stored.nbytes and stored.is_of(data):
            publish(where, data)
            yield f"{where}: was made again from the pixels of the training split"
        else:
            yield f"not repaired: {where}: the pixels give other bytes than were written; copy it again"


def is_whole(url: str, stored: StoredObject) -> bool:
    """Tell whether a file is there and is what was written."""
    try:
        data = read_bytes(url) if exists(url) else b""
    except InputError:
        return False
    return len(data) == stored.nbytes and stored.is_of(data)


def _counted(url: str) -> Counts:
    dataset, counts = open_dataset(url), Counts()
    shards = dataset.manifest.shards
    with progress("count", sum(shard.samples for shard in shards), "chips") as advance:
        for number, shard in enumerate(shards):
            pairs = zip(chips_of_shard(dataset, number), splits_of_shard(dataset, number), strict=True)
            counts += Counts.of_chips([chip for chip, split in pairs if split == "train"], dataset.schema)
            advance(shard.samples)
    return counts
