"""A map of canopy height: what counts as one, and what its header says."""

from dataclasses import dataclass, field
from datetime import date
from typing import Any

from rasterio import Affine
from rasterio.crs import CRS

from inference.maps.map_file import HEIGHT, NODATA, SPREAD, MapBand
from shards.errors import InputError
from shards.format.key import as_day, facts
from shards.raster.opening import METRES, open_raster
from shards.storage.objects import name_of

TAGS = "TREELINE_"
ACQUIRED = "TREELINE_ACQUIRED"
"""The tag that says the day, YYYY-MM-DD, on which a map's scene was taken, where the file's name does not."""
EPOCH = date(1970, 1, 1)
MOST_DAYS = 32767
"""In an int16: until September 2059."""


@dataclass(frozen=True)
class HeightMap:
    """What a map says of itself."""

    url: str
    crs: CRS
    transform: Affine
    height: int
    """Rows."""
    width: int
    """Columns."""
    height_step: float
    """Decimetres that one step of the stored heights is."""
    spread_step: float | None
    """Centimetres that one step of the stored spreads is; None if there are none."""
    day: int | None
    """Days from 1970-01-01 to that on which the scene was taken; None if nothing says it."""
    tags: dict[str, str] = field(hash=False)
    """TREELINE_...: what made it."""


def map_order(url: str) -> tuple[str, str]:
    """Maps come in the order of their names; those of one name, in that of their folders."""
    return name_of(url), url


def height_map(url: str) -> HeightMap:
    """The map at `url`.

    Raises:
        InputError: it cannot be read, has no CRS, is no such map, or its tag of the day says none.
    """
    with open_raster(url) as raster:
        refuse_what_is_no_map(url, raster)
        tags = {name: value for name, value in sorted(raster.tags().items()) if name.startswith(TAGS)}
        has_spread = raster.count > 1 and _is_band(raster, 2, SPREAD)
        return HeightMap(
            url,
            raster.crs,
            raster.transform,
            raster.height,
            raster.width,
            _steps(raster.scales[0], HEIGHT.scale),
            _steps(raster.scales[1], SPREAD.scale) if has_spread else None,
            _day(url, tags),
            tags,
        )


def _steps(scale: float, unit: float) -> float:
    """`scale` in steps of `unit`, exactly 1 where they are the same but for rounding."""
    return round(scale / unit, 9)


def refuse_what_is_no_map(url: str, raster: Any) -> None:
    """Refuse an open raster whose first band is no canopy height; this is what a height map is.

    Other bands do not matter, so a mosaic is one as well.

    Raises:
        InputError: it is none.
    """
    if raster.nodata == NODATA and _is_band(raster, 1, HEIGHT):
        return
    raise InputError(
        f"{url}: is no canopy height map of treeline predict or mosaic, whose first band is int16, nodata "
        f"{NODATA}, offset 0, in metres, named {HEIGHT.name!r} (or without a name, scale {HEIGHT.scale:g}); "
        f"this one is {raster.dtypes[0]}, nodata {raster.nodata}, offset {raster.offsets[0]:g}, unit "
        f"{raster.units[0] or ''!r}, name {raster.descriptions[0] or ''!r}, scale {raster.scales[0]:g}"
    )


def _is_band(raster: Any, number: int, band: MapBand) -> bool:
    """Whether band `number` says by its name that it is `band`, or has no name and is stored as `band` is.

    A name is often lost on the way through other programs. One that says it may have any scale.
    """
    place = number - 1
    name, scale = raster.descriptions[place], raster.scales[place]
    return (
        raster.dtypes[place] == "int16"
        and raster.offsets[place] == 0
        and (raster.units[place] or "").lower() in METRES
        and (scale > 0 if name == band.name else not name and scale == band.scale)
    )


def _day(url: str, tags: dict[str, str]) -> int | None:
    day = facts(name_of(url)).acquired
    if said := tags.get(ACQUIRED):
        day = as_day(said)
        if day is None:
            raise InputError(f"{url}: its tag {ACQUIRED} is {said!r}; give a day as YYYY-MM-DD")
    if day is None:
        return None
    days = (date.fromisoformat(day) - EPOCH).days
    if not NODATA < days <= MOST_DAYS:
        raise InputError(f"{url}: taken on {day}? Give the day in its tag {ACQUIRED}, as YYYY-MM-DD")
    return days
