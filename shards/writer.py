"""Writes a dataset: chips in, shards + index + statistics + manifest out, with memory for one shard a split.

with DatasetWriter(url, schema, split_rule, made_by, shard_format="tar") as writer:
    writer.add(chip)
    writer.reject("chip_7", "unreadable", "truncated")
    manifest = writer.finish()
"""

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards import zarr
from shards.checksum import content_checksum
from shards.errors import InputError
from shards.index import INDEX_SCHEMA, REJECTED_SCHEMA, index_rows
from shards.key import split_of
from shards.manifest import (
    COUNTS,
    INDEX,
    MANIFEST,
    REJECTED,
    SPLITS,
    STATISTICS,
    Manifest,
    Shard,
    ShardFormat,
    StoredObject,
    json_bytes,
    refuse_existing,
)
from shards.schema import Chip, Schema
from shards.statistics import Counts, summarise
from shards.storage import check_writable, exists, find_files, join, publish, remove_file, remove_folder
from shards.tar import pack

SHARD_CHIPS = 1024
"""54 MB for 4 bands of 64 x 64: large enough for S3, small enough that a window of shards fits in memory."""


@dataclass(frozen=True)
class SplitRule:
    """Which chips are held out for validation."""

    val_share: float = 0.2
    """Share (0..1) of the names whose hash puts them in "val"."""
    by: str = "key"
    """"key": each chip for itself; "scene": all chips of a scene together."""

    def split(self, chip: Chip) -> str:
        """The split: "train" or "val"."""
        name = chip.scene if self.by == "scene" and chip.scene else chip.key
        return split_of(name, self.val_share)


class DatasetWriter:
    """One dataset in the making. Chips must come in a fixed order for the same bytes to come out."""

    def __init__(
        self,
        url: str,
        schema: Schema,
        split_rule: SplitRule,
        made_by: dict[str, Any],
        shard_chips: int = SHARD_CHIPS,
        shard_format: ShardFormat = "tar",
    ) -> None:
        """Prepare to write below `url`; nothing is written before the first shard is full.

        Raises:
            InputError: `url` holds a dataset or cannot be written.
        """
        refuse_existing(url)
        check_writable(url)
        self._url, self._schema, self._split_rule = url, schema, split_rule
        self._made_by, self._shard_chips, self._shard_format = made_by, shard_chips, shard_format
        self._existed = exists(url)
        self._waiting: dict[str, list[Chip]] = {split: [] for split in SPLITS}
        self._shards: list[Shard] = []
        self._published: list[str] = []
        self._counts = Counts.empty(schema)
        self.kept = 0
        self.rejected: Counter[str] = Counter()
        self.first_rejected: dict[str, str] = {}
        """By reason: the first chip that was refused for it, and the detail."""
        # Rows leave memory as they come: an index of half a million chips is built on disk.
        self._scratch = tempfile.TemporaryDirectory(prefix="treeline-")
        self._index = pq.ParquetWriter(Path(self._scratch.name) / INDEX, INDEX_SCHEMA)
        self._refused = pq.ParquetWriter(Path(self._scratch.name) / REJECTED, REJECTED_SCHEMA)
        self._refused_rows: list[dict[str, str]] = []

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._index.close()
        self._refused.close()
        self._scratch.cleanup()
        # After a mistake of the user's nothing is worth keeping; after a failure, finished shards may be.
        if isinstance(error, InputError):
            for name in self._published:
                remove_file(join(self._url, name))
            if not self._existed:
                remove_folder(self._url)

    def add(self, chip: Chip, split: str | None = None) -> None:
        """Keep `chip`, already checked against the schema, in `split` or the one that the rule says."""
        split = split or self._split_rule.split(chip)
        self._waiting[split].append(chip)
        self.kept += 1
        if len(self._waiting[split]) == self._shard_chips:
            self._flush(split)

    def add_shard(self, split: str, chips: Sequence[Chip]) -> None:
        """Keep `chips`, checked already, as one shard of `split`, whatever the split rule says."""
        self.kept += len(chips)
        self._write_shard(split, chips)

    def reject(self, key: str, reason: str, detail: str = "") -> None:
        """Count and list a refused chip."""
        self.rejected[reason] += 1
        self.first_rejected.setdefault(reason, f"{key}{': ' if detail else ''}{detail}")
        self._refused_rows.append({"key": key, "reason": reason, "detail": detail})
        if len(self._refused_rows) == self._shard_chips:
            self._flush_refused()

    def finish(self) -> Manifest:
        """Write what is left, the index, the statistics and, last, the manifest.

        Raises:
            InputError: no chip was kept.
        """
        if not self.kept:
            raise InputError(f"{self._url}: not written, since no chip was kept ({self.describe_rejected()})")
        for split in SPLITS:
            self._flush(split)
        self._flush_refused()
        self._index.close()
        self._refused.close()
        self._remove_unlisted_shards()
        statistics = summarise(self._counts, self._schema)
        files = {name: (Path(self._scratch.name) / name).read_bytes() for name in (INDEX, REJECTED)}
        files[COUNTS] = self._counts.to_bytes()
        files[STATISTICS] = json_bytes(statistics.to_json() if statistics else {})
        if self._shard_format == "zarr":
            files |= self._zarr_metadata()
        for name, data in files.items():
            publish(join(self._url, name), data)
        manifest = Manifest(
            schema=self._schema,
            shard_format=self._shard_format,
            shard_chips=self._shard_chips,
            shards=tuple(self._shards),
            files={name: StoredObject.of(name, data) for name, data in files.items()},
            rejected=dict(sorted(self.rejected.items(), key=lambda item: (-item[1], item[0]))),
            made_by=self._made_by,
        )
        publish(join(self._url, MANIFEST), json_bytes(manifest.to_json()))
        return manifest

    def describe_rejected(self) -> str:
        """One line: each reason with its count and its first chip."""
        if not self.rejected:
            return "none rejected"
        return "; ".join(
            f"{count} {reason}, first {self.first_rejected[reason]}"
            for reason, count in self.rejected.most_common()
        )

    def _flush(self, split: str) -> None:
        if self._waiting[split]:
            self._write_shard(split, self._waiting[split])
            self._waiting[split].clear()

    def list_shard(
        self, split: str, chips: Sequence[Chip], objects: Sequence[StoredObject], **columns: list[int]
    ) -> None:
        """Take in a shard that is stored already; `columns` go into the index as they are."""
        self.kept += len(chips)
        self._list_shard(split, chips, objects, **columns)

    def _write_shard(self, split: str, chips: Sequence[Chip]) -> None:
        number = sum(shard.split == split for shard in self._shards)
        if self._shard_format == "zarr":
            encoded = zarr.encode(chips, self._schema, self._shard_chips)
            objects = {
                f"{split}.zarr/{zarr.object_name(array, number)}": encoded[array] for array in zarr.ARRAYS
            }
        else:
            objects = {f"{split}/{number:06d}.tar": pack(chips, self._schema)}
        for name, data in objects.items():
            publish(join(self._url, name), data)
            self._published.append(name)
        self._list_shard(split, chips, [StoredObject.of(name, data) for name, data in objects.items()])

    def _list_shard(
        self, split: str, chips: Sequence[Chip], objects: Sequence[StoredObject], **columns: list[int]
    ) -> None:
        rows = index_rows(chips, split, objects[0].name)
        for name, values in columns.items():
            for row, value in zip(rows, values, strict=True):
                row[name] = value
        self._index.write_batch(pa.RecordBatch.from_pylist(rows, schema=INDEX_SCHEMA))
        if split == "train":
            self._counts.add_chips(chips)
        self._shards.append(Shard(split, len(chips), content_checksum(rows), tuple(objects)))

    def _zarr_metadata(self) -> dict[str, bytes]:
        samples = {s: sum(shard.samples for shard in self._shards if shard.split == s) for s in SPLITS}
        return {
            f"{split}.zarr/{name}": data
            for split in SPLITS
            if samples[split]
            for name, data in zarr.metadata(self._schema, samples[split], self._shard_chips).items()
        }

    def _remove_unlisted_shards(self) -> None:
        """Shards that a run which never finished left here: no part of this dataset."""
        if self._shard_format == "webdataset":
            return  # what is there is not ours
        listed = {stored.name for shard in self._shards for stored in shard.objects}
        for folder in [f"{split}{ending}" for split in SPLITS for ending in ("", ".zarr")]:
            for name in find_files(join(self._url, folder)):
                if f"{folder}/{name}" not in listed and _is_shard(name):
                    remove_file(join(self._url, folder, name))

    def _flush_refused(self) -> None:
        self._refused.write_batch(pa.RecordBatch.from_pylist(self._refused_rows, schema=REJECTED_SCHEMA))
        self._refused_rows.clear()


def _is_shard(name: str) -> bool:
    """Whether `name`, below a split's folder, is one that a writer gives."""
    return re.fullmatch(r"\d{6}\.tar|(image|height)/(c/\d+(/0)+|zarr\.json)|zarr\.json", name) is not None
