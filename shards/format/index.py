"""index.parquet and rejected.parquet: their columns, their rows, and reading them as tables."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.errors import DatasetError, InputError, one_line
from shards.format.manifest import StoredObject
from shards.format.missing import missing_pixels
from shards.format.schema import ORIGIN, Chip, Schema
from shards.storage.checksum import chip_checksum
from shards.storage.limits import PARQUET_BYTES, TABLE_BYTES
from shards.storage.objects import read_bytes

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
        ("catalogue", pa.string()),
        ("number", pa.int64()),
        ("height_mean", pa.float32()),
        ("height_max", pa.float32()),
        ("height_p95", pa.float32()),
        ("valid_fraction", pa.float32()),
        ("xxh3", pa.uint64()),
        ("image_at", pa.int64()),
        ("height_at", pa.int64()),
        ("duplicate_of", pa.string()),
    ]
)
"""Columns of the index, which has one row per chip in the order of the shards. Attributes are more columns.

- height_...: in metres, or another label in its unit
- valid_fraction: share of the pixels with every band and a label
- xxh3: checksum of the pixels (`shards.storage.checksum.chip_checksum`)
- image_at, height_at: bytes from the shard's start to the arrays' values; null where that follows from the
  row, as in every shard that Treeline wrote
- duplicate_of: key of an earlier chip with the same pixels
"""

ATTRIBUTE_TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}

ROW_BYTES = 4096
"""Most bytes of a row of an index, on average and unpacked: ten times those of the usual ones."""

REJECTED_SCHEMA = pa.schema([("key", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


def index_schema(attributes: dict[str, str]) -> pa.Schema:
    """Return the columns of an index with `attributes`, given by name and type.

    Raises:
        InputError: an attribute has the name of another column.
    """
    taken = sorted(set(attributes) & set(INDEX_SCHEMA.names))
    if taken:
        raise InputError(f"attribute {', '.join(taken)}: every index has a column of that name; rename it")
    fields = [pa.field(name, ATTRIBUTE_TYPES[kind]) for name, kind in attributes.items()]
    return pa.schema([*INDEX_SCHEMA, *fields])


def index_rows(chips: Sequence[Chip], split: str, shard: str, schema: Schema) -> list[dict[str, Any]]:
    """Make the index rows for the chips of one shard."""
    placed = {"split": split, "shard": shard}
    rows = [
        {
            **{name: getattr(chip, name) for name in ORIGIN},
            **chip.attributes,
            **placed,
            "row": row,
            "valid_fraction": _valid_fraction(chip, schema),
            "xxh3": chip_checksum(chip.image_CHW, chip.height_HW),
        }
        for row, chip in enumerate(chips)
    ]
    if schema.label:
        for row, chip in zip(rows, chips, strict=True):
            row.update(_height_facts(chip.height_HW.reshape(-1)))
    return rows


def _valid_fraction(chip: Chip, schema: Schema) -> float:
    """Return the share of the pixels that have every band and a label."""
    missing_HW = missing_pixels(chip.image_CHW, schema.nodata)
    if schema.label and math.isnan(chip.height_HW.min()):
        unlabelled_HW = np.isnan(chip.height_HW)
        missing_HW = unlabelled_HW if missing_HW is None else missing_HW | unlabelled_HW
    return 1.0 if missing_HW is None else 1.0 - np.count_nonzero(missing_HW) / missing_HW.size


def _height_facts(heights: NDArray[np.float32]) -> dict[str, float | None]:
    """Compute height_mean, height_max and height_p95 from the pixels that have a height."""
    if math.isnan(heights.min()):
        heights = heights[~np.isnan(heights)]
    if not heights.size:
        return {"height_mean": None, "height_max": None, "height_p95": None}
    mean = float(heights.mean(dtype=np.float64))
    return {
        "height_mean": mean,
        "height_max": float(heights.max()),
        "height_p95": percentile_95(heights, mean),
    }


def percentile_95(values: NDArray[np.float32], mean: float) -> float:
    """Compute np.percentile(values, 95), with its linear interpolation, from values and their mean.

    Most pixels are bare ground: sorting only the values above the mean takes a third of the time of
    partitioning all of them.
    """
    place = 0.95 * (values.size - 1)
    above = values.take(np.flatnonzero(values > mean))  # a third of the time of a bool mask
    below = values.size - above.size
    if below > int(place):
        return float(np.percentile(values, 95))
    above.sort()
    low = above[int(place) - below]
    high = above[min(int(place) - below + 1, above.size - 1)]
    return float(low + (high - low) * (place - int(place)))


def read_table(
    url: str,
    expected: StoredObject | None = None,
    columns: Sequence[str] | None = None,
    rows: int | None = None,
) -> Any:
    """Read the parquet file at `url`, or some of its columns, as a pyarrow table.

    Args:
        url: the file.
        expected: the file that it must be.
        columns: names of the columns; None: all.
        rows: number of rows that it must have; None: any.

    Raises:
        DatasetError: the file is damaged, has other rows or columns, or is not the `expected` one.
        InputError: it is larger than the limit.
    """
    try:
        data = read_bytes(url)
    except InputError as error:
        raise DatasetError(f"{url}: a file of the dataset cannot be read ({error})") from error
    if expected is not None:
        expected.check(url, data)
    try:
        # Not pq.read_table: its threads may outlive the interpreter, and then abort a finished program.
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_footer(url, file.metadata, rows)
        missing = set(columns or ()) - set(file.schema_arrow.names)
        if missing:
            raise DatasetError(f"{url}: has no column {', '.join(sorted(missing))}; copy it again")
        if rows is not None:
            _check_texts(url, data, file, set(columns or file.schema_arrow.names))
        return file.read(None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{url}: is damaged; copy it again ({one_line(error)[:200]})") from error


_TEXTS = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _check_texts(url: str, data: bytes, file: Any, columns: set[str]) -> None:
    """Compare the length of texts with the limit: a long one may be stored once and stand in every row."""
    footer, rows = file.metadata, file.metadata.num_rows
    if footer.num_columns != len(file.schema_arrow):
        raise DatasetError(f"{url}: has columns of lists or records, which no index has; copy it again")
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    for place, field in enumerate(file.schema_arrow):
        if field.name not in columns or field.type not in _TEXTS:
            continue
        chunks = [group.column(place) for group in groups]
        if sum(chunk.num_values * chunk.total_uncompressed_size for chunk in chunks) <= TABLE_BYTES.most:
            continue
        as_stored = pq.ParquetFile(pa.BufferReader(data), read_dictionary=[field.name])
        texts = as_stored.read([field.name])[field.name].chunks
        lengths = [pc.sum(pc.binary_length(one.dictionary).take(one.indices)).as_py() or 0 for one in texts]
        TABLE_BYTES.check(url, sum(lengths) - ROW_BYTES * rows)


def _check_footer(url: str, footer: Any, rows: int | None) -> None:
    """Compare what the footer says, the end of the file, before what it describes is unpacked."""
    if rows is not None and footer.num_rows != rows:
        raise DatasetError(f"{url}: {footer.num_rows:,} rows for {rows:,} chips")
    groups = map(footer.row_group, range(footer.num_row_groups))
    nbytes = 0
    for group in groups:
        for place in range(group.num_columns):
            column = group.column(place)
            nbytes += column.total_uncompressed_size
            # A page cannot be smaller than its header says, or larger than the whole column.
            if not 0 <= column.total_uncompressed_size < 1 << 40:
                raise DatasetError(f"{url}: is damaged; copy it again")
    if rows is None:
        PARQUET_BYTES.check(url, nbytes)
    else:
        TABLE_BYTES.check(url, nbytes - ROW_BYTES * rows)
