"""Sizes and checksums of a checkpoint's files, which its config.json holds beside one of itself.

described(files)                 files of a checkpoint, config.json with the others' checksums
config, sums = read_config(url)  the description of the model, and what the files must be
sums.check(name, data)           refuses other bytes

Weights are compared while they are read for the fingerprint. Checkpoints of before have no checksums, which
is said once. Fingerprints leave the checksums out, so they are the same with and without.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import xxhash

from shards.errors import InputError
from shards.format.manifest import StoredObject
from shards.format.sealed import sealed, unsealed
from shards.storage.checksum import hexadecimal
from shards.storage.json_marks import HEXADECIMAL, AtLeast
from shards.storage.json_text import parsed, read_json_bytes
from shards.storage.objects import join, size_of
from shards.storage.typed_json import shown, typed
from trainer.weights.run_checkpoints import DAMAGED, say_once

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
STATISTICS = "statistics.json"
METRICS = "metrics.json"
OURS = "treeline-"
"""Beginning of the formats of our checkpoints; transformers' folders have a config.json, too."""
FILES = "files"
"""Entry of config.json with the other files' sizes and checksums."""
KNOWN = frozenset(
    (
        "format",
        "version",
        "schema",
        "bands",
        "backbone",
        "decoder",
        "head",
        "method",
        "backbones",
        "trained_on",
    )
)
"""Other entries of config.json, of any kind of checkpoint."""
Piece = TypeVar("Piece", bytes, memoryview, bytes | memoryview)


@dataclass(frozen=True)
class FileSum:
    """What one file must be."""

    nbytes: Annotated[int, AtLeast(0)]
    xxh3: Annotated[str, HEXADECIMAL]


@dataclass(frozen=True)
class FileSums:
    """What the files of a checkpoint must be."""

    url: str
    """Folder of the checkpoint."""
    files: dict[str, StoredObject]
    """Sizes and checksums by name; empty for a checkpoint of before."""

    def __bool__(self) -> bool:
        return bool(self.files)

    def has(self, name: str) -> bool:
        """Tell whether a file's checksum is known."""
        return name in self.files

    def check_size(self, name: str) -> None:
        """Refuse a file of another size, or one that should have a checksum and has none.

        Raises:
            InputError: says which.
        """
        if not self:
            return
        url = join(self.url, name)
        if name not in self.files:
            raise InputError(f"{join(self.url, CONFIG)}: lists no {name}; {DAMAGED}")
        _refuse_size(url, size_of(url), self.files[name])

    def check_sum(self, name: str, digest: str) -> None:
        """Refuse a file whose bytes have this checksum, if it should be another.

        Raises:
            InputError: the file is not what was written.
        """
        if name in self.files and self.files[name].xxh3 != digest:
            raise InputError(
                f"{join(self.url, name)}: its {self.files[name].nbytes:,} bytes are not those that were "
                f"written; {DAMAGED}"
            )

    def checked(self, name: str, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Yield a file's bytes; at their end, refuse them if they are not what was written."""
        digest = xxhash.xxh3_64()
        for piece in pieces:
            digest.update(piece)
            yield piece
        self.check_sum(name, digest.hexdigest())

    def read(self, name: str) -> bytes:
        """Read a small file.

        Raises:
            InputError: it is missing, or not what was written.
        """
        url = join(self.url, name)
        if name in self.files:
            _refuse_size(url, size_of(url), self.files[name])
        data = read_json_bytes(url)
        if name in self.files:
            self.check_sum(name, hexadecimal(data))
        return data

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object; see `read`."""
        return _object(join(self.url, name), self.read(name))


def described(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return a checkpoint's files with config.json last, which lists the others' sizes and checksums."""
    others = {name: data for name, data in files.items() if name != CONFIG}
    config = json.loads(files[CONFIG])
    return {**others, CONFIG: config_bytes(config, map(StoredObject.of, others, others.values()))}


def config_bytes(config: dict[str, Any], files: Iterable[StoredObject]) -> bytes:
    """Write config.json with the sizes and checksums of these files in place of those it had."""
    listed = {one.name: {"nbytes": one.nbytes, "xxh3": one.xxh3} for one in sorted(files, key=_name)}
    return sealed({**{name: value for name, value in config.items() if name != FILES}, FILES: listed})


def _name(stored: StoredObject) -> str:
    return stored.name


def read_config(url: str) -> tuple[dict[str, Any], FileSums]:
    """Read the config.json of the checkpoint in folder `url`, without the checksums, and these.

    Raises:
        InputError: there is none, or it is damaged.
    """
    file = join(url, CONFIG)
    data = read_json_bytes(file)
    config, is_sealed = unsealed(file, data, _object(file, data), DAMAGED)
    listed = config.pop(FILES, None)
    # A flipped bit in the names of the two entries would make a checkpoint of before of it.
    unknown = ", ".join(sorted({*config} - KNOWN)) if str(config.get("format")).startswith(OURS) else ""
    if (listed is not None) != is_sealed or unknown:
        unknown = unknown or "half of its checksums"
        raise InputError(f"{file}: has {shown(unknown)}, which no version of Treeline writes; {DAMAGED}")
    sums = typed(listed or {}, dict[str, FileSum], file, DAMAGED)
    try:
        return config, FileSums(
            url, {name: StoredObject(name, one.nbytes, one.xxh3) for name, one in sums.items()}
        )
    except InputError as error:
        raise InputError(f"{file}: {error}; {DAMAGED}") from error


def say_unchecked(sums: FileSums) -> None:
    """Say once of a checkpoint of before that it has no checksums."""
    if not sums:
        say_once(
            f"{sums.url}: an earlier version wrote it without checksums, so damage to it cannot be seen; "
            "treeline export makes a copy that has them"
        )


def _object(url: str, data: bytes) -> dict[str, Any]:
    values = parsed(data, url, DAMAGED)
    if not isinstance(values, dict):
        raise InputError(f"{url}: not a JSON object; {DAMAGED}")
    return values


def _refuse_size(url: str, nbytes: int, stored: StoredObject) -> None:
    if nbytes != stored.nbytes:
        raise InputError(f"{url}: {nbytes:,} bytes instead of {stored.nbytes:,}; {DAMAGED}")
