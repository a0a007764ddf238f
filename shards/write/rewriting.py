"""Shards written anew, each with chips of one split.

    rewriting = Rewriting(url, manifest, index)
    rewriting.take(number, chips)           # for each old shard that is to be written anew
    manifest, index = rewriting.finish(manifest)

New shards are written to the neutral folder. They are nobody's until a manifest lists them, and nothing is
lost with the process before that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from shards.format.file_names import mixed_name, tar_name
from shards.format.manifest import SPLITS, Manifest, Shard, StoredObject
from shards.format.schema import Chip
from shards.format.tar import pack
from shards.storage.checksum import content_checksum
from shards.storage.inside import check_inside
from shards.storage.objects import join, publish, stem_of
from shards.write.index_rows import first_of_same
from shards.write.shard_places import with_shard_names


@dataclass
class _Waiting:
    """Chips of one split that wait for a full shard."""

    chips: list[Chip] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """Their rows in the old index."""


class Rewriting:
    """Chips of old shards on their way to new ones. It holds at most one shard for each split."""

    def __init__(self, url: str, manifest: Manifest, index: Any) -> None:
        """Prepare to write below `url`.

        Args:
            url: the dataset.
            manifest: its manifest.
            index: its index, with the new split of each chip.
        """
        self._url, self._manifest, self._index = url, manifest, index
        self._splits: list[str] = index["split"].to_pylist()
        self._waiting = {split: _Waiting() for split in SPLITS}
        self._made: dict[str, list[tuple[Shard, list[int]]]] = {split: [] for split in SPLITS}
        """New shards of each split, with the rows of their chips in the old index."""
        self._numbers = {
            split: 1 + max((int(stem_of(shard.name)) for shard in manifest.shards_of(split)), default=-1)
            for split in SPLITS
        }
        self._taken: set[int] = set()

    def take(self, number: int, chips: Sequence[Chip]) -> None:
        """Take the chips of the old shard of this number."""
        self._taken.add(number)
        first = int(self._manifest.first_chip[number])
        for row, chip in enumerate(chips, first):
            waiting = self._waiting[self._splits[row]]
            # Copies: a view would keep all chips of its shard in memory.
            image_CHW, height_HW = chip.image_CHW.copy(), chip.height_HW.copy()
            waiting.chips.append(replace(chip, image_CHW=image_CHW, height_HW=height_HW))
            waiting.numbers.append(row)
            if len(waiting.chips) == self._manifest.shard_chips:
                self._write(self._splits[row])

    def finish(self, manifest: Manifest) -> tuple[Manifest, Any]:
        """Write what is left; return manifest and index with the new shards after those that stay.

        `manifest` is the dataset's own, whose shards may have moved since.
        """
        for split in SPLITS:
            self._write(split)
        stay = [number for number in range(len(manifest.shards)) if number not in self._taken]
        made = [one for split in SPLITS for one in self._made[split]]
        first = manifest.first_chip
        rows = [
            *(np.arange(first[number], first[number + 1]) for number in stay),
            *(np.array(numbers, np.int64) for _, numbers in made),
        ]
        shards = (*(manifest.shards[number] for number in stay), *(shard for shard, _ in made))
        changed = replace(manifest, shards=shards)
        index = self._index.take(pa.array(np.concatenate(rows))).combine_chunks()
        place_N = np.concatenate([np.arange(shard.samples) for shard in shards])
        first_N = first_of_same(index["xxh3"].to_numpy())
        twins = index["key"].take(pa.array(first_N, mask=first_N < 0))
        for name, column in (("row", pa.array(place_N, pa.int32())), ("duplicate_of", twins)):
            index = index.set_column(index.schema.get_field_index(name), index.schema.field(name), column)
        return changed, with_shard_names(index, changed)

    def _write(self, split: str) -> None:
        """Write the chips of `split` that wait as a shard."""
        waiting = self._waiting[split]
        if not waiting.chips:
            return
        name = mixed_name(tar_name(split, self._numbers[split]))
        data = pack(waiting.chips, self._manifest.schema)
        check_inside(self._url, name)
        publish(join(self._url, name), data.data)
        content = content_checksum(
            self._index.select(["key", "xxh3"]).take(pa.array(waiting.numbers)).to_pylist()
        )
        stored = StoredObject.of(name, data)
        self._made[split].append((Shard(split, len(waiting.chips), content, (stored,)), waiting.numbers))
        self._numbers[split] += 1
        self._waiting[split] = _Waiting()
