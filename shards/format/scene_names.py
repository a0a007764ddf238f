"""What the names of scenes and masks say: a name fit for keys, a day, and the images that a mask is for."""

import re
from collections.abc import Iterable

from shards.format.key import as_day, facts, is_valid
from shards.storage.objects import stem_of

_DAY = re.compile(r"(?<!\d)(?:19|20)\d\d-?\d\d-?\d\d(?!\d)")


def scene_name(url: str) -> str:
    """Turn the file's stem into a name that a chip key may contain."""
    return "".join(letter if is_valid(letter) else "_" for letter in stem_of(url))


def day_in(name: str) -> str | None:
    """Find the first day (YYYYMMDD or YYYY-MM-DD) in a name, as YYYY-MM-DD; a year alone is no day."""
    days = (as_day(match[0]) for match in _DAY.finditer(name))
    return next(filter(None, days), None)


def images_of_masks(masks: Iterable[str], images: Iterable[str]) -> dict[str, frozenset[str]]:
    """Map each mask that is named after images to the names of these images: it serves no others.

    A mask is named after an image if its name begins with the image's; the longest such name counts.
    Otherwise it may contain sensor, day and catalogue id, as is usual in this field: then it belongs to all
    images with the same three.

    Args:
        masks: URLs of masks.
        images: names of images, see `scene_name`.
    """
    names = set(images)
    by_scene: dict[str, set[str]] = {}
    for name in names:
        if scene := facts(name).scene:
            by_scene.setdefault(scene, set()).add(name)
    found: dict[str, frozenset[str]] = {}
    for url in masks:
        mask = scene_name(url)
        # scene_12_clouds is not named after scene_1.
        begins = (mask[:end] for end in range(len(mask), 0, -1) if not _between_digits(mask, end))
        own = next((name for name in begins if name in names), None)
        scene = facts(mask).scene
        if own is not None:
            found[url] = frozenset({own})
        elif scene is not None:
            found[url] = frozenset(by_scene.get(scene, ()))
    return found


def _between_digits(text: str, place: int) -> bool:
    return text[place - 1].isdecimal() and text[place : place + 1].isdecimal()
