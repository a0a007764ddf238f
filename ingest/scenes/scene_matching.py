"""Rasters that serve an image, as they are matched with it: by place, by day, and masks also by name.

It happens once, when candidates are listed; `Serving` carries the result to the process that reads the image.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import date

from shards.format.scene_names import day_in
from shards.raster.footprints import Placed
from shards.storage.objects import name_of


@dataclass(frozen=True)
class Serving:
    """Rasters that serve an image, in order of precedence."""

    heights: tuple[Placed, ...] = ()
    ground: tuple[Placed, ...] = ()
    masks: tuple[Placed, ...] = ()
    metres: dict[str, float] = field(default_factory=dict)
    """Length of the unit of heights or ground, by URL, where it is not the metre."""

    def to_json(self) -> str:
        """Encode as text, for a column of a table."""
        values = asdict(self)
        if not self.metres:  # as it always was, so that an ingest begun before goes on
            del values["metres"]
        return json.dumps(values, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Serving":
        """Decode what `to_json` made."""
        values = json.loads(text)
        metres = values.pop("metres", {})
        rasters = {kind: tuple(Placed(*placed) for placed in found) for kind, found in values.items()}
        return cls(**rasters, metres=metres)


def near_in_time(placed: Iterable[Placed], day: str | None, max_days: int | None) -> tuple[Placed, ...]:
    """Keep rasters whose names have no day, or one at most `max_days` from the image's `day` (YYYY-MM-DD)."""
    if day is None or max_days is None:
        return tuple(placed)
    taken = date.fromisoformat(day)

    def is_near(raster: Placed) -> bool:
        own = day_in(name_of(raster.url))
        return own is None or abs((date.fromisoformat(own) - taken).days) <= max_days

    return tuple(filter(is_near, placed))
