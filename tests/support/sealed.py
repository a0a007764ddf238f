"""Datasets of strangers: files and manifests changed and sealed again, so that all checksums are right."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

Values = dict[str, Any]


def seal(folder: Path, change: Callable[[Values], object] | None = None) -> None:
    """Change the manifest in `folder`, and give it the checksum that it then has."""
    path = folder / "dataset.json"
    values = json.loads(path.read_text())
    if change:
        change(values)
    values.pop("sha256", None)
    values["sha256"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(values, indent=2))


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Replace a file beside the shards, and list it as it is now."""

    def listed(values: Values) -> None:
        stored = values["files"][name]
        (folder / stored["name"]).write_bytes(data)
        stored |= {"nbytes": len(data), "xxh3": f"{xxhash.xxh3_64_intdigest(data):016x}"}

    seal(folder, listed)


def replace_object(folder: Path, shard: int, place: int, data: bytes) -> None:
    """Replace an object of a shard, and list it as it is now."""

    def listed(values: Values) -> None:
        stored = values["shards"][shard]["objects"][place]
        (folder / stored["name"]).write_bytes(data)
        stored |= {"nbytes": len(data), "xxh3": f"{xxhash.xxh3_64_intdigest(data):016x}"}

    seal(folder, listed)


def put(place: str, value: Any) -> Callable[[Values], object]:
    """Return a change that sets the value at `place`, for example shards.0.split."""

    def change(values: Any) -> None:
        *way, last = place.split("/")
        for name in way:
            values = values[int(name)] if isinstance(values, list) else values[name]
        values[int(last) if isinstance(values, list) else last] = value

    return change
