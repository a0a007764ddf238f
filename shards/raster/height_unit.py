"""Unit of a raster's heights: what the file states, what the user says, and its length in metres.

    unit = height_unit(url, raster, number, said)
    height_m = stored * unit.metres

A file states the unit of a band's values (GDAL's unit type), or the unit of its CRS's vertical axis.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from shards.errors import InputError
from shards.raster.gdal_advice import state_unit

HeightUnit = Literal["m", "dm", "cm", "ft"]
"""Unit of heights, as the user says it."""
FOOT_M, SURVEY_FOOT_M = 0.3048, 1200 / 3937
"""Lengths of the international and the US survey foot (US National Bureau of Standards, 24 FR 5348,
1959)."""
SAME_UNIT = 1e-5
"""Largest difference (as a share) between units that are one: the two feet differ by 2e-6."""
ANY_FOOT = 1e-4
"""Largest difference (as a share) between the feet of all surveys (EPSG: Clarke's, Sears', the Indian)."""
LENGTHS = {
    "m": (1.0, ("m", "metre", "metres", "meter", "meters")),
    "dm": (0.1, ("dm", "decimetre", "decimetres", "decimeter", "decimeters")),
    "cm": (0.01, ("cm", "centimetre", "centimetres", "centimeter", "centimeters")),
    "mm": (0.001, ("mm", "millimetre", "millimetres", "millimeter", "millimeters")),
    "ft": (FOOT_M, ("ft", "foot", "feet", "international foot", "ifoot", "intl foot")),
    "US survey ft": (
        SURVEY_FOOT_M,
        ("us survey foot", "us survey feet", "us_survey_foot", "us-ft", "ftus", "us ft", "foot_us", "sft"),
    ),
}
"""Length in metres and names, in lower case, of each unit that rasters state."""
_UNITS = {name: (unit, metres) for unit, (metres, names) in LENGTHS.items() for name in names}


@dataclass(frozen=True)
class UnitOfHeights:
    """Unit of a raster's heights."""

    name: str
    metres: float
    """Length of the unit in metres."""
    is_stated: bool
    """Whether the file states it."""
    is_said: bool = False
    """Whether the user says it."""

    @property
    def is_metre(self) -> bool:
        """Tell whether heights are metres as they are."""
        return self.metres == 1


def height_unit(url: str, raster: Any, number: int = 1, said: HeightUnit | None = None) -> UnitOfHeights:
    """Find the unit of heights in a band of an open raster; metres where nobody says any.

    Raises:
        InputError: the file states another unit than the user, or none of length.
    """
    stated = stated_unit(raster, number)
    known = _UNITS.get(stated.lower().strip())
    if stated and not known and said is None:
        raise InputError(
            f"{url}: states its values in {stated!r}, which is no length; say the unit (--height-unit m), or "
            f"correct the file ({state_unit('m')})"
        )
    if known is None:
        metres = LENGTHS[said][0] if said else 1.0
        return UnitOfHeights(said or "m", metres, is_stated=False, is_said=said is not None)
    name, metres = known
    if said and not math.isclose(LENGTHS[said][0], metres, rel_tol=SAME_UNIT):
        raise InputError(
            f"{url}: states its values in {stated!r}, not {said}; leave out --height-unit, or correct the "
            f"file ({state_unit(said)})"
        )
    return UnitOfHeights(name, metres, is_stated=True, is_said=said is not None)


def is_foot(metres: float) -> bool:
    """Tell whether a unit of this length is a foot of any survey."""
    return math.isclose(metres, FOOT_M, rel_tol=ANY_FOOT)


def unit_name(stated: str) -> str:
    """Return one name for all names of a unit of length; other units keep theirs."""
    return _UNITS.get(stated.lower().strip(), (stated, 0.0))[0]


def is_in_metres(raster: Any, number: int) -> bool:
    """Tell whether a band states metres, or no unit."""
    return unit_name(stated_unit(raster, number)) in ("", "m")


def stated_unit(raster: Any, number: int) -> str:
    """Return the unit that a band states, else that of the CRS's vertical axis; "" if neither does."""
    if stated := raster.units[number - 1]:
        return str(stated)
    parts = raster.crs.to_dict(projjson=True).get("components", ()) if raster.crs else ()
    for part in parts:
        system = part.get("coordinate_system", {})
        if system.get("subtype") == "vertical":
            unit = system["axis"][0].get("unit", "")
            return str(unit.get("name", "") if isinstance(unit, dict) else unit)
    return ""
