"""One finished shard, described well enough to list it in a dataset without reading it again.

An ingest keeps this description beside the data for each complete shard, and so resumes where it was stopped.
As bytes it is a zip of shard.json, index.arrow, rejected.arrow and counts.npz.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from shards.errors import DatasetError, InputError, one_line
from shards.format import zarr_v3
from shards.format.file_names import tar_name
from shards.format.index import REJECTED_SCHEMA, index_rows, index_schema
from shards.format.manifest import SPLITS, Shard, ShardFormat, StoredObject
from shards.format.path_names import check_name
from shards.format.schema import Chip, Schema
from shards.format.statistics import Counts
from shards.format.tar import pack
from shards.storage.checksum import content_checksum
from shards.storage.inside import check_inside
from shards.storage.json_text import parsed
from shards.storage.limits import Limit
from shards.storage.objects import Bytes, join, name_of, publish
from shards.storage.typed_json import typed_as

START_OVER = "delete it and run again"
ZIP_BYTES = Limit("TREELINE_MAX_PART_BYTES", 1 << 30, "bytes in a part, unpacked")
"""A part has rows of the index, and counts, of one shard."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every member, fixed so that the same shard gives the same bytes."""


@dataclass(frozen=True)
class FinishedShard:
    """A written shard, its index rows, the chips rejected on the way, and the counts of its pixels."""

    shard: Shard | None
    """Shard in the manifest; None if no chip was kept."""
    index: pa.Table
    rejected: pa.Table
    counts: Counts
    """Counts of a training shard; empty for other splits."""

    def to_bytes(self, name: str) -> bytes:
        """Encode as a zip, see above, which says the file's `name`."""
        members = {
            "shard.json": json.dumps(asdict(self.shard) if self.shard else None).encode(),
            "index.arrow": _ipc(self.index),
            "rejected.arrow": _ipc(self.rejected),
            "counts.npz": self.counts.to_bytes(compressed=False),
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.comment = name.encode()
            for member, data in members.items():
                archive.writestr(zipfile.ZipInfo(member, _EPOCH), data)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "FinishedShard":
        """Decode what `to_bytes` encoded.

        Args:
            data: the bytes.
            where: the file that has them, whose name they say. Earlier versions left the name out.

        Raises:
            DatasetError: the bytes are damaged, or another file's.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:  # checks the CRC-32 of what it reads
                if archive.comment not in (b"", name_of(where).encode()):
                    raise DatasetError(f"{where}: holds what was written to another file; {START_OVER}")
                ZIP_BYTES.check(where, sum(entry.file_size for entry in archive.infolist()))
                plain = parsed(archive.read("shard.json"), f"{where}: shard.json", START_OVER)
                shard = typed_as(plain, Shard | None, f"{where}: shard.json", START_OVER)
                index, rejected = (
                    pa.ipc.open_stream(archive.read(f"{name}.arrow")).read_all()
                    for name in ("index", "rejected")
                )
                counts = Counts.from_bytes(archive.read("counts.npz"), f"{where}: counts.npz")
        except InputError as error:
            raise DatasetError(str(error)) from error
        except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, pa.ArrowException) as error:
            raise DatasetError(f"{where}: is damaged ({one_line(error)[:200]}); {START_OVER}") from error
        return cls(shard, index, rejected, counts)


def rejected_table(rows: Sequence[Mapping[str, str]]) -> pa.Table:
    """Make a table from rows of key, reason and detail."""
    return pa.Table.from_pylist(list(rows), schema=REJECTED_SCHEMA)


def finished_shard(
    shard: tuple[str, Sequence[StoredObject]],
    chips: Sequence[Chip],
    schema: Schema,
    attributes: dict[str, str],
    rejected: Sequence[Mapping[str, str]] = (),
    columns: Mapping[str, Sequence[int]] | None = None,
) -> FinishedShard:
    """Describe a shard whose objects are stored.

    Args:
        shard: split and objects of the shard.
        chips: chips of the shard, in its order.
        schema: schema of the dataset.
        attributes: names and types of further columns of the index.
        rejected: chips rejected on the way: key, reason, detail.
        columns: values for columns of the index that do not follow from the chips.
    """
    split, objects = shard
    refused = rejected_table(rejected)
    if not chips:
        return FinishedShard(None, index_schema(attributes).empty_table(), refused, Counts())
    rows = index_rows(chips, split, objects[0].name, schema)
    for name, values in (columns or {}).items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    listed = Shard(split, len(chips), content_checksum(rows), tuple(objects))
    index = pa.Table.from_pylist(rows, schema=index_schema(attributes))
    counts = Counts.of_chips(chips, schema) if split == "train" else Counts()
    return FinishedShard(listed, index, refused, counts)


def write_shard(
    url: str,
    name: tuple[str, int],
    chips: Sequence[Chip],
    schema: Schema,
    shard_format: ShardFormat = "tar",
    shard_chips: int = 0,
) -> list[StoredObject]:
    """Write `chips` below `url` as shard `name` (split and number), and return its objects, at least one.

    `shard_chips` is the number of chips in a full shard, which a Zarr must know.
    """
    split, number = name
    check_name(split, SPLITS)
    objects: dict[str, Bytes]
    if shard_format == "zarr":
        encoded = zarr_v3.encode(chips, schema, shard_chips)
        objects = {
            f"{split}.zarr/{zarr_v3.object_name(array, number)}": data for array, data in encoded.items()
        }
    else:
        objects = {tar_name(split, number): pack(chips, schema).data}
    check_inside(url, *objects)
    for stored, data in objects.items():
        publish(join(url, stored), data)
    return [StoredObject.of(stored, np.frombuffer(data, np.uint8)) for stored, data in objects.items()]


def _ipc(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table)
    return buffer.getvalue()
