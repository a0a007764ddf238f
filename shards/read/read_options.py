"""Options of reading a dataset: checks, the cache, and how far ahead shards are fetched."""

from dataclasses import dataclass
from typing import Literal

SHARDS_AHEAD = 3
"""Shards loaded ahead of those that the present batch needs."""


@dataclass(frozen=True)
class ReadOptions:
    """Options of reading. Only `on_bad_shard="skip"` can change the chips and their order."""

    check: bool = True
    """Whether to verify checksums."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """Reaction to a shard that is damaged or unreadable. "skip": leave out its chips, and say so. Shards are
    then fetched whole, so that every rank finds the same damage. A failure of one rank alone (its connection,
    its disk) makes only that rank leave out the shard."""
    cache: str = ""
    """Local folder that keeps fetched bytes, shared by the processes of a machine; "": none."""
    cache_bytes: int = 100 * 10**9
    """Size of the cache; beyond it, the least recently used bytes are dropped."""
    shards_ahead: int = SHARDS_AHEAD
