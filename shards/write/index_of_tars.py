"""The index of a dataset, made again from its tar shards, which hold each chip's facts beside its pixels."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from shards.errors import DatasetError
from shards.format.index import index_rows, index_schema
from shards.format.manifest import Manifest
from shards.format.tar import chips_of
from shards.progress import progress
from shards.storage.objects import join, read_bytes
from shards.write.index_rows import IndexRows


def index_of_tars(url: str, manifest: Manifest) -> bytes:
    """Return index.parquet as it was when the shards were written; later splits and labels are not in it.

    Raises:
        DatasetError: a shard is damaged, or says of a chip what no index can hold.
        InputError: a shard is missing.
    """
    columns = index_schema(manifest.attributes)
    with (
        tempfile.TemporaryDirectory(prefix="treeline-") as scratch,
        progress("index", sum(shard.samples for shard in manifest.shards), "chips") as advance,
    ):
        rows = IndexRows(Path(scratch), columns)
        for shard in manifest.shards:
            (stored,) = shard.objects
            where = join(url, stored.name)
            data = np.frombuffer(read_bytes(where), np.uint8)
            stored.check(where, data)
            chips = chips_of(data, shard.samples, manifest.schema, where)
            try:
                found = index_rows(chips, shard.split, shard.name, manifest.schema)
                rows.add(pa.Table.from_pylist(found, schema=columns))
            except (pa.ArrowException, TypeError, AttributeError) as error:
                raise DatasetError(f"{where}: facts of its chips do not fit into an index") from error
            advance(shard.samples)
        return bytes(rows.parquet())
