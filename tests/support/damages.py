"""Damages: what accidents and strangers do to files, each made again from a few words.

A damage is (file, kind, detail): "field" puts another value into a JSON file, sealed again as its owner would
where the file holds a checksum of itself; the others need no knowledge of what a file is.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from shards.format.sealed import SEAL, sealed

WRONG: tuple[Any, ...] = (
    None, True, -1, 2**64, 1e308, float("nan"), "", "../../evil", "\x1b[2J\u202e<script>", [], {"a": []},
)  # fmt: skip
"""Values that take each field's place."""


JSON = (".json", ".geojson")
"""Endings of files of which single fields are damaged."""
SEALED = 0.75
"""Share of damaged fields in files that are sealed again: the others are told by their checksum."""


class Damage(NamedTuple):
    """One damage; as JSON it is a case to keep."""

    file: str
    """File below the thing's folder."""
    kind: str
    """field, cut, empty, swap, flip or longer."""
    detail: tuple[Any, ...]


def drawn(folder: Path, generator: random.Random) -> Damage:
    """Draw a damage to a file of the thing in `folder`."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    file = generator.choice(files)
    size = (folder / file).stat().st_size
    if file.endswith(JSON) and generator.random() < 0.7:
        # Each field is as likely, also one that is no list of a thousand numbers.
        alike = list(fields_of(json.loads((folder / file).read_text())).values())
        path = generator.choice(generator.choice(alike))
        return Damage(file, "field", (path, generator.randrange(len(WRONG)), generator.random() < SEALED))
    kind = generator.choice(("cut", "empty", "swap", "flip", "flip", "longer"))
    detail: tuple[Any, ...] = {
        "cut": (generator.randrange(max(size, 1)),),
        "swap": (generator.choice(files),),
        "flip": (generator.randrange(max(8 * size, 1)),),
    }.get(kind, ())
    return Damage(file, kind, detail)


def fields_of(values: Any) -> dict[tuple[Any, ...], list[list[Any]]]:
    """Return the ways to each field, which may be many where it stands in a list."""
    fields: dict[tuple[Any, ...], list[list[Any]]] = {}
    for path in _paths(values):
        fields.setdefault(tuple("" if isinstance(way, int) else way for way in path), []).append(path)
    return fields


def _paths(values: Any, before: tuple[Any, ...] = ()) -> Iterator[list[Any]]:
    """Yield the way to each field."""
    inner = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in inner:
        yield [*before, key]
        yield from _paths(value, (*before, key))


def resealed(values: Any) -> bytes:
    """Encode a file's values with the checksum of itself that they then have, as a stranger would."""
    if isinstance(values, dict) and "sha256" in values:
        values.pop("sha256")
        values["sha256"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    if isinstance(values, dict) and SEAL in values:
        return sealed(values)
    return (json.dumps(values, indent=2) + "\n").encode()


def do(folder: Path, damage: Damage) -> None:
    """Damage the thing in `folder`."""
    file = folder / damage.file
    data = file.read_bytes()
    if damage.kind == "field":
        path, number, is_sealed = damage.detail
        values = json.loads(data)
        *ways, last = path
        inner = values
        for way in ways:
            inner = inner[way]
        inner[last] = WRONG[number]
        file.write_bytes(resealed(values) if is_sealed else (json.dumps(values, indent=2) + "\n").encode())
    elif damage.kind == "cut":
        file.write_bytes(data[: damage.detail[0]])
    elif damage.kind == "empty":
        file.write_bytes(b"")
    elif damage.kind == "longer":
        file.write_bytes(data + b"\0more")
    elif damage.kind == "swap":
        file.write_bytes((folder / damage.detail[0]).read_bytes())
    elif damage.kind == "flip" and data:
        changed = bytearray(data)
        changed[damage.detail[0] // 8] ^= 1 << damage.detail[0] % 8
        file.write_bytes(changed)
