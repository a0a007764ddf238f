"""dataset.json: the manifest of a dataset. Written last and whole: a dataset exists entirely or not at all.

<url>/dataset.json          this manifest
<url>/index.parquet         one row per chip
<url>/rejected.parquet      one row per rejected chip, with the reason
<url>/statistics.json       statistics of the training split; the counts behind them are in counts.npz
<url>/train/000000.tar ...  <url>/val/000000.tar ...      or  <url>/train.zarr, <url>/val.zarr
<url>/mixed/from-train/...  shards whose chips are no longer all of one split

The manifest has a checksum of itself, of every file and of every shard; the index has one of every chip.
A change (`treeline ingest --append`, `ingest labels`, `split`) writes new files beside the old ones, for
example index.1.parquet, and then a new manifest: at every moment there is a whole dataset. index.parquet is
always the current index, for readers who know no manifest.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from shards.errors import DatasetError, InputError, one_line
from shards.format.path_names import check_name
from shards.format.schema import Schema, StoredSchema, schema_of
from shards.format.sealed import SEAL, sealed, unsealed
from shards.storage.checksum import hexadecimal
from shards.storage.json_marks import HEXADECIMAL, AtLeast, Checked, Matching, OneOf, StoredAs
from shards.storage.json_text import COPY_AGAIN, parsed, read_json_bytes
from shards.storage.limits import CHIPS, SHARD_BYTES
from shards.storage.objects import exists, join, publish, read_bytes
from shards.storage.typed_json import shown, typed

FORMAT = "treeline"
VERSION = 3
MANIFEST = "dataset.json"
INDEX = "index.parquet"
REJECTED = "rejected.parquet"
STATISTICS = "statistics.json"
COUNTS = "counts.npz"
FILES = (INDEX, REJECTED, STATISTICS, COUNTS)
JOURNAL = ".ingest"
"""Folder with the state of an unfinished ingest."""
UNFINISHED = ".unfinished"
"""Marker of a dataset that another command is writing. Where it lies, the command may overwrite files."""
SPLITS = ("train", "val", "test", "buffer")
"""Uses of chips. "buffer" chips are not used: they lie too near to chips of another split."""
SHARD_NAME = re.compile(
    rf"(mixed/from-)?({'|'.join(SPLITS)})(/\d{{6,18}}\.tar|\.zarr/(image|height)/c/\d{{1,18}}(/0)+)"
)
"""Names of the objects of shards that Treeline wrote."""
ZARR_METADATA = re.compile(rf"({'|'.join(SPLITS)})\.zarr/((image|height)/)?zarr\.json")
Split = Annotated[str, Checked(partial(check_name, allowed=SPLITS))]
"""One of SPLITS."""
WITHOUT_CHIPS = "without_chips"
"""Entry of `Manifest.made_by`: names of foreign tars from which no chip was kept."""

AttributeType = Annotated[str, OneOf(("string", "int64", "float64", "bool"))]
"""Type of a further column of the index."""
ShardFormat = Literal["tar", "zarr", "webdataset"]
"""Format of the shards. tar: equal rows, see shards.format.tar; zarr: see shards.format.zarr_v3; webdataset:
foreign tars, left as they are."""


@dataclass(frozen=True)
class StoredObject:
    """One file or object of the dataset."""

    name: Annotated[str, Checked(check_name)]
    """Name below the dataset's URL, e.g. train/000000.tar."""
    nbytes: Annotated[int, AtLeast(0)]
    xxh3: Annotated[str, HEXADECIMAL]
    """Checksum of all its bytes, sixteen hexadecimal digits."""

    def __post_init__(self) -> None:
        check_name(self.name)

    @classmethod
    def of(cls, name: str, data: bytes | NDArray[np.uint8]) -> "StoredObject":
        """Describe `data`, which is stored as `name`."""
        return cls(name, len(data), hexadecimal(data))

    def is_of(self, data: bytes | NDArray[np.uint8]) -> bool:
        """Tell whether `data`, of the right size, are this object's bytes."""
        return hexadecimal(data) == self.xxh3

    def check(self, url: str, data: bytes | NDArray[np.uint8]) -> None:
        """Refuse `data`, read from `url`, if it is not this object.

        Raises:
            DatasetError: size or checksum differ.
        """
        if len(data) != self.nbytes:
            raise DatasetError(f"{url}: {len(data):,} bytes instead of {self.nbytes:,}; copy it again")
        if not self.is_of(data):
            raise DatasetError(
                f"{url}: its {self.nbytes:,} bytes are not those that were written; copy it again"
            )


@dataclass(frozen=True)
class Shard:
    """Some chips that were written for one split: one tar, or one Zarr shard per array."""

    split: Split
    """Split that they were written for; after `treeline split` the index says which one each chip is in."""
    samples: Annotated[int, AtLeast(1)]
    content: Annotated[str, HEXADECIMAL]
    """Checksum of keys and pixels (`shards.storage.checksum.content_checksum`), whatever the format."""
    objects: tuple[StoredObject, ...]

    def __post_init__(self) -> None:
        check_name(self.split, SPLITS)
        if not self.objects:
            raise InputError("a shard without a file")

    @property
    def name(self) -> str:
        """Name of the shard in the index: that of its first object."""
        return self.objects[0].name

    @property
    def nbytes(self) -> int:
        """Stored bytes of all objects."""
        return sum(stored.nbytes for stored in self.objects)


@dataclass(frozen=True)
class MadeBy:
    """What programs read of `Manifest.made_by`, which may have anything else."""

    config: dict[str, Any] = field(default_factory=dict)
    findings: dict[str, list[str]] = field(default_factory=dict)
    request: str = ""
    plan: str = ""
    own_parts: dict[str, Any] = field(default_factory=dict)
    without_chips: list[Annotated[str, Checked(check_name)]] = field(default_factory=list)
    before: "MadeBy | None" = None
    """How the dataset was made before chips were added."""


@dataclass(frozen=True)
class Manifest:
    """The contract of a dataset."""

    schema: Annotated[Schema, StoredAs(StoredSchema, schema_of)]
    shard_format: ShardFormat
    shard_chips: Annotated[int, AtLeast(1)]
    """Chips in a full shard."""
    shards: tuple[Shard, ...]
    files: dict[str, StoredObject]
    """Index and other files beside the shards, by their names in a dataset that was never changed."""
    rejected: dict[str, Annotated[int, AtLeast(0)]]
    """Number of rejected chips by reason."""
    splits: dict[str, Annotated[int, AtLeast(0)]]
    """Number of chips by split."""
    made_by: Annotated[dict[str, Any], StoredAs(MadeBy, lambda read, plain: plain, strict=False)] = field(
        default_factory=dict
    )
    """Code version and configuration, enough to make the dataset again."""
    split_rule: dict[str, Any] = field(default_factory=dict)
    """The `shards.write.split_rule.SplitRule` that was followed, so that later additions follow it too."""
    split_column: Annotated[str, Matching("|[0-9a-f]{16}", "of sixteen hexadecimal digits, or empty")] = ""
    """Checksum of the index's column "split" after `treeline split`, when that column and not the shard says
    which split a chip is in; "" before."""
    attributes: dict[str, AttributeType] = field(default_factory=dict)
    """Further columns of this dataset's index: name and type."""
    generation: Annotated[int, AtLeast(0)] = 0
    """Number of changes to the dataset."""
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Attributes that `treeline ingest labels` added: name, and how it was made. Shards do not have them."""

    def __post_init__(self) -> None:
        for split in self.splits:
            check_name(split, SPLITS)

    def check(self) -> None:
        """Refuse what no dataset can have, and sizes beyond the limits, before memory is taken.

        Raises:
            InputError: says what.
        """
        CHIPS.check(f"{MANIFEST}: shards", sum(shard.samples for shard in self.shards))
        for name in FILES:
            if name not in self.files:
                raise InputError(f"files has no {name}")
        for name, stored in self.files.items():
            stem, _, ending = name.rpartition(".")
            own = (
                rf"{re.escape(stem)}(\.\d{{1,18}})?\.{ending}"
                if name in FILES
                else rf"(mixed/from-)?{re.escape(name)}"
            )
            if not (name in FILES or ZARR_METADATA.fullmatch(name)) or not re.fullmatch(own, stored.name):
                raise InputError(
                    f"files[{shown(name)}] is called {shown(stored.name)}, which is no name of this file"
                )
        objects = 1 + bool(self.schema.label) if self.shard_format == "zarr" else 1
        chip_bytes = self.schema.chip_bytes
        for number, shard in enumerate(self.shards):
            if len(shard.objects) != objects:
                raise InputError(f"shards[{number}].objects has {len(shard.objects)} entries, not {objects}")
            if self.shard_format != "webdataset" and not all(
                SHARD_NAME.fullmatch(stored.name) for stored in shard.objects
            ):
                raise InputError(
                    f"shards[{number}] is called {shown(shard.name)}, which is no name of a shard"
                )
            SHARD_BYTES.check(f"shards[{number}]", shard.samples * chip_bytes)

    def samples(self, split: str) -> int:
        """Return how many chips `split` holds."""
        return self.splits.get(split, 0)

    def url_of(self, url: str, name: str) -> str:
        """Return the present URL of the file `name` in the dataset at `url`."""
        return join(url, self.files[name].name)

    def read(self, url: str, name: str) -> bytes:
        """Read the file `name` of the dataset at `url`.

        Raises:
            DatasetError: the file is missing or is not what was written.
        """
        where = self.url_of(url, name)
        try:
            data = read_bytes(where)
        except InputError as error:
            raise DatasetError(f"{where}: a file of the dataset cannot be read ({error})") from error
        self.files[name].check(where, data)
        return data

    def shards_of(self, split: str) -> tuple[Shard, ...]:
        """Return the shards written for "train", "val", ... or for any split ("all"), in order."""
        return tuple(shard for shard in self.shards if split in (shard.split, "all"))

    @cached_property
    def first_chip(self) -> NDArray[np.int64]:
        """(shards + 1,) number of each shard's first chip, and last the number of all chips."""
        return np.cumsum([0, *(shard.samples for shard in self.shards)])

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any key, pixel or order; the same in every format."""
        content: list[Any] = [self.schema.to_json(), [[s.split, s.samples, s.content] for s in self.shards]]
        if self.split_column:
            content.append(self.split_column)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain JSON values; the last is a checksum of the others."""
        values = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "schema": self.schema.to_json(),
            "splits": self.splits,
            "rejected": self.rejected,
            "shard_format": self.shard_format,
            "shard_chips": self.shard_chips,
            "shards": [asdict(shard) for shard in self.shards],
            "files": {name: asdict(stored) for name, stored in self.files.items()},
            "made_by": self.made_by,
            "split_rule": self.split_rule,
            "split_column": self.split_column,
            "attributes": self.attributes,
            "generation": self.generation,
        }
        if self.labels:  # left out, so that other manifests keep their bytes
            values["labels"] = self.labels
        return {**values, "sha256": _digest(values)}


_PLAIN = (
    *("shard_format", "shard_chips", "rejected", "splits", "made_by"),
    *("split_rule", "split_column", "attributes", "generation"),
)
_PARTS = ("schema", "shards", "files", *_PLAIN, "sha256")


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_json(url: str, values: dict[str, Any]) -> None:
    """Publish `values` as JSON, with a checksum that `read_json` compares."""
    publish(url, sealed(values))


def read_json(url: str, expected: StoredObject | None = None, cure: str = COPY_AGAIN) -> dict[str, Any]:
    """Read the JSON object at `url`; if it has a checksum of itself, compare that and leave it out.

    Args:
        url: the file.
        expected: what the manifest says of it.
        cure: what to do about a damaged file, for messages.

    Raises:
        InputError: there is no JSON object, or not the one that was written.
        DatasetError: it is not the `expected` file.
    """
    data = read_json_bytes(url)
    if expected is not None:
        expected.check(url, data)
    values = parsed(data, url, cure)
    if not isinstance(values, dict):
        raise InputError(f"{url}: not a JSON object; {cure}")
    return unsealed(url, data, values, cure)[0]


def has_checksum(url: str) -> bool:
    """Tell whether the JSON file at `url` has a checksum of itself; those of earlier versions have none."""
    values = parsed(read_json_bytes(url), url)
    return isinstance(values, dict) and SEAL in values


@contextmanager
def understood(url: str, cure: str) -> Iterator[None]:
    """Refuse in one line what was read from `url` if the block cannot make of it what it should be.

    Args:
        url: the file, for the message.
        cure: what to do, for the message.

    Raises:
        InputError: a value is missing, or is not what it should be.
    """
    try:
        yield
    except InputError as error:
        if str(error).startswith(f"{url}: "):
            raise
        raise InputError(f"{url}: {error}; {cure}") from error
    except KeyError as error:
        raise InputError(
            f"{url}: cannot be understood ({error.args[0]} is missing, or unknown); {cure}"
        ) from error
    except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{url}: cannot be understood ({one_line(error)[:200]}); {cure}") from error


def refuse_existing(url: str) -> None:
    """Refuse to write where a dataset exists.

    Raises:
        InputError: there is a dataset.
    """
    if exists(join(url, MANIFEST)):
        raise InputError(f"{url}: already holds a dataset; choose another --out or delete it first")


def read_manifest(url: str) -> Manifest:
    """Read the manifest of the dataset at `url`.

    Raises:
        InputError: there is no manifest, or it has another format or names that lead elsewhere.
        DatasetError: the manifest is damaged.
    """
    if not exists(join(url, MANIFEST)):
        if any(exists(join(url, name)) for name in (JOURNAL, UNFINISHED)):
            raise InputError(f"{url}: no dataset here yet; to finish it, run the command that makes it again")
        raise InputError(f"{url}: no dataset here ({MANIFEST} is missing); make one with treeline ingest")
    where = join(url, MANIFEST)
    values = read_json(where)
    if (values.get("format"), values.get("version")) != (FORMAT, VERSION):
        found = f"{shown(values.get('format'))} {shown(values.get('version'))}"
        raise InputError(f"{where}: dataset format {found} is not {FORMAT} {VERSION}; ingest it again")
    missing = [name for name in _PARTS if name not in values]
    if missing:
        raise InputError(f"{where}: is not a whole manifest ({', '.join(missing)} missing); copy it again")
    if values.pop("sha256") != _digest(values):
        raise DatasetError(f"{where}: is not what was written (its checksum differs); copy it again")
    for name in ("format", "version", "fingerprint"):
        values.pop(name, None)
    manifest = typed(values, Manifest, where)
    try:
        manifest.check()
    except InputError as error:
        raise InputError(f"{where}: {error}; copy it again") from error
    return manifest


def is_current(url: str, manifest: Manifest) -> bool:
    """Tell whether the dataset at `url` still has this manifest, as far as can be known."""
    try:
        return read_manifest(url) == manifest
    except (InputError, DatasetError, OSError):
        return True
