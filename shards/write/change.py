"""A change to a dataset whose shards stay: new files beside the old ones, then the manifest that lists them.

Whatever stops it before the manifest is replaced, the old dataset is whole.
"""

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from shards.format.manifest import Manifest
from shards.storage.objects import Bytes
from shards.write.assembly import publish_files, replace_manifest
from shards.write.index_rows import ROWS_PER_GROUP


def publish_change(url: str, changed: Manifest, contents: Mapping[str, Bytes]) -> Manifest:
    """Publish files of the dataset at `url`, then its manifest, which is returned.

    Args:
        url: the dataset.
        changed: its manifest with all new facts but files and generation.
        contents: the new files, by their names in a dataset that was never changed.
    """
    generation = changed.generation + 1
    files = publish_files(url, contents, generation)
    changed = replace(changed, files=changed.files | files, generation=generation)
    replace_manifest(url, changed)
    return changed


def parquet_bytes(table: pa.Table) -> bytes:
    """Encode an index as Parquet."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=ROWS_PER_GROUP)
    return bytes(buffer.getvalue())
