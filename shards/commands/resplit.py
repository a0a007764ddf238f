"""`treeline split`: holds out other chips of a dataset, or counts derived bands.

Pixels are read first, because statistics cover the training split. Then three changes follow, each with its
own manifest, so that there is a whole dataset at every moment, and no chip of another split in a split's
folder (`shards.write.shard_places`):

1. shards that may not stay in their folder move to the neutral one; the split is the old one
2. index, counts and statistics of the new split, with --rewrite also of shards written anew
3. shards that lie in the neutral folder, and whose chips are of the split they were written for, move home
"""

from collections.abc import Iterator, Set
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow as pa

from shards.commands.convert import chips_of_shard
from shards.config import SplitConfig, SplitOptions
from shards.errors import InputError
from shards.format.file_names import MIXED, home_name
from shards.format.manifest import COUNTS, INDEX, JOURNAL, SPLITS, STATISTICS, Manifest
from shards.format.schema import Schema, with_values
from shards.format.sealed import json_bytes
from shards.format.statistics import Counts, statistics_json
from shards.progress import progress
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import exists, join
from shards.storage.one_writer import one_writer
from shards.wording import said_splits
from shards.write.assembly import split_checksum
from shards.write.change import parquet_bytes, publish_change
from shards.write.leakage import leakage
from shards.write.places import places_of
from shards.write.rewriting import Rewriting
from shards.write.shard_places import (
    are_home,
    moved_home,
    moved_out,
    remove_leftovers,
    with_shard_names,
)
from shards.write.split_auto import chosen
from shards.write.split_rule import RULE_FIELDS, SplitRule, assign, refuse_missing, resolved


def resplit(config: SplitConfig, given: Set[str] | None = None) -> str:
    """Hold out other chips; return a line with the number of chips in each split, and notes.

    Args:
        config: the options.
        given: names of the options that the user gave; default: all that differ from their default, and the
            way to split with them.

    Raises:
        InputError: the split needs positions that the dataset lacks or leaves a share without chips, or a
            band cannot be made.
        DatasetError: a shard is damaged.
    """
    open_dataset(config.data)  # so that a name which is none is not made a folder
    with one_writer(config.data):
        return _resplit(config, given)


def _resplit(config: SplitConfig, given: Set[str] | None) -> str:
    """Hold out other chips of a dataset that only this process changes."""
    dataset = open_dataset(config.data)
    _refuse_unfinished(config.data)
    if config.rewrite:
        _refuse_rewriting(dataset)
    schema = with_values(dataset.schema, config.derive, config.scale, config.offset)
    manifest, index = replace(dataset.manifest, schema=schema), dataset.index
    choice, named = "", _named_options(config, given)
    recorded = SplitRule.from_json(manifest.split_rule) if manifest.split_rule else None
    changes_bands = bool(config.derive or config.scale or config.offset or config.rewrite)
    keeps_split = not named and (changes_bands or recorded is not None)
    if keeps_split and not changes_bands and recorded:
        choice = (
            f"split {said_way(recorded)}, as before; --split-by or --shares split the chips in another way"
        )
    if not keeps_split:
        asked = _asked(config, named, recorded)
        if recorded and "split_by" not in named:
            choice = f"split {said_way(asked)}, as before; --split-by chooses another way"
        places = places_of(index, schema, asked.region_column)
        asked, how = chosen(asked, places)
        choice = how or choice
        rule = resolved(asked, places)
        splits = [str(split) for split in assign(rule, places)]
        if schema.label:  # tiles to learn from without labels need nothing held out
            refuse_missing(rule, splits, places.scenes)
        manifest = replace(
            manifest, splits={split: splits.count(split) for split in SPLITS}, split_rule=rule.to_json()
        )
        index = index.set_column(index.schema.get_field_index("split"), "split", pa.array(splits))
    rewriting = Rewriting(config.data, manifest, index) if config.rewrite else None
    counts = _counted(dataset, index["split"].to_pylist(), schema, rewriting)
    moved = moved_out(config.data, dataset.manifest, dataset.index, index["split"].to_pylist())
    manifest = replace(manifest, shards=moved.shards, files=moved.files, generation=moved.generation)
    if rewriting:
        manifest, index = rewriting.finish(manifest)
    else:
        index = with_shard_names(index, manifest)
    manifest = replace(manifest, split_column=_column_checksum(manifest, index["split"].to_pylist()))
    contents = {
        INDEX: parquet_bytes(index),
        COUNTS: counts.to_bytes(),
        STATISTICS: json_bytes(statistics_json(counts, schema)),
    }
    manifest = publish_change(config.data, manifest, contents)
    manifest = moved_home(config.data, manifest, index)
    remove_leftovers(config.data, manifest)
    lines = [_said(config.data, manifest), choice, *_about_folders(config.data, manifest, index)]
    if schema.label and not (keeps_split and changes_bands):
        lines.append(leakage(config.data, manifest))
    return "\n".join(line for line in lines if line)


def _said(url: str, manifest: Manifest) -> str:
    """Say how many chips each split has."""
    said = said_splits({split: count for split, count in manifest.splits.items() if count})
    derived = ", ".join(map(str, manifest.schema.derived))
    return f"{url}: {said}; derived bands: {derived}" if derived else f"{url}: {said}"


def _about_folders(url: str, manifest: Manifest, index: Any) -> Iterator[str]:
    """Yield a note where the folder of a split lacks chips, or has others, for readers that go by folders."""
    splits = index["split"].to_pylist()
    if manifest.shard_format == "webdataset":
        if any(len(set(splits[chips.start : chips.stop])) > 1 for chips in _ranges(manifest)):
            yield (
                "note: some tars hold chips of several splits. They are your files, and stay where they are; "
                "readers other than Treeline need the index, or a copy with a folder for each split: "
                f"treeline convert {url} --to tar --out COPY"
            )
        return
    mixed = [shard for shard in manifest.shards if shard.name != home_name(shard.name)]
    if mixed:
        chips = f"{sum(shard.samples for shard in mixed):,} chips of several splits"
        place = f"{len(mixed):,} of {len(manifest.shards):,} shards lie in {join(url, MIXED)}"
        cure = "treeline convert to tar and back" if manifest.shard_format == "zarr" else "--rewrite"
        yield (
            f"note: {place}, with {chips}. Treeline reads them there, and {INDEX} tells other readers each "
            f"chip's split and shard; {cure} sorts them into a folder for each split"
        )


def said_way(rule: SplitRule) -> str:
    """Say the way in which chips are dealt."""
    shares = " ".join(f"{share:g}" for share in rule.shares)
    size = f" of {rule.block_size:g}" * (rule.by == "blocks")
    return f"by {rule.by}{size} in shares {shares}"


def _ranges(manifest: Manifest) -> Iterator[range]:
    """Yield the numbers of each shard's chips."""
    first = manifest.first_chip.tolist()
    yield from map(range, first[:-1], first[1:])


def _refuse_unfinished(url: str) -> None:
    """Refuse a dataset that an ingest is adding to: its shards would be taken for leftovers.

    Raises:
        InputError: there is such an ingest.
    """
    if exists(join(url, JOURNAL)):
        raise InputError(
            f"{url}: an ingest into it is unfinished ({JOURNAL}); finish it with the command that began it, "
            "then split"
        )


def _refuse_rewriting(dataset: Dataset) -> None:
    """Refuse to write shards anew that are no tars of ours.

    Raises:
        InputError: says what to do instead.
    """
    form, url = dataset.manifest.shard_format, dataset.url
    if form == "zarr":
        raise InputError(
            f"--rewrite: the shards of {url} are zarr; treeline convert {url} --to tar --out COPY writes the "
            "chips of each split to its own folder"
        )
    if form == "webdataset":
        raise InputError(
            f"--rewrite: the tars of {url} are your own files, which stay as they are; treeline convert "
            f"{url} --to tar --out COPY writes the chips of each split to its own folder"
        )


def _named_options(config: SplitConfig, given: Set[str] | None) -> set[str]:
    """Return the options of the split that were given, see `resplit`."""
    options = {option.name: option.default for option in fields(SplitOptions)}
    if given is None:
        named = {name for name, default in options.items() if getattr(config, name) != default}
        return named | {"split_by"} if named else named
    return set(given) & set(options)


def _asked(config: SplitConfig, named: set[str], recorded: SplitRule | None) -> SplitRule:
    """Return the rule of the options that were given; without a way to split, the others are as recorded."""
    asked = SplitRule.of(config)
    if recorded is None or "split_by" in named:
        return asked
    changed = {fields_of: getattr(asked, fields_of) for name in named for fields_of in (RULE_FIELDS[name],)}
    return replace(recorded, edges=(), grids=(), **changed)


def _column_checksum(manifest: Manifest, splits: list[str]) -> str:
    """Return the checksum of the column "split", or "" if each shard's own split says the same."""
    written = [shard.split for shard in manifest.shards for _ in range(shard.samples)]
    return "" if written == splits else split_checksum(splits)


def _counted(dataset: Dataset, splits: list[str], schema: Schema, rewriting: Rewriting | None) -> Counts:
    """Count the pixels of all training chips, with the derived bands of `schema`.

    `rewriting` gets the chips of the shards that may not stay in their folder.
    """
    counts = Counts()
    stay = are_home(dataset.manifest, splits)
    to_write = [rewriting is not None and not is_home for is_home in stay]
    wanted = [
        to_write[number] or "train" in splits[chips.start : chips.stop]
        for number, chips in enumerate(_ranges(dataset.manifest))
    ]
    samples = np.diff(dataset.manifest.first_chip)
    with progress("read", int(samples[wanted].sum()), "chips") as advance:
        for number in np.flatnonzero(wanted).tolist():
            chips = list(chips_of_shard(dataset, number))
            first = int(dataset.manifest.first_chip[number])
            counts += Counts.of_chips(
                [chip for place, chip in enumerate(chips, first) if splits[place] == "train"], schema
            )
            if rewriting and to_write[number]:
                rewriting.take(number, chips)
            advance(len(chips))
    return counts
