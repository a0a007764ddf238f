"""A folder of embeddings: what `treeline embed` writes and `treeline distances` reads. No torch here.

OUT/plan.json             what the parts are made with, while some are missing
OUT/part-000000.parquet   a row per tile (or patch): key, split, columns of the index, vector (float16)
OUT/embeddings.json       what they are made with, counts and checksums; written last

A part appears whole or not at all, and names what it was made with.
"""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from inference.config import EmbedConfig
from shards.errors import InputError
from shards.format.manifest import StoredObject, read_json
from shards.format.sealed import json_bytes
from shards.roles import identity
from shards.storage.checksum import hexadecimal
from shards.storage.json_marks import AtLeast
from shards.storage.objects import exists, join, list_files, publish, read_bytes
from shards.storage.typed_json import typed, typed_as

PLAN, EMBEDDINGS = "plan.json", "embeddings.json"
FORMAT, VERSION = "treeline-embeddings", 1
CURE = "embed again"
VECTOR = "vector"
PATCH_COLUMNS = ("patch_row", "patch_column")
_PART, _ENDING = "part-", ".parquet"
_IDENTITY = b"treeline.made_with"
"""Entry of a part's metadata: digits that stand for everything its vectors depend on."""


@dataclass(frozen=True)
class Part:
    """One Parquet file."""

    stored: StoredObject
    rows: Annotated[int, AtLeast(0)]
    left_out: Annotated[int, AtLeast(0)]
    """Number of its tiles that have no valid patch, and so no row."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Part":
        """Undo `to_json`; of a file's values, see `parts_of`."""
        return cls(StoredObject(**values["stored"]), values["rows"], values["left_out"])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _About:
    """Types of what is read of embeddings.json."""

    checkpoint: str
    checkpoint_fingerprint: str
    weights: str
    tokens: str
    width: Annotated[int, AtLeast(1)]
    tiles: Annotated[int, AtLeast(0)]
    without_pixels: Annotated[int, AtLeast(0)]
    rows: Annotated[int, AtLeast(0)]
    made_with: dict[str, Any]
    parts: tuple[Part, ...]
    data: str | list[str] = ""
    findings: dict[str, Any] = field(default_factory=dict)


def part_name(number: int) -> str:
    """Return the file of a part."""
    return f"{_PART}{number:06}{_ENDING}"


def identity_of(made_with: dict[str, Any]) -> str:
    """Return digits that stand for what embeddings are made with."""
    return hexadecimal(json_bytes(identity(EmbedConfig, made_with)))


def write_part(
    url: str, number: int, columns: pa.Table, vectors_ND: NDArray[np.float16], made_with: dict[str, Any]
) -> StoredObject:
    """Publish the rows of a part: their columns and their vectors."""
    width = vectors_ND.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.ravel()), width)
    table = columns.append_column(VECTOR, vectors)
    table = table.replace_schema_metadata({_IDENTITY: identity_of(made_with)})
    buffer = io.BytesIO()
    # Pages with checksums, since a part that a stopped process left is named by no other file.
    pq.write_table(table, buffer, compression="zstd", use_dictionary=False, write_page_checksum=True)
    data = buffer.getvalue()
    publish(join(url, part_name(number)), data)
    return StoredObject.of(part_name(number), data)


def whole_part(url: str, number: int, tiles: int, made_with: dict[str, Any]) -> Part | None:
    """Look at a part that an earlier process wrote; None if it is damaged or made with something else.

    Args:
        url: the folder.
        number: the part's number.
        tiles: number of tiles that it was made of.
        made_with: what its vectors must be made with.
    """
    data = read_bytes(join(url, part_name(number)))
    try:
        table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError):
        return None
    if (table.schema.metadata or {}).get(_IDENTITY, b"").decode() != identity_of(made_with):
        return None
    left_out = tiles - len(table["key"].unique())
    return Part(StoredObject.of(part_name(number), data), table.num_rows, left_out)


def part_files(url: str) -> list[str]:
    """List the parts in a folder, which may not exist yet."""
    names = list_files(url, _ENDING) if exists(url) else []
    return [name for name in names if name.startswith(_PART)]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """All embeddings of a folder, in memory."""

    url: str
    about: dict[str, Any]
    """Contents of embeddings.json."""
    columns: pa.Table
    """Everything but the vectors, row by row."""
    vectors_ND: NDArray[np.float16]

    @property
    def made_with(self) -> dict[str, Any]:
        """What they are made with."""
        made_with: dict[str, Any] = self.about["made_with"]
        return made_with

    @property
    def tokens(self) -> str:
        """Kind of the tokens."""
        return str(self.made_with["tokens"])


def read_about(url: str) -> dict[str, Any]:
    """Read embeddings.json.

    Raises:
        InputError: there are no embeddings, or unfinished ones, or ones of another version, or it is damaged.
    """
    where = join(url, EMBEDDINGS)
    if not exists(where):
        if exists(join(url, PLAN)):
            raise InputError(f"{url}: its embeddings are unfinished; run the command that makes them again")
        raise InputError(
            f"{url}: no embeddings here ({EMBEDDINGS} is missing); make some with treeline embed"
        )
    about = read_json(where, cure=CURE)
    if (about.get("format"), about.get("version")) != (FORMAT, VERSION):
        found = f"{about.get('format')} {about.get('version')}"
        raise InputError(f"{where}: is {found}, not {FORMAT} {VERSION}; {CURE}")
    typed(about, _About, where, CURE, strict=False)
    return about


def parts_of(about: dict[str, Any]) -> tuple[Part, ...]:
    """Return the parts that `read_about` found listed."""
    parts: tuple[Part, ...] = typed_as(about["parts"], tuple[Part, ...], EMBEDDINGS, CURE, strict=False)
    return parts


def read_embeddings(url: str) -> Embeddings:
    """Read all embeddings of a folder.

    Raises:
        InputError: there are none, or parts of several checkpoints or datasets are mixed.
        DatasetError: a part is damaged.
    """
    about = read_about(url)
    parts = parts_of(about)
    _refuse_strangers(url, [part.stored.name for part in parts])
    identity, tables = identity_of(about["made_with"]), []
    for part in parts:
        where = join(url, part.stored.name)
        data = read_bytes(where)
        found = _identity_in(data)
        if found is not None and found != identity:
            raise InputError(
                f"{where}: was made with another checkpoint, dataset or options than {EMBEDDINGS} beside it "
                "says; do not mix the files of two folders"
            )
        part.stored.check(where, data)
        tables.append(pq.ParquetFile(pa.BufferReader(data)).read())
    table = pa.concat_tables(tables)
    vectors = table[VECTOR].combine_chunks()
    vectors_ND = vectors.flatten().to_numpy().reshape(len(vectors), -1)
    return Embeddings(url, about, table.drop_columns([VECTOR]), vectors_ND)


def _identity_in(data: bytes) -> str | None:
    """Return what a part says that it was made with; None if it cannot be read."""
    try:
        metadata = pq.read_schema(pa.BufferReader(data)).metadata or {}
    except (pa.ArrowException, OSError):
        return None
    return str(metadata.get(_IDENTITY, b"").decode())


def _refuse_strangers(url: str, names: Sequence[str]) -> None:
    """Refuse a folder into which somebody else's parts were put."""
    strangers = sorted(set(part_files(url)) - set(names))
    if strangers:
        raise InputError(
            f"{url}: holds {strangers[0]}, which {EMBEDDINGS} does not name; do not mix the files of two "
            "folders"
        )
