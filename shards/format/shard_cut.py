"""How many chips a shard holds: a pure function of the schema and two options, known before any is full."""

from typing import Final

from shards.format.schema import Schema
from shards.format.tar import BLOCK, row_layout

SHARD_CHIPS: Final = 1024
"""Chips in a shard, at most: 54 MB for 4 bands of 64 x 64, large enough for S3, small enough that a window of
shards fits in memory."""
SHARD_BYTES: Final = 64_000_000
"""Bytes in a shard, at most, unless a single chip has more: those 1,024 chips fit, of larger ones fewer."""
MAX_CHUNK_CHIPS: Final = 16
"""Chips in a chunk of a Zarr, at most: 0.8 MB for 4 bands of 64 x 64 int16 with heights, which stays in a
core's cache from zstd to the batch."""


def chips_in_shard(schema: Schema, shard_chips: int, shard_bytes: int) -> int:
    """Return how many chips a full shard holds: 1 or more, at most `shard_chips`.

    Counted are the arrays as they are in a tar, uncompressed. Where bytes decide, whole chunks of a Zarr are
    filled: from a number of chips without divisors Zarr would make chunks of one chip.

    Args:
        schema: of the chips.
        shard_chips: what a shard holds at most.
        shard_bytes: the same in bytes; 0: no limit.
    """
    if not shard_bytes:
        return shard_chips
    # After the arrays a row has an origin of at least two blocks.
    fitting = max(1, shard_bytes // (row_layout(schema).span + 2 * BLOCK))
    if fitting >= shard_chips:
        return shard_chips
    return fitting - fitting % MAX_CHUNK_CHIPS if fitting > MAX_CHUNK_CHIPS else fitting
