"""Rows of an index that go to disk as they come: memory holds only the checksum of each chip."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.format.manifest import INDEX

ROWS_PER_GROUP = 16_384
"""Rows per group of a Parquet file: enough to compress well, few enough to hold many groups in memory."""


class IndexRows:
    """The rows of one index, in the order of the shards.

    Args:
        folder: an empty local folder.
        columns: columns of the index.
    """

    def __init__(self, folder: Path, columns: pa.Schema) -> None:
        self._folder, self._columns = folder, columns
        self._rows = pa.ipc.new_stream(pa.OSFile(str(folder / "rows.arrow"), "wb"), columns)
        self._checksums: list[NDArray[np.uint64]] = []
        self.count = 0
        """Number of rows so far."""
        self.duplicates = 0
        """Number of chips with the pixels of an earlier chip; known after `parquet`."""

    def close(self) -> None:
        """Take no more rows."""
        self._rows.close()

    def add(self, rows: pa.Table) -> None:
        """Add rows, which may lack columns."""
        for batch in _with_columns(rows, self._columns).to_batches():
            self._rows.write_batch(batch)
        self._checksums.append(rows["xxh3"].to_numpy())
        self.count += rows.num_rows

    def parquet(self) -> memoryview:
        """Write index.parquet with its column duplicate_of, and return the mapped file."""
        self.close()
        first_N = first_of_same(np.concatenate(self._checksums))
        self.duplicates = int((first_N >= 0).sum())
        path, start = self._folder / INDEX, 0
        with (
            pa.memory_map(str(self._folder / "rows.arrow")) as source,
            pq.ParquetWriter(path, self._columns) as index,
        ):
            keys = pa.ipc.open_stream(source).read_all()["key"]  # mapped, not read
            source.seek(0)
            for rows in _gathered(pa.ipc.open_stream(source)):
                same = pa.array(
                    first_N[start : start + rows.num_rows], mask=first_N[start : start + rows.num_rows] < 0
                )
                start += rows.num_rows
                place = rows.schema.get_field_index("duplicate_of")
                index.write_table(rows.set_column(place, "duplicate_of", keys.take(same)))
        return np.memmap(path, np.uint8, "r").data


def first_of_same(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Find for each value the place of the first equal one, if that is an earlier one, else -1: (values,)."""
    _, firsts, group = np.unique(values, return_index=True, return_inverse=True)
    first_N = firsts[group.reshape(-1)]
    return np.where(first_N < np.arange(values.size), first_N, -1)


def _with_columns(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    """Bring `rows` to these columns, with nulls for columns that it lacks."""
    arrays = [
        rows[field.name].cast(field.type)
        if field.name in rows.schema.names
        else pa.nulls(rows.num_rows, field.type)
        for field in columns
    ]
    return pa.Table.from_arrays(arrays, schema=columns)


def _gathered(stream: Any) -> Iterator[pa.Table]:
    """Join the batches of a stream to tables of about ROWS_PER_GROUP rows, always in the same way."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in stream:
        waiting.append(batch)
        count += batch.num_rows
        if count >= ROWS_PER_GROUP:
            yield pa.Table.from_batches(waiting, stream.schema).combine_chunks()
            waiting, count = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting, stream.schema).combine_chunks()
