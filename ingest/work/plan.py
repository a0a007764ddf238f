"""Which candidate goes to which shard: decided from the list alone, so that any process can make any shard.

A shard is a run of candidates of one split, in their order; those that are refused later leave it shorter.
A task makes one shard or, where candidates share bytes (the strips of a scene), the shards of some thousands
of neighbours, so that these bytes are read once.
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
from shards.errors import InputError
from shards.format.index import ATTRIBUTE_TYPES
from shards.format.key import FACTS, MAX_KEY, KeyFacts, facts, is_valid, key_pattern
from shards.format.manifest import SPLITS
from shards.format.schema import ORIGIN, Schema
from shards.format.shard_cut import chips_in_shard
from shards.write.split_rule import SplitRule, assign, each_of, places_of, resolved

SHARDS_PER_TASK = 4
"""Of candidates that share bytes: enough that little is read twice where tasks meet."""
_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be made, of these rows of the plan's table (ascending)."""

    split: str
    number: int
    rows: NDArray[np.int64]

    @property
    def name(self) -> str:
        """What its part is called."""
        return f"{self.split}-{self.number:06d}"


Task = tuple[ShardPlan, ...]
"""Shards that one process makes together."""


@dataclass(frozen=True)
class Plan:
    """Everything that is to be done."""

    table: pa.Table
    """The candidates that are to be read, with all that their keys say."""
    refused: list[Refused]
    tasks: list[Task]
    shard_chips: int
    """Chips in a full shard."""
    rule: SplitRule
    attributes: dict[str, str]
    """Further columns of the index: name and type."""
    present: int
    """Candidates that are in the dataset already."""
    unparsed: int
    """Candidates whose key says nothing."""
    sceneless: int
    """Candidates that are to be held out with their scene, but name none: each goes by its own key."""
    mixed: int
    """Candidates that are held out one by one, though an earlier one is of the same scene."""
    request: str
    """Fingerprint of what was asked for: options and candidates."""
    fingerprint: str
    """Of all that decides what comes out: that, and what was there before."""

    def shards(self) -> Iterator[ShardPlan]:
        """In the order of the dataset: split by split."""
        every = [shard for task in self.tasks for shard in task]
        yield from sorted(every, key=lambda shard: (SPLITS.index(shard.split), shard.number))


@dataclass(frozen=True)
class Present:
    """What the dataset that is added to holds already."""

    keys: frozenset[str] = frozenset()
    rule: SplitRule | None = None
    shards: Counter[str] | None = None
    """How many shards each split has."""
    fingerprint: str = ""


def make_plan(candidates: Candidates, schema: Schema, config: IngestConfig, present: Present) -> Plan:
    """Deal the candidates to shards.

    Raises:
        InputError: an option makes no sense, or the split needs positions that are not known.
    """
    if config.registration and not schema.label:
        raise InputError("--registration: there are no heights to compare with images; leave it out")
    if config.registration and schema.chip_size < MIN_SIDE:
        raise InputError(f"--registration: needs chips of {MIN_SIDE} pixels or more a side; leave it out")
    if present.rule is not None and not _follows(SplitRule.of(config), present.rule):
        raise InputError(
            f"--append: the dataset is split by {present.rule.by} in shares {present.rule.shares}, which new "
            "chips follow; leave options of splits out, and use treeline split to change them"
        )
    pattern = key_pattern(config.key_pattern) if config.key_pattern else None
    table, refused, already = _usable(candidates, present.keys)
    known, unparsed = _known(table["key"], pattern)
    for name in FACTS:
        if name not in table.column_names:
            table = table.append_column(name, known[name])
    places = places_of(table, schema)
    rule = present.rule or resolved(SplitRule.of(config), places)
    splits = np.asarray(assign(rule, places))
    shard_chips = chips_in_shard(schema, config.shard_chips, config.shard_bytes)
    tasks = _tasks(table, splits, shard_chips, present.shards or Counter())
    table = _finite(table)
    attributes = _attributes(table) | (SHIFTS if config.registration else {})
    request = _fingerprint(
        request_of(config), schema.to_json(), _digest(candidates.table), candidates.refused
    )
    fingerprint = _fingerprint(request, present.fingerprint)
    scenes = table["scene"].drop_null()
    return Plan(
        table=table,
        refused=refused,
        tasks=tasks,
        shard_chips=shard_chips,
        rule=rule,
        attributes=attributes,
        present=already,
        unparsed=unparsed,
        sceneless=table["scene"].null_count if rule.by == "scene" else 0,
        mixed=len(scenes) - len(scenes.unique()) if rule.by == "key" else 0,
        request=request,
        fingerprint=fingerprint,
    )


def _follows(asked: SplitRule, present: SplitRule) -> bool:
    """Whether a rule asks for nothing else than what is there: it does if it is the one of the defaults."""
    return asked == SplitRule() or replace(asked, edges=present.edges, crs=present.crs) == present


def _usable(candidates: Candidates, present: frozenset[str]) -> tuple[pa.Table, list[Refused], int]:
    """The candidates to read, those refused for their names, and how many are there already."""
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
    """What the keys say, a column for each fact, and how many say nothing; some thousands at a time.

    Half a million keys as Python objects, with all that they say, would take as much memory as a worker.
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


def _tasks(table: pa.Table, splits: NDArray[Any], shard_chips: int, numbers: Counter[str]) -> list[Task]:
    numbers = Counter(numbers)
    tasks: list[Task] = []
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
    """Rows of one split in as few shards as they need, which differ by at most one in size."""
    if not rows.size:
        return
    for part in np.array_split(rows, -(-rows.size // shard_chips)):
        yield ShardPlan(split, numbers[split], part)
        numbers[split] += 1


def _neighbours(groups: NDArray[Any], least: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of whole groups, of `least` rows or more but the last."""
    ends = [*(np.flatnonzero(np.diff(groups)) + 1).tolist(), groups.size]
    start = 0
    for end in ends:
        if end - start >= least or end == groups.size:
            if end > start:
                yield start, end
            start = end


def _finite(table: pa.Table) -> pa.Table:
    """The table without infinite numbers, which JSON does not have: they become null."""
    for place, column in enumerate(table.schema):
        if column.type == pa.float64():
            values = table.column(place)
            values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))
            table = table.set_column(place, column.name, values)
    return table


def _attributes(table: pa.Table) -> dict[str, str]:
    """The table's columns that are no origin and no place, with their types."""
    kinds = {kind: name for name, kind in ATTRIBUTE_TYPES.items()}
    return {
        field.name: kinds[field.type]
        for field in table.schema
        if field.name not in ORIGIN and not field.name.startswith(PLACE)
    }


def _fingerprint(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _digest(table: pa.Table) -> str:
    """Of a table's names, types and values, however they are held in memory."""
    digest = xxhash.xxh3_128(str(table.schema.remove_metadata()).encode())
    fields = [
        pa.field(field.name, field.type.value_type if pa.types.is_dictionary(field.type) else field.type)
        for field in table.schema
    ]
    for start in range(0, table.num_rows, _ROWS_AT_ONCE):
        # Taken, not sliced: a slice would bring its whole buffers along.
        piece = table.take(np.arange(start, min(start + _ROWS_AT_ONCE, table.num_rows)))
        piece = piece.cast(pa.schema(fields)).combine_chunks()
        digest.update(piece.to_batches()[0].serialize())
    return digest.hexdigest()
