"""Maps of canopy height: what counts as one, and what its header says."""

from dataclasses import dataclass, field
from datetime import date
from typing import Any

from rasterio import Affine
from rasterio.crs import CRS

from inference.maps.map_file import CLASSES_TAG, HEIGHT, NODATA, SPREAD, MapBand
from shards.errors import InputError
from shards.format.key import as_day, facts
from shards.raster.height_unit import is_in_metres
from shards.raster.opening import open_raster
from shards.storage.objects import name_of

TAGS = "TREELINE_"
ACQUIRED = "TREELINE_ACQUIRED"
"""Tag with the day, YYYY-MM-DD, on which a map's scene was taken; it overrides the day in the file's name."""
EPOCH = date(1970, 1, 1)
MOST_DAYS = 32767
"""Largest number of days in an int16: a day in September 2059."""


@dataclass(frozen=True)
class HeightMap:
    """Header of a map."""

    url: str
    crs: CRS
    transform: Affine
    height: int
    """Number of rows."""
    width: int
    """Number of columns."""
    height_step: float
    """Size of one step of the stored heights, in decimetres."""
    spread_step: float | None
    """Size of one step of the stored spreads, in centimetres; None if the map has no spreads."""
    day: int | None
    """Day on which the scene was taken, in days since 1970-01-01; None if unknown."""
    tags: dict[str, str] = field(hash=False)
    """Tags TREELINE_..., which say what made the map."""


def map_order(url: str) -> tuple[str, str]:
    """Return the key that sorts maps by file name, and by folder where names are equal."""
    return name_of(url), url


def height_map(url: str) -> HeightMap:
    """Read the header of the map at `url`.

    Raises:
        InputError: it cannot be read, has no CRS, is not a height map, or its tag of the day holds no day.
    """
    with open_raster(url) as raster:
        refuse_what_is_no_map(url, raster)
        tags = made_by(raster)
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


def made_by(raster: Any) -> dict[str, str]:
    """Return an open map's tags that say what made it, in the order of their names."""
    return {name: value for name, value in sorted(raster.tags().items()) if name.startswith(TAGS)}


def _steps(scale: float, unit: float) -> float:
    """Express `scale` in units of `unit`: exactly 1 where they differ only by rounding."""
    return round(scale / unit, 9)


def refuse_what_is_no_map(url: str, raster: Any) -> None:
    """Refuse an open raster that is not a height map. This function defines what a height map is.

    Only the first band matters, so a mosaic is a height map as well.

    Raises:
        InputError: the first band does not hold canopy heights.
    """
    if raster.nodata == NODATA and _is_band(raster, 1, HEIGHT):
        return
    if CLASSES_TAG in raster.tags():
        raise InputError(f"{url}: is a map of classes; only maps of canopy height can be combined or scored")
    raise InputError(
        f"{url}: is no canopy height map of treeline predict or mosaic; its first band must be int16, nodata "
        f"{NODATA}, offset 0, in metres, named {HEIGHT.name!r} (or unnamed, with scale {HEIGHT.scale:g}), "
        f"but is {raster.dtypes[0]}, nodata {raster.nodata}, offset {raster.offsets[0]:g}, unit "
        f"{raster.units[0] or ''!r}, name {raster.descriptions[0] or ''!r}, scale {raster.scales[0]:g}"
    )


def _is_band(raster: Any, number: int, band: MapBand) -> bool:
    """Tell whether band `number` has the name of `band`, or is unnamed and stored as `band` is.

    Other programs often lose names. A band with the name may have any scale.
    """
    place = number - 1
    name, scale = raster.descriptions[place], raster.scales[place]
    return (
        raster.dtypes[place] == "int16"
        and raster.offsets[place] == 0
        and is_in_metres(raster, number)
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
        raise InputError(f"{url}: taken on {day}? Set its tag {ACQUIRED} to the right day, YYYY-MM-DD")
    return days
