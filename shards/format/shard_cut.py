"""The number of chips in a shard: a pure function of the schema and two options."""

from typing import Final

from shards.format.schema import Schema
from shards.format.tar import BLOCK, row_layout

SHARD_CHIPS: Final = 1024
"""Most chips in a shard: 54 MB for 4 bands of 64 x 64. That is large enough for S3 and small enough for a
window of shards to fit in memory."""
SHARD_BYTES: Final = 64_000_000
"""Most bytes in a shard, unless a single chip has more. 1,024 chips of 4 bands of 64 x 64 fit, and fewer
larger ones."""
MAX_CHUNK_CHIPS: Final = 16
"""Most chips in a Zarr chunk: 0.8 MB for 4 bands of 64 x 64 int16 with heights, which stays in a core's cache
from zstd to the batch."""


def chips_in_shard(schema: Schema, shard_chips: int, shard_bytes: int) -> int:
    """Return how many chips a full shard holds: 1 or more, at most `shard_chips`.

    Bytes are those of the uncompressed arrays in a tar. Where the limit in bytes decides, the result fills
    whole Zarr chunks: from a prime number of chips, Zarr would make chunks of one chip.

    Args:
        schema: schema of the chips.
        shard_chips: most chips in a shard.
        shard_bytes: most bytes in a shard; 0: no limit.
    """
    if not shard_bytes:
        return shard_chips
    # After the arrays, a row has an origin of at least two blocks.
    fitting = max(1, shard_bytes // (row_layout(schema).span + 2 * BLOCK))
    if fitting >= shard_chips:
        return shard_chips
    return fitting - fitting % MAX_CHUNK_CHIPS if fitting > MAX_CHUNK_CHIPS else fitting
