"""Assembly of finished shards to a dataset: index, rejected chips, statistics and, last, the manifest.

with Assembly(url, layout, base=None) as assembly:
    assembly.add(finished)                  # in the order of the dataset
    manifest = assembly.finish({"treeline": "0.1.0"})

With a base, the manifest of an existing dataset, shards are added to its own. Rows go to disk as they come.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import NothingToKeepError
from shards.format import zarr_v3
from shards.format.file_names import name_in, remove_old_files
from shards.format.index import REJECTED_SCHEMA, index_schema, read_table
from shards.format.manifest import (
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
)
from shards.format.schema import Schema
from shards.format.sealed import json_bytes
from shards.format.statistics import Counts, statistics_json
from shards.storage.checksum import checksum
from shards.storage.copies import copy_object
from shards.storage.inside import check_inside
from shards.storage.objects import Bytes, join, publish
from shards.write.finished_shard import FinishedShard
from shards.write.index_rows import ROWS_PER_GROUP, IndexRows


@dataclass(frozen=True)
class Layout:
    """Facts that all shards of a dataset have in common."""

    schema: Schema
    shard_format: ShardFormat
    shard_chips: int
    """Chips in a full shard."""
    attributes: dict[str, str] = field(default_factory=dict)
    """Further columns of the index: name and type."""


class Assembly:
    """A dataset that is being assembled; see above."""

    def __init__(self, url: str, layout: Layout, base: Manifest | None = None) -> None:
        self._url, self._base = url, base
        self._layout = layout
        self._shards: list[Shard] = []
        self._counts = Counts()
        self._splits: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.first_rejected: dict[str, str] = {}
        """First rejected chip and its detail, by reason."""
        self._split_column: list[str] = []
        self._scratch = tempfile.TemporaryDirectory(prefix="treeline-")
        folder = Path(self._scratch.name)
        self._rows = IndexRows(folder, index_schema(layout.attributes))
        self._refused = pq.ParquetWriter(folder / REJECTED, REJECTED_SCHEMA)
        self._refused_waiting: list[pa.Table] = []
        if base is not None:
            self._take_base(base)

    def __enter__(self) -> "Assembly":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()
        self._refused.close()
        self._scratch.cleanup()

    @property
    def kept(self) -> int:
        """Number of chips so far."""
        return self._rows.count

    @property
    def duplicates(self) -> int:
        """Number of chips with the pixels of an earlier chip; known after `finish`."""
        return self._rows.duplicates

    def add(self, finished: FinishedShard) -> None:
        """Add a finished shard."""
        if finished.shard is not None:
            self._shards.append(finished.shard)
            self._take_rows(finished.index)
            self._counts += finished.counts
        self.refuse(finished.rejected)

    def refuse(self, rejected: pa.Table) -> None:
        """Add rejected chips: key, reason, detail."""
        if rejected.num_rows:
            self._refused_waiting.append(rejected)
            if sum(table.num_rows for table in self._refused_waiting) >= ROWS_PER_GROUP:
                self._write_refused()
            for row in rejected.to_pylist():
                said = f"{row['key']}{': ' if row['detail'] else ''}{row['detail']}"
                self.first_rejected.setdefault(row["reason"], said)
                self.rejected[row["reason"]] += 1

    def describe_rejected(self) -> str:
        """Describe the rejected chips in one line: each reason with its count and its first chip."""
        if not self.rejected:
            return "none rejected"
        return "; ".join(
            f"{count} {reason}, first {self.first_rejected[reason]}"
            for reason, count in self.rejected.most_common()
        )

    def finish(
        self,
        made_by: dict[str, Any],
        split_rule: Mapping[str, Any] | None = None,
        labels: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Write the files and then the manifest; remove the files they replace after that.

        Raises:
            InputError: no chip was kept.
        """
        if not self.kept:
            said = self.describe_rejected()
            raise NothingToKeepError(f"{self._url}: not written, since no chip was kept ({said})")
        layout, generation = self._layout, self._base.generation + 1 if self._base else 0
        self._write_refused()
        self._refused.close()
        contents: dict[str, Bytes] = {
            INDEX: self._rows.parquet(),
            REJECTED: (Path(self._scratch.name) / REJECTED).read_bytes(),
            COUNTS: self._counts.to_bytes(),
            STATISTICS: json_bytes(statistics_json(self._counts, layout.schema)),
        }
        files = publish_files(self._url, contents, generation)
        if layout.shard_format == "zarr":
            files |= publish_files(self._url, self._zarr_metadata(), 0)
        manifest = Manifest(
            schema=layout.schema,
            shard_format=layout.shard_format,
            shard_chips=layout.shard_chips,
            shards=tuple(self._shards),
            files=files,
            rejected=dict(sorted(self.rejected.items(), key=lambda item: (-item[1], item[0]))),
            splits={split: self._splits[split] for split in SPLITS},
            made_by=made_by,
            split_rule=dict(split_rule or {}),
            split_column=split_checksum(self._split_column) if self._split_column else "",
            attributes=layout.attributes,
            generation=generation,
            labels=dict(labels or (self._base.labels if self._base else {})),
        )
        replace_manifest(self._url, manifest)
        return manifest

    def _take_base(self, base: Manifest) -> None:
        self._shards.extend(base.shards)
        self._take_rows(
            read_table(base.url_of(self._url, INDEX), base.files[INDEX], None, int(base.first_chip[-1]))
        )
        self._counts = Counts.from_bytes(base.read(self._url, COUNTS))

    def _take_rows(self, rows: pa.Table) -> None:
        self._rows.add(rows)
        splits = rows["split"].to_pylist()
        self._splits.update(splits)
        if self._base is not None and self._base.split_column:
            self._split_column.extend(splits)

    def _write_refused(self) -> None:
        if self._refused_waiting:
            self._refused.write_table(pa.concat_tables(self._refused_waiting).combine_chunks())
            self._refused_waiting.clear()

    def _zarr_metadata(self) -> dict[str, bytes]:
        samples: Counter[str] = Counter()
        for shard in self._shards:
            samples[shard.split] += shard.samples
        return {
            f"{split}.zarr/{name}": data
            for split, count in samples.items()
            for name, data in zarr_v3.metadata(self._layout.schema, count, self._layout.shard_chips).items()
        }


def publish_files(url: str, contents: Mapping[str, Bytes], generation: int) -> dict[str, StoredObject]:
    """Publish files of a dataset that is changed for the `generation`th time, and describe them by name."""
    stored = {
        name: StoredObject.of(name_in(name, generation), np.frombuffer(data, np.uint8))
        for name, data in contents.items()
    }
    check_inside(url, *(one.name for one in stored.values()))
    for name, data in contents.items():
        publish(join(url, stored[name].name), data)
    return stored


def replace_manifest(url: str, manifest: Manifest) -> None:
    """Publish `manifest` at `url`, then its index as index.parquet; remove files that it does not list."""
    publish(join(url, MANIFEST), json_bytes(manifest.to_json()))
    if manifest.files[INDEX].name != INDEX:
        copy_object(manifest.url_of(url, INDEX), join(url, INDEX))
    remove_old_files(url, manifest)


def split_checksum(splits: list[str]) -> str:
    """Compute the checksum of an index's column "split", as in `Manifest.split_column`."""
    return f"{checksum(chr(10).join(splits).encode()):016x}"
