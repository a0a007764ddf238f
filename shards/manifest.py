"""dataset.json: what a dataset is. Written last and whole: a dataset exists entirely or not at all.

<url>/dataset.json          this manifest
<url>/index.parquet         one row per chip
<url>/rejected.parquet      one row per chip that was refused, with its reason
<url>/statistics.json       of the training split; the counts themselves are in counts.npz
<url>/train/000000.tar ...  <url>/val/000000.tar ...
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from shards.errors import InputError
from shards.schema import Schema
from shards.storage import exists, join, publish, read_bytes

FORMAT = "treeline"
VERSION = 1
MANIFEST = "dataset.json"
INDEX = "index.parquet"
REJECTED = "rejected.parquet"
STATISTICS = "statistics.json"
COUNTS = "counts.npz"
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Shard:
    """One tar file."""

    name: str
    """Below the dataset's URL, e.g. train/000000.tar."""
    split: str
    samples: int
    nbytes: int
    crc32c: int
    """Checksum (Castagnoli) of the whole file."""


@dataclass(frozen=True)
class Manifest:
    """The contract of a dataset."""

    schema: Schema
    shards: tuple[Shard, ...]
    rejected: dict[str, int]
    """Refused chips by reason."""
    made_by: dict[str, Any] = field(default_factory=dict)
    """Code version and configuration; enough to make it again."""

    def samples(self, split: str) -> int:
        """How many chips `split` holds."""
        return sum(shard.samples for shard in self.shards_of(split))

    def shards_of(self, split: str) -> tuple[Shard, ...]:
        """The shards of "train" or "val", or of both ("all"), in order."""
        return tuple(shard for shard in self.shards if split in (shard.split, "all"))

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ when any stored byte of a chip differs."""
        content = [self.schema.to_json(), [asdict(shard) for shard in self.shards]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "schema": self.schema.to_json(),
            "splits": {split: self.samples(split) for split in SPLITS},
            "rejected": self.rejected,
            "shards": [asdict(shard) for shard in self.shards],
            "made_by": self.made_by,
        }


def write_json(url: str, values: dict[str, Any]) -> None:
    """Publish `values` as indented JSON with a final line end."""
    publish(url, (json.dumps(values, indent=2) + "\n").encode())


def read_json(url: str) -> dict[str, Any]:
    """The JSON object at `url`.

    Raises:
        InputError: none is there.
    """
    try:
        values = json.loads(read_bytes(url))
    except ValueError as error:
        raise InputError(f"{url}: not a JSON file ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{url}: not a JSON object")
    return values


def refuse_existing(url: str) -> None:
    """Refuse to write where a dataset is already.

    Raises:
        InputError: there is one.
    """
    if exists(join(url, MANIFEST)):
        raise InputError(f"{url}: already holds a dataset; choose another --out or delete it first")


def read_manifest(url: str) -> Manifest:
    """The manifest of the dataset at `url`.

    Raises:
        InputError: there is none, or one of another format.
    """
    if not exists(join(url, MANIFEST)):
        raise InputError(f"{url}: no dataset here ({MANIFEST} is missing); make one with treeline ingest")
    values = read_json(join(url, MANIFEST))
    if (values.get("format"), values.get("version")) != (FORMAT, VERSION):
        found = f"{values.get('format')} {values.get('version')}"
        raise InputError(f"{url}: dataset format {found} is not {FORMAT} {VERSION}; ingest it again")
    try:
        return Manifest(
            schema=Schema.from_json(values["schema"]),
            shards=tuple(Shard(**shard) for shard in values["shards"]),
            rejected=values["rejected"],
            made_by=values["made_by"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{join(url, MANIFEST)}: is not a whole manifest ({error})") from error
