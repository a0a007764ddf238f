"""Layers of heights on a server: maps, measured heights, and the difference of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.score.measured_heights import HeightRaster, HeightRasters
from inference.view.description import Kind, coloured
from inference.view.layers import Place, Rgba
from inference.view.tiles import read_pixel, read_tile
from shards.draw.colours import NO_VALUE_NAME, ColourScale
from shards.raster.grid import Grid
from shards.raster.missing import NODATA
from shards.raster.opening import OpenRasters

MOST_PIXELS = 1 << 19
"""Most pixels of a map on which measured heights are averaged for a tile; coarser tiles take overviews."""


@dataclass(frozen=True)
class Heights:
    """Layer of heights in metres: a map, or one raster of measured heights; or a map of other numbers."""

    name: str
    url: str
    grid: Grid
    scale: ColourScale
    band: int = 1
    metres: float = 1.0
    """Length of the unit of its values in metres."""
    unit: str = "m"
    title: str = ""
    """Words above its colours, where it does not show heights."""
    kind: Kind = "height"

    def values(self, rasters: OpenRasters, tile: Grid) -> NDArray[np.float64]:
        """Read metres (H, W) on a tile, NaN where there is none."""
        raster = rasters[self.url]
        stored_BHW, missing_BHW = read_tile(raster, [self.band], tile, self._undeclared(raster), True)
        return np.where(missing_BHW[0], np.nan, self._in_metres(raster, stored_BHW[0]))

    def rgba(self, rasters: OpenRasters, tile: Grid) -> Rgba:
        """See Shown."""
        return painted(self.values(rasters, tile), self.scale)

    def value(self, rasters: OpenRasters, place: Place) -> float:
        """Return the value of the pixel at a place; NaN if it has none."""
        pixel = place.pixel(self.grid)
        if pixel is None:
            return float("nan")
        raster = rasters[self.url]
        stored_B, missing_B = read_pixel(raster, [self.band], pixel, self._undeclared(raster))
        return float("nan") if missing_B.any() else float(self._in_metres(raster, stored_B).item())

    def text(self, rasters: OpenRasters, place: Place) -> str:
        """See Shown."""
        return number_text(self.value(rasters, place), self.unit)

    def about(self) -> dict[str, Any]:
        """See Shown."""
        return coloured(self.kind, self.scale) | ({"title": self.title} if self.title else {})

    def _in_metres(self, raster: Any, stored: NDArray[Any]) -> NDArray[np.float64]:
        place = self.band - 1
        values = stored.astype(np.float64) * raster.scales[place] + raster.offsets[place]
        return np.asarray(values * self.metres)

    def _undeclared(self, raster: Any) -> float | None:
        return NODATA if raster.nodatavals[self.band - 1] is None else None


@dataclass(frozen=True)
class Measured:
    """Layer of measured heights, of one or several rasters: the first by name counts, as in `evaluate`."""

    name: str
    grid: Grid
    rasters: tuple[HeightRaster, ...]
    scale: ColourScale
    kind: Kind = "height"

    def values(self, rasters: OpenRasters, tile: Grid) -> NDArray[np.float64]:
        """Read metres (H, W) on a tile, NaN where no raster has any."""
        height_HW = np.full((tile.height, tile.width), np.nan)
        for one in self._each():
            if not np.isnan(height_HW).any():
                break
            height_HW = np.where(np.isnan(height_HW), one.values(rasters, tile), height_HW)
        return height_HW

    def rgba(self, rasters: OpenRasters, tile: Grid) -> Rgba:
        """See Shown."""
        return painted(self.values(rasters, tile), self.scale)

    def text(self, rasters: OpenRasters, place: Place) -> str:
        """See Shown."""
        values = (one.value(rasters, place) for one in self._each())
        return number_text(next((value for value in values if np.isfinite(value)), float("nan")), "m")

    def about(self) -> dict[str, Any]:
        """See Shown."""
        return coloured(self.kind, self.scale)

    def _each(self) -> list[Heights]:
        return [
            Heights(self.name, one.url, one.grid, self.scale, one.header.band, one.header.unit.metres)
            for one in self.rasters
        ]


@dataclass(frozen=True)
class Difference:
    """Layer of a map minus measured heights.

    They are averaged over each pixel of the map, as `evaluate` does. A tile that has too many pixels of the
    map is made from overviews.
    """

    name: str
    map: Heights
    measured: Measured
    scale: ColourScale
    kind: Kind = "difference"

    @property
    def grid(self) -> Grid:
        """Grid of the map."""
        return self.map.grid

    def rgba(self, rasters: OpenRasters, tile: Grid) -> Rgba:
        """See Shown."""
        return painted(self.values(rasters, tile), self.scale)

    def values(self, rasters: OpenRasters, tile: Grid) -> NDArray[np.float64]:
        """Compute metres (H, W) on a tile, NaN where one of both has no height."""
        middles = np.arange(tile.height) + 0.5, np.arange(tile.width) + 0.5
        column_HW, row_HW = np.floor(
            self.grid.pixels(self.grid.nearest_turn(tile.corners(*middles, self.grid.crs)))
        )
        inside_HW = (row_HW >= 0) & (row_HW < self.grid.height)
        inside_HW &= (column_HW >= 0) & (column_HW < self.grid.width)
        if not inside_HW.any():
            return np.full(inside_HW.shape, np.nan)
        row_HW, column_HW = (np.where(inside_HW, one, 0).astype(int) for one in (row_HW, column_HW))
        rows, columns = (
            range(int(one[inside_HW].min()), int(one[inside_HW].max()) + 1) for one in (row_HW, column_HW)
        )
        if len(rows) * len(columns) > MOST_PIXELS:
            return self.map.values(rasters, tile) - self.measured.values(rasters, tile)
        exact_HW = self.exact(rasters, rows, columns)
        row_HW, column_HW = row_HW - rows.start, column_HW - columns.start
        chosen_HW = exact_HW[row_HW.clip(0, len(rows) - 1), column_HW.clip(0, len(columns) - 1)]
        return np.where(inside_HW, chosen_HW, np.nan)

    def exact(self, rasters: OpenRasters, rows: range, columns: range) -> NDArray[np.float64]:
        """Compute the differences of some pixels of the map, as `evaluate` scores them."""
        transform = self.grid.transform @ self.grid.transform.translation(columns.start, rows.start)
        part = Grid(self.grid.crs, transform, len(rows), len(columns))
        height_HW = self.map.values(rasters, part)
        measured = HeightRasters.opened(self.measured.rasters, rasters)
        near = measured.near(self.grid, rows, columns)
        return height_HW - measured.heights(self.grid, rows, columns, near, np.isfinite(height_HW))

    def text(self, rasters: OpenRasters, place: Place) -> str:
        """See Shown."""
        pixel = place.pixel(self.grid)
        if pixel is None:
            return NO_VALUE_NAME
        row, column = pixel
        value = self.exact(rasters, range(row, row + 1), range(column, column + 1)).item()
        return (
            f"{value:+.2f} m".replace("+0.00", "0.00").replace("-0.00", "0.00")
            if np.isfinite(value)
            else NO_VALUE_NAME
        )

    def about(self) -> dict[str, Any]:
        """See Shown."""
        return coloured(self.kind, self.scale)


def painted(value_HW: NDArray[np.float64], scale: ColourScale) -> Rgba:
    """Colour values; NaN is transparent."""
    opacity_HW = np.where(np.isnan(value_HW), 0, 255).astype(np.uint8)
    return np.concatenate([np.moveaxis(scale.rgb(value_HW), -1, 0), opacity_HW[None]])


def number_text(value: float, unit: str) -> str:
    """Write a number as it is stored, without the noise of binary fractions."""
    return f"{value:.6g} {unit}".strip() if np.isfinite(value) else NO_VALUE_NAME


def values_of(layers: Sequence[Heights | Measured], rasters: OpenRasters, tile: Grid) -> NDArray[np.float64]:
    """Read the heights of all layers on a tile, in one row."""
    return np.concatenate([np.empty(0), *(layer.values(rasters, tile).ravel() for layer in layers)])
