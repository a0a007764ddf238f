"""How a dataset is read: what is checked, kept, and fetched ahead."""

from dataclasses import dataclass
from typing import Literal

SHARDS_AHEAD = 3
"""Shards on their way beyond those that the present batch needs."""


@dataclass(frozen=True)
class ReadOptions:
    """How a dataset is read. Nothing here changes the chips and their order, but `on_bad_shard="skip"`."""

    check: bool = True
    """Whether checksums are verified."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """"skip": leave out the chips of a shard that cannot be read or is damaged, and say so. Shards are then
    fetched whole, so that every rank finds the same damage; what fails for one rank alone (its connection,
    its disk) is left out by that one alone."""
    cache: str = ""
    """Local folder that keeps what was fetched; shared by the processes of a machine."""
    cache_bytes: int = 100 * 10**9
    """Size at which the cache drops what was used least recently."""
    shards_ahead: int = SHARDS_AHEAD
