"""Writes a dataset: chips in, shards + index + statistics + manifest out, with memory for one shard a split.

with DatasetWriter(url, schema, split_rule, made_by) as writer:
    writer.add(chip)
    writer.reject("chip_7", "unreadable", "truncated")
    manifest = writer.finish()
"""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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
    refuse_existing,
    write_json,
)
from shards.schema import Chip, Schema
from shards.statistics import Counts, summarise
from shards.storage import (
    check_writable,
    exists,
    join,
    list_files,
    publish,
    remove_file,
    remove_folder,
    staged,
)
from shards.tar import pack

SHARD_CHIPS = 1000
"""About 50 MB for 4 bands of 64 x 64: large enough for S3, small enough that a window of shards fits."""


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
    ) -> None:
        """Prepare to write below `url`; nothing is written before the first shard is full.

        Raises:
            InputError: `url` holds a dataset or cannot be written.
        """
        refuse_existing(url)
        check_writable(url)
        self._url, self._schema, self._split_rule = url, schema, split_rule
        self._made_by, self._shard_chips = made_by, shard_chips
        self._existed = exists(url)
        self._waiting: dict[str, list[Chip]] = {split: [] for split in SPLITS}
        self._shards: list[Shard] = []
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
            for shard in self._shards:
                remove_file(join(self._url, shard.name))
            if not self._existed:
                remove_folder(self._url)

    def add(self, chip: Chip) -> None:
        """Keep `chip`, which must already be checked against the schema."""
        waiting = self._waiting[self._split_rule.split(chip)]
        waiting.append(chip)
        self.kept += 1
        if len(waiting) == self._shard_chips:
            self._flush(self._split_rule.split(chip))

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
        for name in (INDEX, REJECTED):
            with staged(join(self._url, name)) as path:
                path.write_bytes((Path(self._scratch.name) / name).read_bytes())
        self._remove_unlisted_shards()
        statistics = summarise(self._counts, self._schema)
        publish(join(self._url, COUNTS), self._counts.to_bytes())
        write_json(join(self._url, STATISTICS), statistics.to_json() if statistics else {})
        rejected = dict(sorted(self.rejected.items(), key=lambda item: (-item[1], item[0])))
        manifest = Manifest(self._schema, tuple(self._shards), rejected, self._made_by)
        write_json(join(self._url, MANIFEST), manifest.to_json())
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
        chips = self._waiting[split]
        if not chips:
            return
        number = sum(shard.split == split for shard in self._shards)
        name = f"{split}/{number:06d}.tar"
        data = pack(chips, self._schema)
        publish(join(self._url, name), data)
        self._index.write_batch(index_rows(chips, split, name))
        if split == "train":
            images = np.stack([chip.image_CHW for chip in chips])
            self._counts.add(images, np.stack([chip.height_HW for chip in chips]))
        self._shards.append(Shard(name, split, len(chips), len(data), google_crc32c.value(data)))
        chips.clear()

    def _remove_unlisted_shards(self) -> None:
        """Shards that a run which never finished left here: no part of this dataset."""
        listed = {shard.name for shard in self._shards}
        for split in SPLITS:
            if exists(join(self._url, split)):
                names = {f"{split}/{name}" for name in list_files(join(self._url, split), ".tar")}
                for name in names - listed:
                    remove_file(join(self._url, name))

    def _flush_refused(self) -> None:
        self._refused.write_batch(pa.RecordBatch.from_pylist(self._refused_rows, schema=REJECTED_SCHEMA))
        self._refused_rows.clear()
