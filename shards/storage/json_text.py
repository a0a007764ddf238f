"""JSON as plain values, within limits: bytes, values and depth; UTF-8; no key twice in an object."""

import json
import math
from collections.abc import Sequence
from typing import Any

from shards.errors import InputError, one_line
from shards.storage.limits import JSON_BYTES, JSON_VALUES
from shards.storage.objects import is_local, local_path, read_bytes, reading, size_of

COPY_AGAIN = "copy it again"
DEPTH = 64
"""Most objects and lists around a value. Python's own functions would give up at some hundreds."""


def read_json_bytes(url: str) -> bytes:
    """Read the JSON file at `url`; its size is looked at first.

    Raises:
        InputError: there is nothing readable, or it is too large.
    """
    if is_local(url):
        with reading(url, "file"):
            size = local_path(url).stat().st_size
    else:
        size = size_of(url)
    JSON_BYTES.check(url, size)
    return read_bytes(url)


def parsed(data: bytes, where: str, cure: str = COPY_AGAIN) -> Any:
    """Return the values of a JSON text. NaN and Infinity, which Python writes, are read.

    Args:
        data: the text.
        where: file, for messages.
        cure: what to do about a text that is no such JSON.

    Raises:
        InputError: it is not JSON, or goes beyond a limit.
    """
    JSON_BYTES.check(where, len(data))
    # Each value but the first of a list or object stands behind a comma. Commas in texts count, too.
    JSON_VALUES.check(where, sum(map(data.count, (b",", b"[", b"{"))))
    try:
        values = json.loads(data.decode(), object_pairs_hook=_without_doubles)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not a JSON file (no UTF-8 at byte {error.start:,}); {cure}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a JSON file ({one_line(error)[:200]}); {cure}") from error
    if _depth_of(values) > DEPTH:
        raise InputError(f"{where}: more than {DEPTH} objects or lists inside each other; {cure}")
    return values


def all_finite(values: Any) -> bool:
    """Tell whether no number in `values` is NaN or infinite."""
    level = [values]
    while level:
        if any(isinstance(value, float) and not math.isfinite(value) for value in level):
            return False
        level = _children(level)
    return True


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:60]!r} is there twice")
    return values


def _depth_of(values: Any) -> int:
    level, depth = [values], 0
    while depth <= DEPTH and (level := _children(level)):
        depth += 1
    return depth


def _children(level: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for value in level:
        if isinstance(value, dict):
            found.extend(value.values())
        elif isinstance(value, list):
            found.extend(value)
    return found
