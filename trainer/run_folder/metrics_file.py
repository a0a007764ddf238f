"""metrics.jsonl in a run's folder: the record of each epoch, one a line."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from shards.format.manifest import understood
from shards.storage.objects import exists, join, read_bytes
from trainer.score.epochs import counted_from_1

METRICS = "metrics.jsonl"
DAMAGED = "resume the run, which writes it again at the end of an epoch, or copy it again"
"""What to do about records that cannot be understood."""


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
        return [counted_from_1(json.loads(line)) for line in read_bytes(url).splitlines()]
