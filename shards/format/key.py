"""Chip keys: their allowed form, the facts in them, and the split they fall into.

chip_WV02_20150802_M1BS_1030010047ADDD00_CHM_AK_IFSAR_CHM_02574_v20231006
     ^sensor ^acquired  ^catalogue id        ^height source ^number
     scene: sensor to catalogue id
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import date
from typing import Any

from shards.errors import InputError

MAX_KEY = 89
"""Longest key in characters: `KEY.height.npy` must fit the 100 bytes of a tar header's name."""
KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_KEY}}}")
"""Form of a key. It has no dot, because WebDataset ends a key at the first one."""

SCENE = r"(?P<scene>(?P<sensor>[A-Z]{2}\d\d)_(?P<acquired>\d{8})_\w{4}_(?P<catalogue>[0-9A-F]{16}))"
SOURCE = r"_CHM_(?P<source>.+?)(?:_CHM)?_(?P<number>\d+)_v\d+$"

_SCENE, _SOURCE = re.compile(SCENE), re.compile(SOURCE)
_OTHERS = tuple(
    (sensor, re.compile(rf"(?<![A-Za-z0-9]){pattern}"))
    for sensor, pattern in (
        ("PlanetScope", r"(?P<acquired>20\d{6})_\d{6}(?:_\d{2})?_[0-9a-f]{4}_(?:1B|3A|3B)(?![A-Za-z0-9])"),
        ("NAIP", r"m_\d{7}_(?:ne|nw|se|sw)_\d{1,2}_[0-9hp]{1,3}_(?P<acquired>(?:19|20)\d{6})(?!\d)"),
        ("Sentinel-2", r"T\d{2}[A-Z]{3}_(?P<acquired>20\d{6})T\d{6}(?!\d)"),
        ("Sentinel-2", r"S2[A-D]_MSIL\w{2}_(?P<acquired>20\d{6})T\d{6}(?!\d)"),
    )
)
"""Names of other producers, which say a sensor and a day: Planet's items, NAIP's quarter quads, and the
granules and products of Sentinel-2."""
_DAY = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)")


@dataclass(frozen=True)
class KeyFacts:
    """Facts that a name states about its chip or scene; None where it states nothing."""

    source: str | None = None
    sensor: str | None = None
    acquired: str | None = None
    scene: str | None = None
    catalogue: str | None = None
    number: int | None = None


FACTS = tuple(KeyFacts.__dataclass_fields__)


def is_valid(key: str) -> bool:
    """Tell whether `key` can name a chip in a tar, on disk and in WebDataset."""
    return KEY.fullmatch(key) is not None


def check_key(key: str) -> None:
    """Refuse a key that cannot name a member of our tars, which others unpack.

    Raises:
        InputError: `key` is no such name.
    """
    if not is_valid(key):
        raise InputError(
            f"the key {key[:100]!r} cannot name a member of a tar (letters, digits, _ and -, at most "
            f"{MAX_KEY}); convert to zarr"
        )


def facts(name: str, pattern: re.Pattern[str] | None = None) -> KeyFacts:
    """Read the facts in a chip key or a scene's file name, by `pattern` or by the field's usual names."""
    matches = (_SCENE.search(name), _SOURCE.search(name)) if pattern is None else (pattern.search(name),)
    found: dict[str, str] = {}
    for match in matches:
        if match:
            found |= {part: text for part, text in match.groupdict().items() if text}
    if pattern is None and "acquired" not in found:
        found |= _of_others(name)
    values: dict[str, Any] = dict(found)
    if "acquired" in found:
        values["acquired"] = as_day(found["acquired"])
    if "number" in found:
        values["number"] = int(found["number"]) if found["number"].isdecimal() else None
    return KeyFacts(**values)


def _of_others(name: str) -> dict[str, str]:
    """Read sensor and day in the names of other producers; {} if the calendar has no such day."""
    for sensor, pattern in _OTHERS:
        if (match := pattern.search(name)) and as_day(match["acquired"]):
            return {"sensor": sensor, "acquired": match["acquired"]}
    return {}


def key_pattern(text: str) -> re.Pattern[str]:
    """Compile the user's pattern for `facts`.

    Raises:
        InputError: the pattern is invalid, or has a group that is no fact.
    """
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"--key-pattern {text}: not a regular expression ({error})") from error
    unknown = sorted(set(pattern.groupindex) - set(FACTS))
    if unknown or not pattern.groupindex:
        raise InputError(
            f"--key-pattern {text}: has {'groups ' + ', '.join(unknown) if unknown else 'no groups'}; "
            f"name them (?P<...>) with some of {', '.join(FACTS)}"
        )
    return pattern


def as_day(text: str) -> str | None:
    """Convert a day written YYYYMMDD or YYYY-MM-DD to the latter; None if the calendar has no such day."""
    match = _DAY.fullmatch(text)
    try:
        return date(*map(int, match.groups())).isoformat() if match else None
    except ValueError:
        return None


def split_of(name: str, val_share: float) -> str:
    """Return "val" for a share (0..1) of all names and "train" for the others.

    A hash of the name decides, and it is the same on every machine.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < val_share * 2**64 else "train"
