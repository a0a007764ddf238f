"""Chip keys: what they may look like, what they say, and the split they fall into.

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
"""Characters: `KEY.height.npy` must fit a tar header's 100 bytes."""
KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_KEY}}}")
"""No dot: WebDataset ends a key at the first one."""

SCENE = r"(?P<scene>(?P<sensor>[A-Z]{2}\d\d)_(?P<acquired>\d{8})_\w{4}_(?P<catalogue>[0-9A-F]{16}))"
SOURCE = r"_CHM_(?P<source>.+?)(?:_CHM)?_(?P<number>\d+)_v\d+$"

_SCENE, _SOURCE = re.compile(SCENE), re.compile(SOURCE)
_DAY = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)")


@dataclass(frozen=True)
class KeyFacts:
    """What a name says of its chip or scene; None where it says nothing."""

    source: str | None = None
    sensor: str | None = None
    acquired: str | None = None
    scene: str | None = None
    catalogue: str | None = None
    number: int | None = None


FACTS = tuple(KeyFacts.__dataclass_fields__)


def is_valid(key: str) -> bool:
    """Whether `key` can name a chip in a tar, on disk and in WebDataset."""
    return KEY.fullmatch(key) is not None


def check_key(key: str) -> None:
    """Refuse a key that cannot name a member of a tar of ours, which others unpack.

    Raises:
        InputError: it cannot.
    """
    if not is_valid(key):
        raise InputError(
            f"the key {key[:100]!r} cannot name a member of a tar of ours (letters, digits, _ and -, at most "
            f"{MAX_KEY}); convert to zarr"
        )


def facts(name: str, pattern: re.Pattern[str] | None = None) -> KeyFacts:
    """What a chip key or a scene's file name says, by `pattern` or as names are in this field."""
    matches = (_SCENE.search(name), _SOURCE.search(name)) if pattern is None else (pattern.search(name),)
    found: dict[str, str] = {}
    for match in matches:
        if match:
            found |= {part: text for part, text in match.groupdict().items() if text}
    values: dict[str, Any] = dict(found)
    if "acquired" in found:
        values["acquired"] = as_day(found["acquired"])
    if "number" in found:
        values["number"] = int(found["number"]) if found["number"].isdecimal() else None
    return KeyFacts(**values)


def key_pattern(text: str) -> re.Pattern[str]:
    """A pattern of the user's for `facts`.

    Raises:
        InputError: it cannot be understood, or has a group that is no fact.
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
    """A day written YYYYMMDD or YYYY-MM-DD as the latter; None if it is no day of the calendar."""
    match = _DAY.fullmatch(text)
    try:
        return date(*map(int, match.groups())).isoformat() if match else None
    except ValueError:
        return None


def split_of(name: str, val_share: float) -> str:
    """The split of a name: "val" for a share (0..1) of all names, by a hash that is the same everywhere."""
    digest = hashlib.sha256(name.encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < val_share * 2**64 else "train"
