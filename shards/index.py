"""index.parquet and rejected.parquet: what is known of each chip, written as a stream, read as a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import DatasetError
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
    ]
)
"""One row per chip, in the order of the shards: heights in metres, valid_fraction of pixels with a height."""

REJECTED_SCHEMA = pa.schema([("key", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


def index_rows(chips: Sequence[Chip], split: str, shard: str) -> pa.RecordBatch:
    """The rows of the chips of one shard."""
    rows = [
        {**chip.origin(), **_height_facts(chip), "split": split, "shard": shard, "row": row}
        for row, chip in enumerate(chips)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=INDEX_SCHEMA)


def _height_facts(chip: Chip) -> dict[str, float]:
    valid = chip.height_HW[np.isfinite(chip.height_HW)]
    return {
        "height_mean": float(valid.mean(dtype=np.float64)),
        "height_max": float(valid.max()),
        "height_p95": float(np.percentile(valid, 95)),
        "valid_fraction": valid.size / chip.height_HW.size,
    }


def read_table(url: str) -> Any:
    """The parquet file at `url` as a pyarrow table.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        return pq.read_table(pa.BufferReader(read_bytes(url)))
    except pa.ArrowException as error:
        raise DatasetError(f"{url}: is damaged; copy it again ({error})") from error
