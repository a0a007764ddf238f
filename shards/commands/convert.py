"""`treeline convert`: writes a dataset in the other format, shard by shard, with nothing lost either way.

If all shards but the last of each split are full, the new dataset has the same chips in the same shards. So
order, states and fingerprint stay the same, and from tar to Zarr and back every file is the same. A Zarr
needs full shards. Where shards are uneven, because an ingest rejected chips or others wrote the shards, or
after `treeline split`, chips go to new shards in their order. Statistics are the same in any case.
"""

from collections.abc import Iterator

from shards.config import ConvertConfig
from shards.errors import DatasetError, InputError
from shards.format.key import check_key
from shards.format.manifest import SPLITS, Manifest
from shards.format.schema import Chip
from shards.format.shard_cut import SHARD_BYTES, SHARD_CHIPS, chips_in_shard
from shards.progress import progress
from shards.read.dataset import Dataset, open_dataset
from shards.read.whole_chips import whole_chips
from shards.storage.one_writer import one_writer
from shards.write.writer import DatasetWriter


def convert(config: ConvertConfig) -> Manifest:
    """Write the dataset at `config.data` to `config.out` in the other format, and return the new manifest.

    Raises:
        InputError: the dataset has that format already, or a key that cannot be written.
        DatasetError: a shard is damaged.
    """
    dataset = open_dataset(config.data)
    old = dataset.manifest
    if old.shard_format == config.to:
        raise InputError(f"{config.data}: is {config.to} already; copy it, or give --to another format")
    if config.to == "tar":
        _check_keys(dataset)
    theirs = old.shard_format == "webdataset"
    shard_chips = chips_in_shard(old.schema, SHARD_CHIPS, SHARD_BYTES) if theirs else old.shard_chips
    even = _has_even_shards(old) and not old.split_column
    with (
        one_writer(config.out),
        DatasetWriter(
            config.out,
            old.schema,
            old.made_by,
            shard_chips,
            config.to,
            old.attributes,
            old.split_rule,
        ) as writer,
        progress("convert", sum(shard.samples for shard in old.shards), "chips") as advance,
    ):
        for row in dataset.rejected.to_pylist():
            writer.reject(row["key"], row["reason"], row["detail"])
        for number, shard in enumerate(old.shards):
            chips = list(chips_of_shard(dataset, number))
            if even:
                writer.add_shard(shard.split, chips)
            else:
                for chip, split in zip(chips, splits_of_shard(dataset, number), strict=True):
                    writer.add(chip, split)
            advance(shard.samples)
        new = writer.finish(old.labels)
    if even and new.fingerprint != old.fingerprint:
        raise DatasetError(
            f"{config.out}: its chips are not those of {config.data} (fingerprint {new.fingerprint}, "
            f"not {old.fingerprint}); delete it, and verify {config.data}"
        )
    return new


def chips_of_shard(dataset: Dataset, number: int) -> Iterator[Chip]:
    """Read the chips of a shard, with all their facts, in their order."""
    return whole_chips(dataset, dataset.chips_of_shard(number))


def splits_of_shard(dataset: Dataset, number: int) -> list[str]:
    """Return the split of each chip of a shard, in their order."""
    numbers = dataset.chips_of_shard(number)
    splits: list[str] = dataset.index["split"].slice(int(numbers[0]), len(numbers)).to_pylist()
    return splits


def _has_even_shards(manifest: Manifest) -> bool:
    """Tell whether every shard but the last of its split is full, which a Zarr needs."""
    return all(
        shard.samples == manifest.shard_chips
        or (shard is shards[-1] and shard.samples < manifest.shard_chips)
        for shards in map(manifest.shards_of, SPLITS)
        for shard in shards
    )


def _check_keys(dataset: Dataset) -> None:
    keys = dataset.index["key"].to_pylist()
    try:
        for key in keys:
            check_key(key)
    except InputError as error:
        raise InputError(f"{dataset.url}: {error}") from error
    if len(set(keys)) != len(keys):
        raise InputError(f"{dataset.url}: keys occur twice, which a tar cannot tell apart; convert to zarr")
