"""A writer of datasets: chips in; shards, index, statistics and manifest out. It holds one shard per split.

with DatasetWriter(url, schema, made_by, shard_format="tar") as writer:
    writer.add(chip, "train")
    writer.reject("chip_7", "unreadable", "truncated")
    manifest = writer.finish()
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from shards.errors import InputError
from shards.format.file_names import refuse_foreign, remove_unlisted_shards
from shards.format.manifest import (
    SPLITS,
    UNFINISHED,
    Manifest,
    ShardFormat,
    StoredObject,
    refuse_existing,
)
from shards.format.schema import Chip, Schema
from shards.format.shard_cut import SHARD_CHIPS
from shards.storage.objects import check_writable, exists, join, publish, remove_file, remove_folder
from shards.write.assembly import Assembly, Layout
from shards.write.finished_shard import finished_shard, rejected_table, write_shard


class DatasetWriter:
    """A dataset in the making. The same chips in the same order give the same bytes."""

    def __init__(
        self,
        url: str,
        schema: Schema,
        made_by: dict[str, Any],
        shard_chips: int = SHARD_CHIPS,
        shard_format: ShardFormat = "tar",
        attributes: Mapping[str, str] | None = None,
        split_rule: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare to write below `url`; nothing is written before the first shard is full.

        Raises:
            InputError: `url` holds a dataset or files that would be overwritten, or cannot be written.
        """
        refuse_existing(url)
        self._marked = exists(join(url, UNFINISHED))
        if not self._marked:
            refuse_foreign(url, with_shards=shard_format != "webdataset")
        check_writable(url)
        self._url, self._made_by, self._split_rule = url, made_by, split_rule
        self._layout = Layout(schema, shard_format, shard_chips, dict(attributes or {}))
        self._existed = exists(url)
        self._waiting: dict[str, list[Chip]] = {split: [] for split in SPLITS}
        self._numbers: Counter[str] = Counter()
        self._listed: set[str] = set()
        self._assembly = Assembly(url, self._layout)
        self.kept = 0

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._assembly.__exit__(kind, error, trace)
        # After a mistake by the user nothing is worth keeping.
        if isinstance(error, InputError):
            if self._layout.shard_format != "webdataset":
                for name in self._listed:
                    remove_file(join(self._url, name))
            if self._marked:
                remove_file(join(self._url, UNFINISHED))
            if not self._existed:
                remove_folder(self._url)

    def add(self, chip: Chip, split: str) -> None:
        """Keep `chip`, already checked against the schema, in `split`."""
        self._waiting[split].append(chip)
        self.kept += 1
        if len(self._waiting[split]) == self._layout.shard_chips:
            self._flush(split)

    def add_shard(self, split: str, chips: Sequence[Chip]) -> None:
        """Keep `chips`, checked already, as one shard of `split`."""
        self.kept += len(chips)
        self._write_shard(split, chips)

    def list_shard(
        self, split: str, chips: Sequence[Chip], objects: Sequence[StoredObject], **columns: list[int]
    ) -> None:
        """List a shard that is stored already; `columns` go into the index as they are."""
        self.kept += len(chips)
        self._list_shard(split, chips, objects, columns)

    @property
    def rejected(self) -> Counter[str]:
        """Number of rejected chips so far, by reason."""
        return self._assembly.rejected

    def reject(self, key: str, reason: str, detail: str = "") -> None:
        """Count and list a rejected chip."""
        self._assembly.refuse(rejected_table([{"key": key, "reason": reason, "detail": detail}]))

    def finish(
        self, labels: Mapping[str, Any] | None = None, record: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Write the remaining chips, the index, the statistics and, last, the manifest.

        Args:
            labels: as in the manifest.
            record: further entries of the manifest's `made_by`.

        Raises:
            InputError: no chip was kept.
        """
        for split in SPLITS:
            self._flush(split)
        if self.kept and self._layout.shard_format != "webdataset":  # there, unlisted files are not ours
            remove_unlisted_shards(self._url, self._listed)
        manifest = self._assembly.finish({**self._made_by, **(record or {})}, self._split_rule, labels)
        remove_file(join(self._url, UNFINISHED))
        return manifest

    def describe_rejected(self) -> str:
        """Describe the rejected chips in one line: each reason with its count and its first chip."""
        return self._assembly.describe_rejected()

    def _flush(self, split: str) -> None:
        if self._waiting[split]:
            self._write_shard(split, self._waiting[split])
            self._waiting[split].clear()

    def _write_shard(self, split: str, chips: Sequence[Chip]) -> None:
        layout, number = self._layout, self._numbers[split]
        self._mark()
        objects = write_shard(
            self._url, (split, number), chips, layout.schema, layout.shard_format, layout.shard_chips
        )
        self._list_shard(split, chips, objects, {})

    def _list_shard(
        self,
        split: str,
        chips: Sequence[Chip],
        objects: Sequence[StoredObject],
        columns: Mapping[str, Sequence[int]],
    ) -> None:
        layout = self._layout
        self._mark()
        self._assembly.add(
            finished_shard((split, objects), chips, layout.schema, layout.attributes, columns=columns)
        )
        self._numbers[split] += 1
        self._listed |= {stored.name for stored in objects}

    def _mark(self) -> None:
        """Mark the place as ours, before anything else is written."""
        if not self._marked:
            publish(join(self._url, UNFINISHED), b"")
            self._marked = True
