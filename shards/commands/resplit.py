"""`treeline split`: holds out other chips of a dataset, or counts derived bands. Shards stay; the index then
says the split.

Index, counts and statistics are written beside the old ones; replacing the manifest then switches to them in
one step. Pixels are read once, because statistics cover the training split. Plain WebDataset readers, which
go by the folders of the shards, still see the old split: `treeline convert` to Zarr and back sorts chips into
folders by the new one.
"""

from collections.abc import Set
from dataclasses import fields, replace

import pyarrow as pa

from shards.commands.convert import chips_of_shard
from shards.config import SplitConfig, SplitOptions
from shards.format.manifest import COUNTS, INDEX, SPLITS, STATISTICS, Manifest, json_bytes
from shards.format.schema import Schema, with_values
from shards.format.statistics import Counts, statistics_json
from shards.progress import progress
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import check_writable
from shards.write.assembly import split_checksum
from shards.write.change import parquet_bytes, publish_change
from shards.write.places import places_of
from shards.write.split_rule import SplitRule, assign, resolved


def resplit(config: SplitConfig, given: Set[str] | None = None) -> str:
    """Hold out other chips, and return one line with the number of chips in each split.

    Args:
        config: the options.
        given: names of the options that the user gave; default: all that differ from their default.

    Raises:
        InputError: the split needs positions that the dataset lacks, or a band cannot be made.
        DatasetError: a shard is damaged.
    """
    dataset = open_dataset(config.data)
    check_writable(config.data)
    schema = with_values(dataset.schema, config.derive, config.scale, config.offset)
    manifest = replace(dataset.manifest, schema=schema)
    if (config.derive or config.scale or config.offset) and not _asks_for_a_split(config, given):
        splits: list[str] = dataset.index["split"].to_pylist()
    else:
        asked = SplitRule.of(config)
        places = places_of(dataset.index, schema, asked.region_column)
        rule = resolved(asked, places)
        splits = [str(split) for split in assign(rule, places)]
        manifest = replace(
            manifest,
            splits={split: splits.count(split) for split in SPLITS},
            split_rule=rule.to_json(),
            split_column=_column_checksum(dataset.manifest, splits),
        )
    counts = _counted(dataset, splits, schema)
    place = dataset.index.schema.get_field_index("split")
    index = dataset.index.set_column(place, "split", pa.array(splits))
    contents = {
        INDEX: parquet_bytes(index),
        COUNTS: counts.to_bytes(),
        STATISTICS: json_bytes(statistics_json(counts, schema)),
    }
    publish_change(config.data, manifest, contents)
    said = ", ".join(f"{count:,} {split}" for split, count in manifest.splits.items() if count)
    derived = f"; derived bands: {', '.join(map(str, schema.derived))}" if schema.derived else ""
    return f"{config.data}: {said}{derived}"


def _asks_for_a_split(config: SplitConfig, given: Set[str] | None) -> bool:
    """Tell whether an option of the split was given, see `resplit`."""
    options = {option.name: option.default for option in fields(SplitOptions)}
    if given is None:
        return any(getattr(config, name) != default for name, default in options.items())
    return not given.isdisjoint(options)


def _column_checksum(manifest: Manifest, splits: list[str]) -> str:
    """Return the checksum of the column "split", or "" if each shard's own split says the same."""
    written = [shard.split for shard in manifest.shards for _ in range(shard.samples)]
    return "" if written == splits else split_checksum(splits)


def _counted(dataset: Dataset, splits: list[str], schema: Schema) -> Counts:
    """Count the pixels of all training chips, with the derived bands of `schema`."""
    counts = Counts()
    with progress("count", splits.count("train"), "chips") as advance:
        for number in range(len(dataset.manifest.shards)):
            numbers = dataset.chips_of_shard(number)
            training = [splits[chip] == "train" for chip in numbers]
            if any(training):
                chips = chips_of_shard(dataset, number)
                chosen = [chip for chip, is_chosen in zip(chips, training, strict=True) if is_chosen]
                counts += Counts.of_chips(chosen, schema)
                advance(sum(training))
    return counts
