"""Whether a raster's values are heights of plants: its header, and a few of its values.

    header = HeightHeader.read(url, raster, band, said_unit)
    findings = height_findings(height_N, header)

Rules on values ask only about what no vegetation shows. Heights above ground begin near 0, below gaps and
at the edges of crowns; no tree is as tall as TALLEST_M. docs/heights.md states them for users.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

from shards.errors import InputError
from shards.raster.finding import Finding
from shards.raster.gdal_advice import declare_nodata, state_unit
from shards.raster.grid import Grid
from shards.raster.height_unit import HeightUnit, UnitOfHeights, height_unit, is_foot
from shards.raster.pixel_size import PixelSize
from shards.wording import Option, Words

TALLEST_M = 120.0
"""Height that no tree reaches: the tallest known, a coast redwood, has 116 m (Guinness World Records)."""
MOST_METRES = 1000.0
"""Height that no building reaches, and no error of measurement: larger values are elevations or no data."""
LOWEST_M = -50.0
"""Height below which a value stands for no data; surfaces lie below the ground by errors of measurement."""
ELEVATIONS_M = -500.0, 9000.0
"""Lowest and highest elevation on Earth's land, rounded: the Dead Sea's shore and Mount Everest."""
LEAST_VALUES = 100
"""Fewest values that anything is concluded from."""
SURFACE_M, HIGH_M = 30.0, 10.0
"""Height that the lowest hundredth exceeds: in surface models, and where no ground shows."""
SUNK_M = -3.0
"""Height below which a twentieth of the values lie only where something is exchanged or in another unit."""
FEET_M = 60.0
"""Height that one in 100 exceeds in few forests, and in feet already where trees have 18 m: it is asked about
where nobody says the unit. Trees above 30 m stand on 5 % of the land (Lang et al., "A high-resolution canopy
height model of the Earth", 2023)."""
TALL_WHOLE_M = 40.0
"""Height that a hundredth of whole numbers exceeds: metres of tall forest, or decimetres of shrubs."""
REPEATED = 0.5
"""Least share of the impossible values that are one and the same where that one stands for no data."""
SAME_VALUE = 1e-6
"""Largest difference (as a share) that conversion to metres makes."""
LEAST_FILLED = 0.01
"""Least share of elevations that are 0 where 0 stands for no data."""
GROUND = Option("ground")
UNIT, NO_UNIT = "unit", "no unit"
"""Codes of findings on the unit of heights, and of that they are taken as metres for want of one."""
CONVERTED = "converted to metres"
"""End of the line about heights in another unit."""
TAKEN_AS_METRES = (
    "states no unit of heights, so they are taken as metres; feet would come out 3.28 times too tall",
    Words("say which they are: ", Option("height_unit", "m"), " or ft"),
)
COARSER = 1.5
"""Factor by which heights have longer pixels than images where that is said."""


@dataclass(frozen=True)
class HeightHeader:
    """What the header of a raster says about the heights in it."""

    band: int
    """Number of the band, from 1."""
    unit: UnitOfHeights
    dtype: str
    """Type that values are stored as."""
    crs: CRS
    pixel: PixelSize

    @classmethod
    def read(
        cls, url: str, raster: Any, band: int | None = None, said: HeightUnit | None = None
    ) -> "HeightHeader":
        """Read the header of an open raster of heights or elevations.

        Raises:
            InputError: it has several bands and none is chosen, is a picture, or its unit is another.
        """
        number = band_of(url, raster, band)
        if raster.colorinterp[number - 1] == ColorInterp.palette:
            raise InputError(
                f"{url}: is a picture whose values are numbers of colours, not heights; give the raster that "
                "it was drawn from"
            )
        unit = height_unit(url, raster, number, said)
        return cls(number, unit, raster.dtypes[number - 1], raster.crs, PixelSize.of(Grid.of(raster)))

    @property
    def is_whole(self) -> bool:
        """Whether values are stored as whole numbers."""
        return np.dtype(self.dtype).kind != "f"

    @property
    def largest(self) -> float:
        """Largest height in metres that its type can store: in whole numbers it often means no data."""
        return float(np.iinfo(self.dtype).max) * self.unit.metres if self.is_whole else math.inf

    @property
    def is_unknown(self) -> bool:
        """Whether neither the file nor the user says the unit."""
        return not (self.unit.is_stated or self.unit.is_said)

    def _of_no_unit(self) -> Finding:
        if not self.crs.is_geographic and is_foot(self.crs.units_factor[1]):
            line = f"states no unit of heights, and the unit of its CRS is the {self.pixel.unit}"
            return Finding(
                UNIT, line, Words("give ", _said_unit("ft"), ", or m if heights are in metres"), is_gross=True
            )
        return Finding(NO_UNIT, *TAKEN_AS_METRES)

    def findings(self, image: Grid) -> list[Finding]:
        """List what the user should know of heights that serve an image of these pixels."""
        found, size, unit = list[Finding](), PixelSize.of(image), self.unit
        if not unit.is_metre:
            found.append(Finding(UNIT, f"heights are in {unit.name}, {CONVERTED}"))
        elif self.is_unknown:
            found.append(self._of_no_unit())
        if self.crs.is_geographic != image.crs.is_geographic:
            own, others = (_kind(crs) for crs in (self.crs, image.crs))
            found.append(
                Finding("crs", f"is in {own} and under pixels in {others}, to which it is resampled")
            )
        if self.pixel.metres and size.metres and max(self.pixel.metres) > COARSER * max(size.metres):
            line = f"has pixels of {self.pixel} under pixels of {size}, so that neighbours share a height"
            found.append(Finding("coarse", line, "larger pixels would have heights of their own"))
        return found


def _kind(crs: CRS) -> str:
    return "degrees" if crs.is_geographic else "projected coordinates"


def band_of(url: str, raster: Any, band: int | None = None) -> int:
    """Return the number of the band that holds heights: `band`, or the only one beside alpha.

    Raises:
        InputError: there is no such band, or several could be meant.
    """
    if band is not None:
        if not 1 <= band <= raster.count:
            raise InputError(f"{url}: has {raster.count} bands, so there is no --height-band {band}")
        return band
    numbers = [place for place, kind in enumerate(raster.colorinterp, 1) if kind != ColorInterp.alpha]
    if len(numbers) != 1:
        raise InputError(
            f"{url}: has {raster.count} bands, and heights have one: is it an image? If not, choose the band "
            "with --height-band"
        )
    return numbers[0]


def asked_once(found: Sequence[Finding]) -> list[Finding]:
    """Ask one question about a raster's unit, and then do not say as well that it is taken as metres."""
    of_unit = [finding for finding in found if finding.code == UNIT]
    asked = [finding for finding in of_unit if finding.is_gross]
    left_out = asked[1:] + [finding for finding in found if finding.code == NO_UNIT and of_unit]
    return [finding for finding in found if finding not in left_out]


def height_findings(height_N: NDArray[Any], header: HeightHeader) -> tuple[Finding, ...]:
    """Find what is strange about some heights above ground; the worst alone.

    Args:
        height_N: metres, none of them missing.
        header: what the raster's header says.
    """
    if height_N.size < LEAST_VALUES:
        return ()
    if undeclared := _undeclared(height_N, (LOWEST_M, MOST_METRES), header):
        return (undeclared,)
    low, sunk, high = (float(value) for value in np.percentile(height_N, (1, 5, 99)))
    if low > SURFACE_M:
        line = f"99 of 100 heights are above {low:.4g} m; is this a surface model?"
        return (
            Finding("surface", line, Words("give the ground's elevations (", GROUND, ")"), is_gross=True),
        )
    if high > TALLEST_M:
        return (_too_tall(high, header),)
    if sunk < SUNK_M:
        line = f"one value in twenty is below {sunk:.3g} m, and no height above ground is"
        return (Finding("negative", line, Words("if these are elevations, give ", GROUND), is_gross=True),)
    if header.is_unknown and high > FEET_M:
        return (_maybe_feet(high, header),)
    if low > HIGH_M:
        line = f"99 of 100 heights are above {low:.3g} m, so no ground shows"
        return (Finding("surface", line, Words("if this is a surface model, give ", GROUND)),)
    if header.is_whole and header.is_unknown and high > TALL_WHOLE_M:
        line = f"heights are whole numbers taken as metres, one in 100 above {high:.3g}"
        return (
            Finding(
                UNIT, line, Words("if they are in another unit, give ", _said_unit("dm"), " or cm, else m")
            ),
        )
    return ()


def surface_findings(
    surface_N: NDArray[Any], of_surface: HeightHeader, ground_N: NDArray[Any], of_ground: HeightHeader
) -> tuple[Finding, ...]:
    """Find what is strange about elevations of surface and ground, in metres, and their difference."""
    if surface_N.size < LEAST_VALUES:
        return ()
    found = _of_elevations(surface_N, of_surface)
    if other := _of_other_units(of_surface, of_ground):
        found.append(other)
    for one in _of_elevations(ground_N, of_ground):
        found.append(Finding(one.code, f"of the ground below it, {one.line}", one.cure, one.is_gross))
    return tuple(found) or _of_differences(surface_N - ground_N, of_surface)


def _of_elevations(elevation_N: NDArray[Any], header: HeightHeader) -> list[Finding]:
    """Find a value that stands for no data although the file does not say so."""
    if undeclared := _undeclared(elevation_N, ELEVATIONS_M, header):
        return [undeclared]
    zero_N = elevation_N == 0
    is_filled = LEAST_FILLED < zero_N.mean() < 1
    if is_filled and np.percentile(np.abs(elevation_N[~zero_N]), 1) > -LOWEST_M:
        return [_nodata(float(zero_N.mean()), 0.0)]
    return []


def _of_other_units(surface: HeightHeader, ground: HeightHeader) -> Finding | None:
    """Ask for the unit of elevations that state none, beside others that are not in metres."""
    if surface.is_unknown == ground.is_unknown:
        return None
    known, names = (ground, ("surface", "ground")) if surface.is_unknown else (surface, ("ground", "surface"))
    if known.unit.is_metre:
        return None
    line = f"the {names[0]} states no unit of heights, and the {names[1]} is in {known.unit.name}"
    answer = _said_unit(_answer(known))
    cure = Words("give ", answer, f" if both are, or state metres ({state_unit('m')})")
    return Finding(UNIT, line, cure, is_gross=True)


def _said_unit(unit: str) -> Option:
    return Option("height_unit", unit)


def _answer(header: HeightHeader) -> str:
    """Return what --height-unit calls the unit of a raster; there are two feet, and one answer."""
    return "ft" if is_foot(header.unit.metres) else header.unit.name


def _of_differences(height_N: NDArray[Any], header: HeightHeader) -> tuple[Finding, ...]:
    """Judge heights above ground that are differences of elevations; `header` is of the surface."""
    low, sunk, high = (float(value) for value in np.percentile(height_N, (1, 5, 99)))
    if sunk < SUNK_M:
        line = f"one height above the ground in twenty is below {sunk:.4g} m"
    elif low > SURFACE_M:
        line = f"99 of 100 heights above the ground are above {low:.3g} m"
    elif header.is_unknown and high > FEET_M:
        return (_maybe_feet(high, header),)
    elif high > TALLEST_M:
        line = (
            f"one height above the ground in 100 is above {high:.4g} m, and no tree is above {TALLEST_M:g} m"
        )
    else:
        return ()
    asked = "exchanged, or in other units or above another zero? Give both as elevations of one datum"
    cure = Words("are ", Option("heights"), " and ", GROUND, f" {asked}")
    return (Finding("difference", line, cure, is_gross=True),)


def _undeclared(
    metres_N: NDArray[Any], possible: tuple[float, float], header: HeightHeader
) -> Finding | None:
    """Find a value, beyond what is possible, that most of such pixels have."""
    is_largest_N = metres_N > max(TALLEST_M, header.largest * (1 - SAME_VALUE))
    beyond_N = metres_N[(metres_N < possible[0]) | (metres_N > possible[1]) | is_largest_N]
    if not beyond_N.size:
        return None
    values, counts = np.unique(beyond_N, return_counts=True)
    most = int(counts.argmax())
    are_elevations = ELEVATIONS_M[0] < values[most] < ELEVATIONS_M[1] and 2 * beyond_N.size > metres_N.size
    if counts[most] < max(2, REPEATED * beyond_N.size) or are_elevations:
        return None
    return _nodata(float(counts[most] / metres_N.size), float(values[most]) / header.unit.metres)


def _nodata(share: float, value: float) -> Finding:
    line = f"{max(100 * share, 0.1):.3g} % of values are {value:.7g}, which is not declared as nodata"
    return Finding("nodata", line, f"declare it ({declare_nodata(f'{value:.7g}')})", is_gross=True)


def _maybe_feet(high: float, header: HeightHeader) -> Finding:
    """Ask for the unit of heights that few forests reach and that nobody says."""
    where = "in no forest" if high > TALLEST_M else "in few forests"
    line = f"no unit is stated, and as metres one height in 100 is above {high:.4g} m, as {where} on Earth"
    asked = "in feet, decimetres or centimetres" if header.is_whole else "in feet"
    answers = ("ft", ", dm or cm") if header.is_whole else ("ft",)
    first, *others = answers
    either = Words(_said_unit(first), *others)
    cure = Words(f"are they {asked}? ", either, "; if they are in metres, ", _said_unit("m"))
    return Finding(UNIT, line, cure, is_gross=True)


def _too_tall(high: float, header: HeightHeader) -> Finding:
    """Ask for the unit of heights above all trees."""
    stored = high / header.unit.metres
    line = f"one height in 100 is above {high:.4g} m, and no tree is above {TALLEST_M:g} m"
    if not header.is_unknown:
        cure = Words("if these are elevations, give ", GROUND, "; if their unit is wrong, correct it")
    elif header.is_whole and stored > MOST_METRES:
        cure = Words("are these centimetres? ", _said_unit("cm"), "; if they are elevations, give ", GROUND)
    elif header.is_whole:
        asked = "are these decimetres or centimetres? "
        cure = Words(asked, _said_unit("dm"), " or cm; if elevations, give ", GROUND)
    else:
        other = "; if they are in another unit, "
        cure = Words("if these are elevations, give ", GROUND, other, _said_unit("cm"), " or ft")
    return Finding(UNIT, line, cure, is_gross=True)
