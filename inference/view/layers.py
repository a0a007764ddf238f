"""What a layer of a map on a server is: tiles of it, and its value at a place.

Every method takes the open rasters of its own thread, because GDAL's are not for several at a time.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inference.view.description import Kind
from shards.raster.grid import Grid, in_crs
from shards.raster.opening import OpenRasters

Rgba = NDArray[np.uint8]
"""Red, green, blue and opacity (4, H, W)."""


class Shown(Protocol):
    """Layer that can be shown."""

    @property
    def name(self) -> str:
        """Name in the lists of layers."""

    @property
    def kind(self) -> Kind:
        """What it shows."""

    @property
    def grid(self) -> Grid:
        """Pixels of its raster."""

    def rgba(self, rasters: OpenRasters, tile: Grid) -> Rgba:
        """Return red, green, blue and opacity (4, H, W) of a tile; pixels without a value are transparent."""

    def text(self, rasters: OpenRasters, place: "Place") -> str:
        """Say the value at a place, as the file has it at full resolution."""

    def about(self) -> dict[str, Any]:
        """Describe the layer's colours for the script."""


@dataclass(frozen=True)
class Place:
    """Place in a CRS."""

    x: float
    y: float
    crs: Any

    def in_crs(self, crs: Any) -> tuple[float, float]:
        """Return x and y in another CRS."""
        x, y = in_crs(np.array([[self.x], [self.y]]), self.crs, crs)[:, 0].tolist()
        return x, y

    def pixel(self, grid: Grid) -> tuple[int, int] | None:
        """Return row and column of the pixel of a grid that has this place; None if there is none."""
        there_21 = in_crs(np.array([[self.x], [self.y]]), self.crs, grid.crs)
        if not np.isfinite(there_21).all():
            return None
        column, row = np.floor(grid.pixels(grid.nearest_turn(there_21))[:, 0]).astype(int).tolist()
        return (row, column) if 0 <= row < grid.height and 0 <= column < grid.width else None
