"""`treeline verify`: reads everything a dataset holds, and compares all that is recorded twice.

It compares files and shards with their checksums, pixels with the index and its facts about heights, names
and origins in tars with the index, counts with the manifest, and statistics with the pixels. It also lists
files that do not belong to the dataset.
"""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Container, Iterator
from typing import Any

import numpy as np

from shards.commands.convert import chips_of_shard, splits_of_shard
from shards.config import VerifyConfig
from shards.errors import DatasetError, InputError, one_line
from shards.format.index import INDEX_SCHEMA, REJECTED_SCHEMA, index_rows
from shards.format.manifest import (
    COUNTS,
    FILES,
    INDEX,
    MANIFEST,
    REJECTED,
    STATISTICS,
    WITHOUT_CHIPS,
    read_json,
)
from shards.format.schema import Chip
from shards.format.statistics import Counts, statistics_json
from shards.progress import progress
from shards.read.dataset import Dataset, open_dataset
from shards.storage.checksum import content_checksum
from shards.storage.limits import CHIPS
from shards.storage.objects import exists, find_files, join, read_bytes
from shards.storage.typed_json import shown
from shards.write.assembly import split_checksum
from shards.write.split_rule import SplitRule

Problems = list[str]


def verify(config: VerifyConfig) -> Problems:
    """Return one line for each problem; none if the dataset is sound.

    Raises:
        InputError: there is no dataset.
        DatasetError: its manifest is damaged, so that nothing can be compared.
    """
    dataset = open_dataset(config.data)
    problems = [*_of_files(dataset)]
    problems += [] if problems else [*_of_manifest(dataset)]
    if problems:  # without a sound index, shards cannot be compared with it
        return [*problems, *_of_unlisted(dataset)]
    counts = Counts()
    keys: dict[str, str] = {}
    shards = dataset.manifest.shards
    with progress("verify", sum(shard.samples for shard in shards), "chips") as advance:
        for number, shard in enumerate(shards):
            try:
                chips = list(chips_of_shard(dataset, number))
                problems += _of_shard(dataset, number, chips)
                splits = splits_of_shard(dataset, number)
                counts += Counts.of_chips(
                    [c for c, split in zip(chips, splits, strict=True) if split == "train"],
                    dataset.schema,
                )
                for chip in chips:
                    if chip.key in keys:
                        problems.append(f"{shard.name}: key {chip.key} is also in {keys[chip.key]}")
                    keys.setdefault(chip.key, shard.name)
            except (DatasetError, InputError) as error:
                problems.append(str(error))
            except (tarfile.TarError, ValueError, EOFError) as error:
                url = join(dataset.url, shard.name)
                problems.append(f"{url}: members of the tar cannot be read ({one_line(error)[:200]})")
            advance(shard.samples, f"problems: {len(problems):,}")
    if not problems:  # statistics can only be compared if all pixels can be read
        problems += _of_statistics(dataset, counts)
    return [*problems, *_of_unlisted(dataset)]


def _of_files(dataset: Dataset) -> Iterator[str]:
    for name in sorted({*FILES, *dataset.manifest.files}):
        try:
            if name not in dataset.manifest.files:
                yield f"{join(dataset.url, name)}: the manifest does not list it"
                continue
            url = dataset.manifest.url_of(dataset.url, name)
            dataset.manifest.files[name].check(url, read_bytes(url))
        except (DatasetError, InputError) as error:
            yield str(error)
    plain, current = join(dataset.url, INDEX), dataset.manifest.files.get(INDEX)
    if current and current.name != INDEX and exists(plain) and not current.is_of(read_bytes(plain)):
        yield f"{plain}: is not the current index, {current.name}; treeline split, for example, renews it"


def _of_manifest(dataset: Dataset) -> Iterator[str]:
    """Compare the manifest's own counts with the index and the rejected chips; open all files beside them."""
    manifest, where = dataset.manifest, join(dataset.url, MANIFEST)
    stated = read_json(where)
    if stated["fingerprint"] != manifest.fingerprint:
        yield f"{where}: fingerprint is {shown(stated['fingerprint'])}, not {manifest.fingerprint}"
    try:
        index, rejected = dataset.index, dataset.rejected
        Counts.from_bytes(manifest.read(dataset.url, COUNTS), manifest.url_of(dataset.url, COUNTS))
        if read_json(manifest.url_of(dataset.url, STATISTICS)):
            _ = dataset.statistics
    except (DatasetError, InputError) as error:
        yield str(error)
        return
    if manifest.split_rule:
        try:
            SplitRule.from_json(manifest.split_rule, f"{where}: split_rule")
        except InputError as error:
            yield str(error)
    found = Counter(index["split"].to_pylist())
    for split in sorted({*manifest.splits, *found}):
        if manifest.samples(split) != found[split]:
            yield f"{where}: splits.{split} is {manifest.samples(split):,}; the index has {found[split]:,}"
    if rejected.schema.names != REJECTED_SCHEMA.names:
        yield f"{dataset.manifest.url_of(dataset.url, REJECTED)}: has columns {shown(rejected.schema.names)}"
        return
    reasons = Counter(rejected["reason"].to_pylist())
    for reason in sorted({*manifest.rejected, *reasons}, key=str):
        if manifest.rejected.get(reason, 0) != reasons[reason]:
            yield (
                f"{where}: rejected[{shown(reason)}] is {manifest.rejected.get(reason, 0):,}; "
                f"{REJECTED} has {reasons[reason]:,}"
            )
    if set(manifest.attributes) != set(index.schema.names) - set(INDEX_SCHEMA.names):
        yield f"{where}: attributes {shown(list(manifest.attributes))} are not the index's further columns"
    if manifest.split_column and manifest.split_column != split_checksum(index["split"].to_pylist()):
        yield f"{where}: split_column is not the checksum of the index's splits"
    if unlabelled := set(manifest.labels) - set(manifest.attributes):
        yield f"{where}: labels {shown(sorted(unlabelled))} are no columns of the index"
    most = max((shard.samples for shard in manifest.shards), default=0)
    asked = manifest.made_by.get("config", {}).get("shard_chips", CHIPS.most)
    if manifest.shard_format != "webdataset" and most > manifest.shard_chips:
        yield f"{where}: shard_chips is {manifest.shard_chips:,}; a shard has {most:,}"
    elif isinstance(asked, int) and manifest.shard_chips > asked:
        yield f"{where}: shard_chips is {manifest.shard_chips:,}; at most {asked:,} were asked for"


def _of_shard(dataset: Dataset, number: int, chips: list[Chip]) -> Iterator[str]:
    """Compare a shard, whose own checksum is right, with the index and the manifest."""
    shard = dataset.manifest.shards[number]
    url = join(dataset.url, shard.name)
    numbers = dataset.chips_of_shard(number)
    stated = dataset.index.slice(int(numbers[0]), len(numbers)).to_pylist()
    splits = splits_of_shard(dataset, number)
    rows = index_rows(chips, shard.split, shard.name, dataset.schema)
    for row, found, split in zip(stated, rows, splits, strict=True):
        found["split"] = split
        wrong = [name for name, value in found.items() if not _equal(row[name], value)]
        if wrong:
            yield f"{url}: chip {row['key']}: its {', '.join(wrong)} in the index is not what its pixels say"
    if content_checksum(stated) != shard.content:
        yield f"{url}: keys and checksums in the index are not those of the manifest"
    if dataset.manifest.shard_format == "tar":
        yield from _of_tar(url, chips, dataset.manifest.labels)


def _equal(stated: Any, found: Any) -> bool:
    # The index keeps facts about heights as float32.
    return bool(np.float32(stated) == np.float32(found)) if isinstance(found, float) else stated == found


def _of_tar(url: str, chips: list[Chip], labels: Container[str]) -> Iterator[str]:
    """Compare what other readers see in the tar: the members' names, arrays and origins.

    `labels` are attributes that came later: tars of that time do not have them.
    """
    members: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(read_bytes(url)), mode="r:") as archive:
        for info in archive:
            content = archive.extractfile(info)
            members[info.name] = content.read() if content else b""
    for chip in chips:
        for ending, array in (("image.npy", chip.image_CHW), ("height.npy", chip.height_HW)):
            if not array.size:  # a dataset without labels
                continue
            member = members.get(f"{chip.key}.{ending}")
            if member is None or not np.array_equal(
                np.load(io.BytesIO(member), allow_pickle=False),
                array,
                equal_nan=array.dtype.kind == "f",
            ):
                yield f"{url}: {chip.key}.{ending} is missing or is another array"
        origin = members.get(f"{chip.key}.json")
        if origin is None or _without(json.loads(origin), labels) != _without(chip.origin(), labels):
            yield f"{url}: {chip.key}.json is missing or is not what the index says"


def _without(origin: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    """Return a chip's origin without these attributes."""
    attributes = {name: value for name, value in origin.get("attributes", {}).items() if name not in names}
    return {**origin, "attributes": attributes}


def _of_statistics(dataset: Dataset, counts: Counts) -> Iterator[str]:
    url = dataset.manifest.url_of(dataset.url, COUNTS)
    if Counts.from_bytes(read_bytes(url)) != counts:
        yield f"{url}: is not what the pixels of the training split say"
    # JSON turns tuples into lists, so both sides go through it.
    found = json.loads(json.dumps(statistics_json(counts, dataset.schema)))
    url = dataset.manifest.url_of(dataset.url, STATISTICS)
    if found != read_json(url):
        yield f"{url}: is not what the pixels of the training split say"


def _of_unlisted(dataset: Dataset) -> Iterator[str]:
    """List files that look like files of the dataset but are not listed in it."""
    manifest = dataset.manifest
    listed = {stored.name for shard in manifest.shards for stored in shard.objects}
    listed |= {MANIFEST, INDEX, *(stored.name for stored in manifest.files.values())}
    listed |= {*manifest.made_by.get(WITHOUT_CHIPS, ())}
    for name in find_files(dataset.url):
        # A folder of foreign tars may hold any other files; only a tar that ingest did not see is reported.
        is_theirs = manifest.shard_format == "webdataset" and not name.lower().endswith(".tar")
        is_hidden = name.rsplit("/", 1)[-1].startswith(".")  # files that desktops leave in folders
        if name not in listed and not (is_theirs or is_hidden):
            yield f"{join(dataset.url, name)}: is not listed in {MANIFEST}"
