"""The plan of an ingest: the candidates of each shard, and the shards of each task.

The list of candidates alone decides it, so any process can make any shard. A shard is a run of candidates of
one split, in their order; candidates refused later leave it shorter. A task makes one shard. Where candidates
share bytes (the strips of a scene), it makes the shards of some thousands of neighbours, so that these bytes
are read once.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from ingest.chips.attributes import SHIFTS
from ingest.chips.registration import MIN_SIDE
from ingest.chips.source import GROUP, PLACE, Candidates, Refused
from ingest.config import IngestConfig, request_of
from shards.config import SplitOptions
from shards.errors import InputError
from shards.format.index import ATTRIBUTE_TYPES
from shards.format.key import FACTS, MAX_KEY, KeyFacts, facts, is_valid, key_pattern
from shards.format.manifest import SPLITS
from shards.format.schema import ORIGIN, Schema
from shards.format.shard_cut import chips_in_shard
from shards.write.places import each_of, places_of
from shards.write.split_auto import chosen
from shards.write.split_rule import SplitRule, assign, continued, resolved

SHARDS_PER_TASK = 4
"""Full shards in a task whose candidates share bytes: enough that tasks read little twice where they meet."""
_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be made."""

    split: str
    number: int
    """Number of the shard in its split, from 0."""
    rows: NDArray[np.int64]
    """Ascending rows of the plan's table."""

    @property
    def name(self) -> str:
        """Name of the shard's part, without fingerprint and ending."""
        return f"{self.split}-{self.number:06d}"


ShardTask = tuple[ShardPlan, ...]
"""Shards that one worker makes in one go."""


@dataclass(frozen=True)
class IngestPlan:
    """Everything that an ingest will do."""

    table: pa.Table
    """Candidates to read, with all facts from their keys."""
    refused: list[Refused]
    """Candidates refused without being read."""
    tasks: list[ShardTask]
    shard_chips: int
    """Chips in a full shard."""
    rule: SplitRule
    """Rule that assigns candidates to splits."""
    choice: str
    """Line that says which rule was chosen, with --split-by auto; "" if the user chose it."""
    attributes: dict[str, str]
    """Types of the index's further columns, by name."""
    present: int
    """Number of candidates that the dataset holds already."""
    unparsed: int
    """Number of candidates whose key yields no fact; 0 if the source knows every sensor."""
    sceneless: int
    """Number of candidates without a scene in a split by scene; each is assigned by its own key."""
    mixed: int
    """Number of candidates, in a split by key, whose scene an earlier candidate has too."""
    request: str
    """Fingerprint of the request: options and candidates."""
    fingerprint: str
    """Fingerprint of all that decides the result: the request and the dataset it adds to."""

    def shards(self) -> Iterator[ShardPlan]:
        """Yield the shards in the order of the dataset: split by split."""
        every = [shard for task in self.tasks for shard in task]
        yield from sorted(every, key=lambda shard: (SPLITS.index(shard.split), shard.number))


@dataclass(frozen=True)
class Present:
    """Contents of the dataset that an ingest adds to; empty for a new one."""

    keys: frozenset[str] = frozenset()
    rule: SplitRule | None = None
    shards: Counter[str] | None = None
    """Number that the next shard of each split gets."""
    fingerprint: str = ""


def make_plan(candidates: Candidates, schema: Schema, config: IngestConfig, present: Present) -> IngestPlan:
    """Deal the candidates to shards.

    Raises:
        InputError: an option makes no sense here, or the split needs positions that are unknown.
    """
    if config.registration and not schema.label:
        raise InputError("--registration: there are no heights to compare with the images; leave it out")
    if config.registration and schema.chip_size < MIN_SIDE:
        raise InputError(f"--registration: needs chips of {MIN_SIDE} pixels or more a side; leave it out")
    asked = SplitRule.of(config)
    followed = _followed(asked, present.rule) if present.rule is not None else None
    if present.rule is not None and followed is None:
        raise InputError(
            f"--append: the dataset is split by {present.rule.by} in shares {present.rule.shares}, and new "
            "chips follow it; leave out the split options, and use treeline split to change the split"
        )
    pattern = key_pattern(config.key_pattern) if config.key_pattern else None
    table, refused, already = _usable(candidates, present.keys)
    known, unparsed = _known(table["key"], pattern)
    for name in FACTS:
        if name not in table.column_names:
            table = table.append_column(name, known[name])
    places = places_of(table, schema, (followed or asked).region_column)
    asked, choice = (asked, "") if followed else chosen(asked, places)
    rule = continued(followed, places) if followed else resolved(asked, places)
    splits = np.asarray(assign(rule, places))
    shard_chips = chips_in_shard(schema, config.shard_chips, config.shard_bytes)
    tasks = _tasks(table, splits, shard_chips, present.shards or Counter())
    table = _finite(table)
    attributes = _attributes(table) | (SHIFTS if config.registration else {})
    request = _fingerprint(
        request_of(config), _as_begun_before(schema), _digest(candidates.table), candidates.refused
    )
    fingerprint = _fingerprint(request, present.fingerprint)
    scenes = table["scene"].drop_null()
    return IngestPlan(
        table=table,
        refused=refused,
        tasks=tasks,
        shard_chips=shard_chips,
        rule=rule,
        choice=choice,
        attributes=attributes,
        present=already,
        unparsed=unparsed if table["sensor"].null_count else 0,
        sceneless=table["scene"].null_count if rule.by == "scene" else 0,
        mixed=len(scenes) - len(scenes.unique()) if rule.by == "key" else 0,
        request=request,
        fingerprint=fingerprint,
    )


def _followed(asked: SplitRule, present: SplitRule) -> SplitRule | None:
    """Return the dataset's own rule, with the angles of further regions if `asked` names such.

    None: a change is asked for; `asked` is neither the default rule nor the dataset's.
    """
    if asked.by == "auto":
        asked = replace(asked, by=SplitOptions.split_by)
    # Without --split-by, options of blocks and strips do nothing, and may be taken over from the dataset.
    if asked == SplitRule(block_size=asked.block_size, axis=asked.axis):
        return present
    if asked.by != present.by:
        return None
    same = replace(asked, edges=present.edges, crs=present.crs, grids=present.grids)
    has_its_angles = present.angles.items() <= same.angles.items()
    return same if has_its_angles and replace(same, angle=present.angle) == present else None


def _usable(candidates: Candidates, present: frozenset[str]) -> tuple[pa.Table, list[Refused], int]:
    """Return the candidates to read, those refused so far, and the number that the dataset holds already."""
    refused, already = list(candidates.refused), 0
    seen: set[str] = set()
    usable: list[int] = []
    for row, key in enumerate(each_of(candidates.table["key"])):
        if not is_valid(key):
            said = f"only letters, digits, _ and -, at most {MAX_KEY} of them"
            refused.append(Refused(key, "unusable key", said))
        elif key in seen:
            refused.append(Refused(key, "duplicate key", "an earlier chip has the same key"))
        elif key in present:
            already += 1
        else:
            seen.add(key)
            usable.append(row)
    table = candidates.table
    return (
        (table if len(usable) == table.num_rows else table.take(np.array(usable, np.int64))),
        refused,
        already,
    )


def _known(keys: pa.ChunkedArray, pattern: re.Pattern[str] | None) -> tuple[dict[str, pa.ChunkedArray], int]:
    """Parse the keys into a column for each fact, and count those that yield none.

    Keys are parsed some thousands at a time: half a million keys and their facts as Python objects would take
    as much memory as a worker.
    """
    columns: dict[str, list[pa.Array]] = {name: [] for name in FACTS}
    unparsed = 0
    for start in range(0, len(keys), _ROWS_AT_ONCE):
        known = [facts(key, pattern) for key in keys.slice(start, _ROWS_AT_ONCE).to_pylist()]
        unparsed += known.count(KeyFacts())
        for name, arrays in columns.items():
            arrays.append(pa.array([getattr(fact, name) for fact in known], _kind(name)))
    return {name: pa.chunked_array(arrays, _kind(name)) for name, arrays in columns.items()}, unparsed


def _kind(fact: str) -> pa.DataType:
    return pa.int64() if fact == "number" else pa.string()


def _tasks(table: pa.Table, splits: NDArray[Any], shard_chips: int, numbers: Counter[str]) -> list[ShardTask]:
    numbers = Counter(numbers)
    tasks: list[ShardTask] = []
    if GROUP not in table.column_names:
        for split in SPLITS:
            rows = np.flatnonzero(splits == split)
            tasks += [(shard,) for shard in _shards(split, rows, shard_chips, numbers)]
        return tasks
    for start, stop in _neighbours(table[GROUP].to_numpy(), SHARDS_PER_TASK * shard_chips):
        within = splits[start:stop]
        task: list[ShardPlan] = []
        for split in SPLITS:
            task += _shards(split, np.flatnonzero(within == split) + start, shard_chips, numbers)
        tasks.append(tuple(task))
    return tasks


def _shards(
    split: str, rows: NDArray[np.int64], shard_chips: int, numbers: Counter[str]
) -> Iterator[ShardPlan]:
    """Deal the rows of one split to as few shards as they need; sizes differ by at most one."""
    if not rows.size:
        return
    for part in np.array_split(rows, -(-rows.size // shard_chips)):
        yield ShardPlan(split, numbers[split], part)
        numbers[split] += 1


def _neighbours(groups: NDArray[Any], least: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows that hold whole groups; each but the last has `least` rows or more."""
    ends = [*(np.flatnonzero(np.diff(groups)) + 1).tolist(), groups.size]
    start = 0
    for end in ends:
        if end - start >= least or end == groups.size:
            if end > start:
                yield start, end
            start = end


def _finite(table: pa.Table) -> pa.Table:
    """Replace infinite numbers by null: JSON has none."""
    for place, column in enumerate(table.schema):
        if column.type == pa.float64():
            values = table.column(place)
            values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))
            table = table.set_column(place, column.name, values)
    return table


def _attributes(table: pa.Table) -> dict[str, str]:
    """Return the types of the columns that are neither origin nor the source's own."""
    kinds = {kind: name for name, kind in ATTRIBUTE_TYPES.items()}
    return {
        field.name: kinds[field.type]
        for field in table.schema
        if field.name not in ORIGIN and not field.name.startswith(PLACE)
    }


def _as_begun_before(schema: Schema) -> dict[str, Any]:
    """Return the schema without what the places of chips decide: ingests begun before did not record it."""
    decided = ("pixel_height", "pixel_unit", "pixel_metres")
    return {name: value for name, value in schema.to_json().items() if name not in decided}


def _fingerprint(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _digest(table: pa.Table) -> str:
    """Hash a table's names, types and values; their layout in memory does not matter."""
    digest = xxhash.xxh3_128(str(table.schema.remove_metadata()).encode())
    fields = [
        pa.field(field.name, field.type.value_type if pa.types.is_dictionary(field.type) else field.type)
        for field in table.schema
    ]
    for start in range(0, table.num_rows, _ROWS_AT_ONCE):
        # take, not slice: a slice keeps its whole buffers.
        piece = table.take(np.arange(start, min(start + _ROWS_AT_ONCE, table.num_rows)))
        piece = piece.cast(pa.schema(fields)).combine_chunks()
        digest.update(piece.to_batches()[0].serialize())
    return digest.hexdigest()
