"""What a worker does: reads the candidates of a task, checks them, and writes their shards.

Each shard leaves a part in the journal, `OUT/.ingest/parts`, that says all there is to know of it; only then
it counts as done. The same task gives the same bytes wherever and however often it is done.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ingest.chips.attributes import SHIFTS
from ingest.chips.check import Rejected, Rules, checked
from ingest.chips.registration import best_shift
from ingest.chips.source import PLACE, Raw, Source
from ingest.work.plan import ShardPlan, Task
from shards.errors import NothingToKeepError
from shards.format.manifest import JOURNAL
from shards.format.schema import ORIGIN, Chip
from shards.storage.objects import join, publish
from shards.write.assembly import Layout
from shards.write.finished_shard import finished_shard, write_shard

PARTS = f"{JOURNAL}/parts"

Tell = Callable[[int, Counter[str]], None]
"""tell(read, rejected): so many candidates more were read, and so many of them refused, by reason."""


@dataclass(frozen=True)
class Work:
    """What is the same for all tasks; it travels to the workers."""

    source: Source
    out: str
    layout: Layout
    rules: Rules
    registration: bool
    strict: bool
    plan: str
    """Fingerprint of the plan: parts of another one are no parts of this."""


@dataclass
class _Open:
    """A shard that is being filled."""

    plan: ShardPlan
    left: int
    chips: list[Chip] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)


def part_name(shard: ShardPlan, plan: str) -> str:
    """What the part of a shard of the plan with this fingerprint is called, below PARTS."""
    return f"{shard.name}-{plan}.zip"


def do_task(work: Work, table: pa.Table, task: Task, tell: Tell) -> None:
    """Make the shards of `task`, whose rows are those of `table`, counted from 0.

    Raises:
        InputError: (strict) a chip that would be rejected.
        OSError: storage failed.
    """
    shards = [_Open(plan, plan.rows.size) for plan in task]
    shard_of_row = np.empty(table.num_rows, np.int64)
    for number, shard in enumerate(shards):
        shard_of_row[shard.plan.rows] = number
    rows = table.drop_columns([name for name in table.column_names if name.startswith(PLACE)]).to_pylist()
    for place, (row, raw) in enumerate(zip(rows, work.source.read(table), strict=True)):
        shard = shards[shard_of_row[place]]
        refused: Counter[str] = Counter()
        try:
            shard.chips.append(_chip(work, row, raw))
        except Rejected as rejected:
            if work.strict:
                raise NothingToKeepError(
                    f"{row['key']}: {rejected}; nothing written (--strict)"
                ) from rejected
            shard.rejected.append({"key": row["key"], "reason": rejected.reason, "detail": rejected.detail})
            refused[rejected.reason] += 1
        shard.left -= 1
        if not shard.left:
            _finish(work, shard)
        tell(1, refused)


def _chip(work: Work, row: dict[str, Any], raw: Raw | Rejected) -> Chip:
    if isinstance(raw, Rejected):
        raise raw
    schema = work.layout.schema
    image_CHW, height_HW = checked(raw.image, raw.height, schema, work.rules)
    origin: dict[str, Any] = {name: row.get(name) for name in ORIGIN} | raw.facts
    # A place that was known before decided on the split.
    origin |= {name: row[name] for name in ("x", "y", "crs") if row.get(name) is not None}
    attributes = {name: value for name, value in row.items() if name not in ORIGIN}
    if work.registration:
        shift = best_shift(image_CHW, height_HW, schema.nodata)
        attributes |= dict(zip(SHIFTS, shift or [None] * len(SHIFTS), strict=True))
    return Chip(image_CHW=image_CHW, height_HW=height_HW, attributes=attributes, **origin)


def _finish(work: Work, shard: _Open) -> None:
    """Write a full shard and then its part; its chips leave memory."""
    layout, plan = work.layout, shard.plan
    name = (plan.split, plan.number)
    objects = write_shard(work.out, name, shard.chips, layout.schema) if shard.chips else []
    finished = finished_shard(
        (plan.split, objects), shard.chips, layout.schema, layout.attributes, shard.rejected
    )
    publish(join(work.out, PARTS, part_name(plan, work.plan)), finished.to_bytes())
    shard.chips.clear()
