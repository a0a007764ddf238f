"""metrics.jsonl in a run's folder: the record of each epoch, one a line."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from shards.format.manifest import understood
from shards.storage.objects import exists, join, read_bytes
from trainer.score.epochs import counted_from_1

METRICS = "metrics.jsonl"
DAMAGED = "resume the run, which writes it again at the end of an epoch, or copy it again"
"""Advice about records that cannot be understood."""


def metrics_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Write records as they are, in their own numbering of epochs."""
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def read_metrics(run: str) -> list[dict[str, Any]]:
    """Read the records of the run at `run`, in order, with epochs numbered from 1 however the file counts.

    A run without the file has no records yet.

    Raises:
        InputError: the file is damaged.
    """
    url = join(run, METRICS)
    if not exists(url):
        return []
    with understood(url, DAMAGED):
        records = [json.loads(line) for line in read_bytes(url).splitlines()]
        for record in records:
            _check(record)
        return [counted_from_1(record) for record in records]


def _check(record: Mapping[str, Any]) -> None:
    """Refuse a record whose loss or scores are no numbers.

    Raises:
        ValueError: one is not, nor is it unknown.
    """
    for name, value in record.items():
        is_score = name == "loss" or name.startswith("val_")
        if is_score and not (value is None or isinstance(value, int | float)):
            raise ValueError(f"{name} is no number")
