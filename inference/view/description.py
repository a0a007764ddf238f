"""What the script in a page is told: layers, their colours, and where they lie.

Places are metres on the ground, x to the right and y down, from the upper left corner of a frame, so that the
scale bar is right whatever the units of the CRS.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from rasterio import Affine

from inference.maps.class_colours import MapClass
from shards.draw.colours import ColourScale
from shards.raster.grid import Grid
from shards.raster.pixel_size import PixelSize

Kind = Literal["height", "image", "difference", "classes"]
"""Content of a layer; heights and differences are in metres."""
Bounds = tuple[float, float, float, float]
"""Left, bottom, right and top in units of a CRS."""

TITLES = {"height": "canopy height (m)", "difference": "map minus measured (m)", "classes": "classes"}
DECIMALS_OF_DEGREES, DECIMALS_OF_UNITS = 6, 1


@dataclass(frozen=True)
class Frame:
    """Grid whose upper left corner is the origin of places in a page."""

    grid: Grid
    part: Grid | None = None
    """Part of it that is looked at, where a pixel has its size on the ground; default: all of it."""

    @cached_property
    def pixel(self) -> tuple[float, float]:
        """Width and height of a pixel on the ground, in metres."""
        size = PixelSize.of(self.part or self.grid)
        return size.metres or (size.width, size.height)

    @property
    def extent(self) -> list[float]:
        """Left, top, right and bottom of what is looked at, in metres."""
        seen = self.part or self.grid
        x, y = ~self.grid.transform @ (seen.transform.c, seen.transform.f)
        wide, high = self.pixel
        return [x * wide, y * high, (x + seen.width) * wide, (y + seen.height) * high]

    def rect(self, bounds: Bounds) -> list[float]:
        """Convert bounds in the CRS to left, top, right and bottom in metres; the grid is not turned."""
        left, bottom, right, top = bounds
        inverse = ~self.grid.transform
        (x0, y0), (x1, y1) = inverse @ (left, top), inverse @ (right, bottom)
        wide, high = self.pixel
        return [x0 * wide, y0 * high, x1 * wide, y1 * high]

    def rect_of(self, grid: Grid) -> list[float]:
        """Return left, top, right and bottom, in metres, of another grid, in any CRS and turned or not."""
        column_HW, row_HW = self.grid.pixels(self.grid.nearest_turn(grid.spread(self.grid.crs)))
        wide, high = self.pixel
        return [
            float(np.nanmin(column_HW)) * wide,
            float(np.nanmin(row_HW)) * high,
            float(np.nanmax(column_HW)) * wide,
            float(np.nanmax(row_HW)) * high,
        ]

    def describe(self) -> dict[str, Any]:
        """Describe the place for the script."""
        wide, high = self.pixel
        to_crs = self.grid.transform @ Affine.scale(1 / wide, 1 / high)
        return {
            "crs": name_of_crs(self.grid),
            "decimals": decimals(self.grid),
            "to_crs": list(to_crs[:6]),
            "extent": self.extent,
            "pixel": wide,
        }


def decimals(grid: Grid) -> int:
    """Return how many decimals of coordinates are shown: about 0.1 m."""
    return DECIMALS_OF_DEGREES if grid.crs.is_geographic else DECIMALS_OF_UNITS


def name_of_crs(grid: Grid) -> str:
    """Name a grid's CRS: its EPSG code, or else "x, y"."""
    code = grid.crs.to_epsg()
    return f"EPSG:{code}" if code else "x, y"


def coloured(kind: Kind, scale: ColourScale) -> dict[str, Any]:
    """Describe the colours of heights or differences."""
    middle = (scale.low + scale.high) / 2
    signed = "+.3g" if kind == "difference" else ".3g"
    low = "0" if scale.low == 0 else f"{scale.low:.3g} and less"
    return {
        "title": TITLES[kind],
        "unit": "m",
        "scale": {
            "colours": scale.colours,
            "low": scale.low,
            "high": scale.high,
            "edges": scale.edges,
        },
        "names": scale.names,
        "ticks": [low, f"{middle:.3g}", f"{scale.high:{signed}} and more"],
    }


def of_classes(classes: tuple[MapClass, ...]) -> dict[str, Any]:
    """Describe the colours of classes."""
    return {
        "title": TITLES["classes"],
        "scale": {
            "colours": [one.colour for one in classes],
            "numbers": [one.number for one in classes],
            "edges": [],
        },
        "names": [one.name for one in classes],
    }
