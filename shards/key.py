"""Chip keys: what they may look like, what they say, and the split they fall into.

chip_WV02_20150802_M1BS_1030010047ADDD00_CHM_AK_IFSAR_CHM_02574_v20231006
     ^sensor ^acquired  ^catalogue id        ^height source
"""

import hashlib
import re
from dataclasses import dataclass

MAX_KEY = 89
"""Characters: `KEY.height.npy` must fit a tar header's 100 bytes."""
KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_KEY}}}")
"""No dot: WebDataset ends a key at the first one."""

_SCENE = re.compile(r"(?P<sensor>[A-Z]{2}\d\d)_(?P<day>\d{8})_(?P<product>\w{4})_(?P<catalogue>[0-9A-F]{16})")
_SOURCE = re.compile(r"_CHM_(?P<source>.+?)(?:_CHM)?_\d+_v\d+$")


@dataclass(frozen=True)
class KeyFacts:
    """What a name says of its chip or scene; None where it says nothing."""

    source: str | None
    sensor: str | None
    acquired: str | None
    scene: str | None


def is_valid(key: str) -> bool:
    """Whether `key` can name a chip in a tar, on disk and in WebDataset."""
    return KEY.fullmatch(key) is not None


def facts(name: str) -> KeyFacts:
    """Sensor, day, scene and height source, read from a chip key or a scene's file name."""
    scene, source = _SCENE.search(name), _SOURCE.search(name)
    day = scene["day"] if scene else None
    return KeyFacts(
        source=source["source"] if source else None,
        sensor=scene["sensor"] if scene else None,
        acquired=f"{day[:4]}-{day[4:6]}-{day[6:]}" if day else None,
        scene=scene.group(0) if scene else None,
    )


def split_of(name: str, val_share: float) -> str:
    """The split of a name: "val" for a share (0..1) of all names, by a hash that is the same everywhere."""
    digest = hashlib.sha256(name.encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < val_share * 2**64 else "train"
