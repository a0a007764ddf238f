"""index.parquet and rejected.parquet: what is known of each chip, written as a stream, read as a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.checksum import chip_checksum
from shards.errors import DatasetError, InputError
from shards.manifest import StoredObject
from shards.schema import Chip
from shards.storage import read_bytes

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int32()),
        ("source", pa.string()),
        ("sensor", pa.string()),
        ("acquired", pa.string()),
        ("scene", pa.string()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("crs", pa.string()),
        ("height_mean", pa.float32()),
        ("height_max", pa.float32()),
        ("height_p95", pa.float32()),
        ("valid_fraction", pa.float32()),
        ("xxh3", pa.uint64()),
        ("image_at", pa.int64()),
        ("height_at", pa.int64()),
    ]
)
"""One row per chip, in the order of the shards: heights in metres, valid_fraction of pixels with a height,
xxh3 of the pixels (`shards.checksum.chip_checksum`). image_at and height_at: where the arrays' values begin
in the shard, in bytes; null where that follows from the row, as in every shard that Treeline wrote."""

REJECTED_SCHEMA = pa.schema([("key", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


def index_rows(chips: Sequence[Chip], split: str, shard: str) -> list[dict[str, Any]]:
    """The rows of the chips of one shard."""
    return [
        {**chip.origin(), **_pixel_facts(chip), "split": split, "shard": shard, "row": row}
        for row, chip in enumerate(chips)
    ]


def _pixel_facts(chip: Chip) -> dict[str, float]:
    valid = chip.height_HW[np.isfinite(chip.height_HW)]
    return {
        "height_mean": float(valid.mean(dtype=np.float64)),
        "height_max": float(valid.max()),
        "height_p95": float(np.percentile(valid, 95)),
        "valid_fraction": valid.size / chip.height_HW.size,
        "xxh3": chip_checksum(chip.image_CHW, chip.height_HW),
    }


def read_table(url: str, expected: StoredObject | None = None, columns: Sequence[str] | None = None) -> Any:
    """The parquet file at `url`, or some of its columns, as a pyarrow table.

    Raises:
        DatasetError: it is damaged, or not the file that was `expected`.
    """
    try:
        data = read_bytes(url)
    except InputError as error:
        raise DatasetError(f"{url}: a file of the dataset cannot be read ({error})") from error
    if expected is not None:
        expected.check(url, data)
    try:
        return pq.read_table(pa.BufferReader(data), columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{url}: is damaged; copy it again ({error})") from error
