"""Size of a raster's pixels on the ground, whatever the units of its CRS.

    size = PixelSize.of(Grid.of(raster))
    str(size)                                  # "2 x 2 foot (0.6096 x 0.6096 m)"
    size.is_like(trained)                      # may a model of such pixels read them?

A side is the length of the column or row vector, so that grids which are turned have sizes, too.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.crs import CRS

from shards.format.schema import DEGREE, Schema
from shards.raster.gdal_advice import resample
from shards.raster.grid import WGS84, Grid, half_turn, in_crs

SAME_SIZE = 0.01
"""Largest difference (as a share) between sides of pixels that are of one size."""
STRETCH = 0.1
"""Least difference (as a share) between a projection's units and the ground that counts. UTM and conic
projections of a region stay below; EPSG:3857 stretches by 1 / cos(latitude)."""
METRE = "metre"
EARTH_RADIUS_M, ECCENTRICITY_2 = 6378137.0, 0.00669437999014
"""Semi-major axis in metres and squared eccentricity of WGS 84 (NGA.STND.0036)."""
LONGEST_STEP = 64
"""Pixels from the middle over which lengths on the ground are measured: one alone is near to rounding."""
ALASKA = (-169.5, 51.0, -129.9, 71.5)
"""Longitudes and latitudes of Alaska (west, south, east, north), where EPSG:3338 is usual."""


@dataclass(frozen=True)
class PixelSize:
    """Sides of pixels."""

    width: float
    """Length along a row, in units of the CRS."""
    height: float
    """Length along a column, in units of the CRS."""
    unit: str = METRE
    """Name of the CRS's unit."""
    metres: tuple[float, float] | None = None
    """Width and height in metres; None where nobody recorded them (degrees only)."""

    @classmethod
    def of(cls, grid: Grid) -> "PixelSize":
        """Measure the pixels of a grid: degrees become metres in its middle.

        Where a projection is off the ground by more than STRETCH, its own unit does not count.
        """
        sides = grid.sides
        if grid.crs.is_geographic:
            return cls(*sides, DEGREE, _on_ground(grid) or sides)
        unit, factor = _linear_unit(grid.crs)
        metres = sides[0] * factor, sides[1] * factor
        ground = _on_ground(grid) if grid.crs.is_projected else None
        if ground and any(abs(own / its - 1) > STRETCH for own, its in zip(metres, ground, strict=True)):
            metres = ground
        return cls(*sides, unit, metres)

    @classmethod
    def of_schema(cls, schema: Schema) -> "PixelSize":
        """Take the size that a dataset records; datasets of before record the width alone."""
        width, height = schema.pixel_sides
        if schema.pixel_metres:
            across, down = schema.pixel_metres
            return cls(width, height, schema.pixel_unit or METRE, (across, down))
        if schema.is_in_degrees:
            return cls(width, height, DEGREE, None)
        return cls(width, height, METRE, (width, height))

    def for_schema(self) -> dict[str, Any]:
        """Return what a schema records, by field; square metres need no more than the width."""
        if self.is_metric and math.isclose(self.width, self.height, rel_tol=1e-9):
            return {"pixel_size": self.width}
        metres = self.metres or ()
        return {
            "pixel_size": self.width,
            "pixel_height": self.height,
            "pixel_unit": "" if self.unit == METRE else self.unit,
            "pixel_metres": tuple(float(f"{side:.6g}") for side in metres),
        }

    @property
    def is_oblong(self) -> bool:
        """Tell whether pixels are not square on the ground."""
        width, height = self.metres or (self.width, self.height)
        return not math.isclose(width, height, rel_tol=SAME_SIZE)

    def is_like(self, trained: "PixelSize") -> bool:
        """Tell whether pixels have the same sides, in metres or in the same unit."""
        if self.metres and trained.metres and _are_close(self.metres, trained.metres):
            return True
        if self.unit != trained.unit or trained.is_metric:
            return False
        if trained.metres is None:  # the height was not recorded
            return math.isclose(self.width, trained.width, rel_tol=SAME_SIZE)
        return _are_close(self._sides, trained._sides)

    @property
    def is_metric(self) -> bool:
        """Tell whether the CRS's units are metres on the ground."""
        return self.unit == METRE and self.metres is not None and _are_close(self.metres, self._sides)

    @property
    def _sides(self) -> tuple[float, float]:
        return self.width, self.height

    def __str__(self) -> str:
        in_metres = f"{self.metres[0]:.4g} x {self.metres[1]:.4g} m" if self.metres else ""
        own = f"{self.width:.4g} x {self.height:.4g} {self.unit}"
        if self.is_metric:
            return in_metres
        return f"{own} ({in_metres})" if in_metres else own


def angle_of(grid: Grid) -> float:
    """Return the angle in degrees, counter-clockwise, from the CRS's east to the direction of rows."""
    a, _, _, d = grid.transform[:4]
    turn = math.degrees(math.atan2(d, a))
    return 0.0 if abs(turn) < 1e-6 else turn


def warp_command(grid: Grid, wanted: PixelSize) -> str:
    """Return the command that gives a raster on this grid pixels of the wanted size."""
    if wanted.unit == DEGREE:
        sides, target = (wanted.width, wanted.height), WGS84
    else:
        sides = wanted.metres or (wanted.width, wanted.height)
        target = "" if PixelSize.of(grid).is_metric else suitable_crs(grid)
    return resample(target, sides)


def suitable_crs(grid: Grid) -> str:
    """Name a CRS in metres for a grid: EPSG:3338 in Alaska, else its UTM zone, or a polar one (UPS)."""
    longitude, latitude = _middle_in_degrees(grid)
    if not math.isfinite(latitude):
        return "EPSG:..."
    west, south, east, north = ALASKA
    if west <= longitude <= east and south <= latitude <= north:
        return "EPSG:3338"
    if not -80 <= latitude <= 84:
        return "EPSG:32661" if latitude > 0 else "EPSG:32761"
    zone = int((longitude + 180) // 6) % 60 + 1
    return f"EPSG:{(32600 if latitude >= 0 else 32700) + zone}"


def _linear_unit(crs: CRS) -> tuple[str, float]:
    """Return name and length in metres of a CRS's unit."""
    unit, factor = crs.units_factor
    return str(unit), float(factor)


def _are_close(sides: tuple[float, float], others: tuple[float, float]) -> bool:
    return all(math.isclose(a, b, rel_tol=SAME_SIZE) for a, b in zip(sides, others, strict=True))


def _middle_in_degrees(grid: Grid) -> tuple[float, float]:
    middle = np.array([grid.height / 2]), np.array([grid.width / 2])
    longitude, latitude = grid.corners(*middle, CRS.from_user_input(WGS84)).reshape(2).tolist()
    return longitude, latitude


def _on_ground(grid: Grid) -> tuple[float, float] | None:
    """Measure width and height of the middle pixels in metres; None where the CRS has no place on Earth."""
    steps = min(LONGEST_STEP, max(grid.height, grid.width))
    x, y = grid.transform @ (grid.width / 2, grid.height / 2)
    a, b, _, d, e, _ = grid.transform[:6]
    cross_23 = np.array([(x, x + a * steps, x + b * steps), (y, y + d * steps, y + e * steps)])
    degrees_23 = in_crs(cross_23, grid.crs, CRS.from_user_input(WGS84))
    if not np.isfinite(degrees_23).all():
        return None
    latitude = math.radians(degrees_23[1, 0])
    # Radii of curvature of the ellipsoid along the meridian and across it (Snyder 1987, USGS Professional
    # Paper 1395, equations 4-18 and 4-20).
    bent = 1 - ECCENTRICITY_2 * math.sin(latitude) ** 2
    north_m = math.radians(EARTH_RADIUS_M * (1 - ECCENTRICITY_2) / bent**1.5)
    east_m = math.radians(EARTH_RADIUS_M / math.sqrt(bent) * math.cos(latitude))
    sides = []
    for place in (1, 2):
        east, north = degrees_23[:, place] - degrees_23[:, 0]
        east = float(half_turn(east))
        sides.append(math.hypot(east * east_m, north * north_m) / steps)
    return (sides[0], sides[1]) if min(sides) > 0 else None
