"""One task of a worker: read the candidates, check them, and write their shards.

Each shard leaves a part in the journal, `OUT/.ingest/parts`, with all there is to know about it; only then
does it count as done. The same task gives the same bytes wherever and however often it runs.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ingest.chips.attributes import SHIFTS
from ingest.chips.check import Rejected, Rules, checked
from ingest.chips.registration import best_shift
from ingest.chips.source import PLACE, Raw, Source
from ingest.work.plan import ShardPlan, ShardTask
from shards.errors import NothingToKeepError
from shards.format.manifest import JOURNAL
from shards.format.schema import ORIGIN, Chip
from shards.storage.inside import check_inside
from shards.storage.objects import join, publish
from shards.write.assembly import Layout
from shards.write.finished_shard import finished_shard, write_shard

PARTS = f"{JOURNAL}/parts"
"""Folder of the parts, below the dataset's."""

Cluster = Callable[[], AbstractContextManager[None]]
"""Connection to the cluster whose workers do the tasks, for as long as they do."""
Tell = Callable[[int, Counter[str]], None]
"""Callback tell(read, rejected): number of further candidates read, and of rejected ones by reason."""


@dataclass(frozen=True)
class TaskContext:
    """Values that all tasks of an ingest share; it travels to the workers."""

    source: Source
    out: str
    layout: Layout
    rules: Rules
    registration: bool
    strict: bool
    plan_fingerprint: str
    """Fingerprint of the plan; parts of another plan do not count."""


@dataclass
class _Open:
    """A shard that is being filled."""

    plan: ShardPlan
    left: int
    """Number of its candidates still to be read."""
    chips: list[Chip] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)


def part_name(shard: ShardPlan, plan_fingerprint: str) -> str:
    """Name the part of a shard, below PARTS, for the plan with this fingerprint."""
    return f"{shard.name}-{plan_fingerprint}.zip"


def do_task(context: TaskContext, table: pa.Table, task: ShardTask, tell: Tell) -> None:
    """Make the shards of `task`, whose rows count from 0 in `table`.

    Raises:
        InputError: (strict) a chip that would be rejected.
        OSError: storage failed.
    """
    shards = [_Open(plan, plan.rows.size) for plan in task]
    shard_of_row = np.empty(table.num_rows, np.int64)
    for number, shard in enumerate(shards):
        shard_of_row[shard.plan.rows] = number
    rows = table.drop_columns([name for name in table.column_names if name.startswith(PLACE)]).to_pylist()
    for place, (row, raw) in enumerate(zip(rows, context.source.read(table), strict=True)):
        shard = shards[shard_of_row[place]]
        refused: Counter[str] = Counter()
        try:
            shard.chips.append(_chip(context, row, raw))
        except Rejected as rejected:
            if context.strict:
                raise NothingToKeepError(
                    f"{row['key']}: {rejected}; nothing written (--strict)"
                ) from rejected
            shard.rejected.append({"key": row["key"], "reason": rejected.reason, "detail": rejected.detail})
            refused[rejected.reason] += 1
        shard.left -= 1
        if not shard.left:
            _finish(context, shard)
        tell(1, refused)


def _chip(context: TaskContext, row: dict[str, Any], raw: Raw | Rejected) -> Chip:
    if isinstance(raw, Rejected):
        raise raw
    schema = context.layout.schema
    image_CHW, height_HW = checked(raw.image, raw.height, schema, context.rules)
    origin: dict[str, Any] = {name: row.get(name) for name in ORIGIN} | raw.facts
    # The place known from the list decided the split, so it stays.
    origin |= {name: row[name] for name in ("x", "y", "crs") if row.get(name) is not None}
    attributes = {name: value for name, value in row.items() if name not in ORIGIN} | raw.attributes
    if context.registration:
        shift = best_shift(image_CHW, height_HW, schema.nodata)
        attributes |= dict(zip(SHIFTS, shift or [None] * len(SHIFTS), strict=True))
    return Chip(image_CHW=image_CHW, height_HW=height_HW, attributes=attributes, **origin)


def _finish(context: TaskContext, shard: _Open) -> None:
    """Write a full shard, then its part, and free its chips."""
    layout, plan = context.layout, shard.plan
    place = (plan.split, plan.number)
    objects = write_shard(context.out, place, shard.chips, layout.schema) if shard.chips else []
    finished = finished_shard(
        (plan.split, objects), shard.chips, layout.schema, layout.attributes, shard.rejected
    )
    check_inside(context.out, f"{PARTS}/")
    name = part_name(plan, context.plan_fingerprint)
    publish(join(context.out, PARTS, name), finished.to_bytes(name))
    shard.chips.clear()
