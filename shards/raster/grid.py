"""Pixel grids: from pixels of a raster to places on the ground, and back.

grid = Grid.of(raster)
xy_2HW = grid.corners(rows, columns, crs)    # in any CRS
column_row_2HW = grid.pixels(xy_2HW)         # in the grid's own
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio._err import CPLE_BaseError  # PROJ's errors have no public name
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.transform import array_bounds
from rasterio.warp import transform

from shards.errors import InputError, one_line

WGS84 = "EPSG:4326"
"""CRS of longitude and latitude in degrees."""

SPREAD = 21
"""Points along each side of a grid that stand for it in another CRS, where its edges may bend."""


@dataclass(frozen=True)
class Grid:
    """The pixels of a raster on the ground."""

    crs: CRS
    transform: Affine
    height: int
    width: int

    @classmethod
    def of(cls, raster: Any) -> "Grid":
        """Take the grid of an open raster."""
        return cls(raster.crs, raster.transform, raster.height, raster.width)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Bounds (left, bottom, right, top) in units of the CRS."""
        first_x, first_y, last_x, last_y = array_bounds(self.height, self.width, self.transform)
        # Rows may go north, and columns west: then first and last are exchanged.
        return min(first_x, last_x), min(first_y, last_y), max(first_x, last_x), max(first_y, last_y)

    @property
    def sides(self) -> tuple[float, float]:
        """Width and height of a pixel in units of the CRS: lengths of the column and row vectors."""
        a, b, _, d, e, _ = self.transform[:6]
        return math.hypot(a, d), math.hypot(b, e)

    def corners(self, rows: NDArray[Any], columns: NDArray[Any], crs: CRS) -> NDArray[np.float64]:
        """Compute (2, rows, columns) x and y in `crs` of pixels' upper left corners, or of points inside.

        NaN where a point has no place in `crs`, see `in_crs`.
        """
        column_HW, row_HW = np.meshgrid(columns, rows)
        a, b, c, d, e, f = self.transform[:6]
        x_HW, y_HW = c + a * column_HW + b * row_HW, f + d * column_HW + e * row_HW
        return in_crs(np.stack([x_HW, y_HW]), self.crs, crs)

    def spread(self, crs: CRS) -> NDArray[np.float64]:
        """Compute (2, SPREAD, SPREAD) x and y in `crs` of points spread over the grid, its edges included."""
        rows, columns = (np.linspace(0, side, SPREAD) for side in (self.height, self.width))
        return self.corners(rows, columns, crs)

    def pixels(self, xy_2N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute (2, ...) columns and rows of places in the grid's CRS, counted from its first corner."""
        origin = np.array([self.transform.c, self.transform.f]).reshape(2, *[1] * (xy_2N.ndim - 1))
        return self.steps(xy_2N - origin)

    def steps(self, xy_2N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert differences of places to (2, ...) differences of columns and rows."""
        a, b, _, d, e, _ = (~self.transform)[:6]
        return np.stack([a * xy_2N[0] + b * xy_2N[1], d * xy_2N[0] + e * xy_2N[1]])

    def nearest_turn(self, xy_2N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shift longitudes to within 180 degrees of the grid's middle, also over the antimeridian."""
        if not self.crs.is_geographic:
            return xy_2N
        middle = (self.transform @ (self.width / 2, self.height / 2))[0]
        return np.stack([middle + half_turn(xy_2N[0] - middle), xy_2N[1]])


def known_crs(option: str, name: str) -> CRS:
    """Parse the name of a CRS.

    Raises:
        InputError: there is no such CRS.
    """
    try:
        with rasterio.Env():  # GDAL's complaints go to the log, not to the terminal
            return CRS.from_user_input(name)
    except CRSError as error:
        raise InputError(
            f"{option}: {name!r} is no known CRS ({one_line(error)}); name one like EPSG:3338"
        ) from error


def in_crs(xy_2N: NDArray[np.float64], own: CRS, crs: CRS) -> NDArray[np.float64]:
    """Convert places from CRS `own` to (2, ...) x and y in `crs`; NaN where a place does not exist there."""
    if crs != own:
        xy_2N = _moved(xy_2N.reshape(2, -1), own, crs).reshape(xy_2N.shape)
    return np.where(np.isfinite(xy_2N).all(0), xy_2N, np.nan)


def _moved(xy_2N: NDArray[np.float64], own: CRS, crs: CRS) -> NDArray[np.float64]:
    try:
        with rasterio.Env():  # GDAL's complaints go to the log, not to the terminal
            return np.array(transform(own, crs, *xy_2N)[:2])
    except (CPLE_BaseError, CRSError):
        # One place that PROJ refuses fails the call, but only the first twenty times in a process; after
        # that GDAL returns infinity for it. The other places must not depend on that.
        middle = xy_2N.shape[1] // 2
        if not middle:
            return np.full(xy_2N.shape, np.nan)
        halves = xy_2N[:, :middle], xy_2N[:, middle:]
        return np.concatenate([_moved(half_2N, own, crs) for half_2N in halves], axis=1)


def half_turn(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring differences of longitudes to -180 to 180."""
    return np.asarray((degrees + 180) % 360 - 180)


def reaches(place_2HW: NDArray[np.float64], grid: Grid, surely: bool = False) -> bool:
    """Tell whether the area that places in the grid's CRS span may touch it.

    Args:
        place_2HW: places along the area's edges, or in it. A place that is NaN may be anywhere.
        grid: the grid.
        surely: whether only what overlaps counts, and not what is merely near or unknown.
    """
    if not np.isfinite(place_2HW).all():
        return not surely
    pixel_2P = grid.pixels(grid.nearest_turn(place_2HW)).reshape(2, -1)
    low, high = pixel_2P.min(1), pixel_2P.max(1)
    # An edge may bend outwards between the points; a common edge is no overlap.
    margin = -1e-3 * np.ones(2) if surely else 2 + 0.02 * (high - low)
    return bool(((low - margin < (grid.width, grid.height)) & (high + margin > 0)).all())
