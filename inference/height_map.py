"""A map of canopy height as `treeline predict` writes them, known from its header."""

from dataclasses import dataclass, field
from datetime import date
from typing import Any

from rasterio import Affine
from rasterio.crs import CRS

from inference.geotiff import HEIGHT, NODATA, SPREAD
from shards.errors import InputError
from shards.key import as_day, facts
from shards.raster import open_raster
from shards.storage import name_of

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
        _refuse_others(url, raster)
        tags = {name: value for name, value in sorted(raster.tags().items()) if name.startswith(TAGS)}
        heights, *spreads = (float(scale) for scale in raster.scales)
        return HeightMap(
            url,
            raster.crs,
            raster.transform,
            raster.height,
            raster.width,
            _steps(heights, HEIGHT.scale),
            _steps(spreads[0], SPREAD.scale) if spreads else None,
            _day(url, tags),
            tags,
        )


def _steps(scale: float, unit: float) -> float:
    """`scale` in steps of `unit`, exactly 1 where they are the same but for rounding."""
    return round(scale / unit, 9)


def _refuse_others(url: str, raster: Any) -> None:
    expected = (HEIGHT, SPREAD)[: raster.count]
    is_ours = (
        raster.descriptions == tuple(band.name for band in expected)
        and raster.units == tuple(band.unit for band in expected)
        and set(raster.dtypes) == {"int16"}
        and raster.nodata == NODATA
        and not any(raster.offsets)
        and min(raster.scales) > 0
    )
    if not is_ours:
        bands = ", ".join(
            f"{dtype} {name or 'without a name'} in {unit or 'no unit'}"
            for dtype, name, unit in zip(raster.dtypes, raster.descriptions, raster.units, strict=True)
        )
        raise InputError(
            f"{url}: is no map of `treeline predict` (int16 {HEIGHT.name} in {HEIGHT.unit}, perhaps int16 "
            f"{SPREAD.name} in {SPREAD.unit}; nodata {NODATA}); it has {bands}; nodata {raster.nodata}"
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
