"""The number of an epoch in a record of its scores. Epochs are numbered from 1.

Earlier versions numbered them from 0. A record says which it does: its `epochs_from` is 1, and one without
that number counts from 0. Records stand in metrics.jsonl, in a checkpoint's metrics.json, and in state.json.
Names of checkpoints (epoch-0002) and what is printed have always counted from 1.
"""

from collections.abc import Mapping
from typing import Any

EPOCH, EPOCHS_FROM = "epoch", "epochs_from"
FIRST = 1
"""Number of the first epoch of a run."""
FIRST_BEFORE = 0
"""Number of the first epoch of a run that began before files said their numbering."""


def numbered(epochs_before: int, first: int = FIRST) -> dict[str, int]:
    """Give an epoch its number, for its record.

    Args:
        epochs_before: number of epochs that the run has done before.
        first: number of the run's first epoch.
    """
    return {EPOCH: epochs_before + first, **({} if first == FIRST_BEFORE else {EPOCHS_FROM: first})}


def numbering_of(record: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of a record's epoch as the record has it, and what it says of its numbering."""
    return {EPOCH: record[EPOCH], **{name: record[name] for name in (EPOCHS_FROM,) if name in record}}


def epoch_of(record: Mapping[str, Any]) -> int:
    """Return the number of a record's epoch, from 1, whichever way the record counts."""
    return int(record[EPOCH]) + FIRST - int(record.get(EPOCHS_FROM, FIRST_BEFORE))


def counted_from_1(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its epoch numbered from 1, whichever way it counts."""
    return {**record, **numbered(epoch_of(record) - FIRST)}
