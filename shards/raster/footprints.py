"""Footprints of rasters: which of them lie on another raster's grid, and where, from headers alone.

footprints = RasterFootprints(urls)              # reads the header of every raster once
placed = footprints.overlapping(grid)      # rasters that share an area with an image, in their order
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from shards.errors import InputError
from shards.raster.grid import Grid, half_turn, in_crs
from shards.raster.opening import HEADERS, open_raster

LEAST_OVERLAP = 1e-3
"""Least overlap in pixels; less is rounding, since a common edge is no overlap."""
EDGE_POINTS = 21
"""Points along each edge of a box that are transformed to another CRS."""
NOWHERE = (np.nan,) * 4

Box = tuple[float, float, float, float]
"""Bounds left, bottom, right, top; in degrees, left > right means across the antimeridian."""


class Placed(NamedTuple):
    """A raster that serves an image, and the rows and columns of the image that it can reach."""

    url: str
    top: int
    left: int
    bottom: int
    right: int


class RasterFootprints:
    """Footprints of some rasters."""

    def __init__(self, urls: list[str], look: Callable[[str, Any], Any] | None = None) -> None:
        """Read the header of each raster.

        Args:
            urls: URLs of the rasters.
            look: called with the URL of each raster and the open raster; `found` keeps what it returns.

        Raises:
            InputError: a file is no raster, does not exist, or has no CRS.
        """
        self.urls = urls
        with ThreadPoolExecutor(HEADERS) as pool:
            opened = list(pool.map(partial(_header, look=look), urls))
        self.found = {url: found for url, (*_, found) in zip(urls, opened, strict=True)}
        headers = [header for *header, _ in opened]
        # There are many rasters but few CRSs, which are slow to compare.
        self._crs = list(dict.fromkeys(crs for crs, _, _ in headers))
        number_of = {crs: number for number, crs in enumerate(self._crs)}
        self._crs_N = np.array([number_of[crs] for crs, _, _ in headers], np.intp)
        self._bounds_N4 = np.array([bounds for _, bounds, _ in headers]).reshape(-1, 4)
        self._pixel_N = np.array([pixel for _, _, pixel in headers])
        self._boxes: dict[CRS, NDArray[np.float64]] = {}

    def overlapping(self, grid: Grid) -> list[Placed]:
        """Find the rasters whose bounding boxes share an area with the image's, in the order they were given.

        The smaller of image and raster is transformed to the other's CRS: half the globe has no box in UTM.
        """
        if not self.urls:
            return []
        image_N4 = np.array([_box_in(grid.crs, crs, grid.bounds) for crs in self._crs])[self._crs_N]
        raster_N4 = self._boxes_in(grid.crs)
        pixel = grid.sides[0]
        is_elsewhere_N = np.array([crs != grid.crs for crs in self._crs])[self._crs_N]
        is_larger_N = is_elsewhere_N & (_area(self._bounds_N4) > _area(image_N4))
        overlaps_N = np.where(
            is_larger_N,
            _overlap(image_N4, self._bounds_N4, self._pixel_N),
            _overlap(raster_N4, np.array(grid.bounds), pixel),
        )
        return [
            Placed(self.urls[n], *_reach(NOWHERE if is_larger_N[n] else tuple(raster_N4[n]), grid))
            for n in np.flatnonzero(overlaps_N)
        ]

    def _boxes_in(self, crs: CRS) -> NDArray[np.float64]:
        """Return the boxes (rasters, 4) in `crs`, computed once for all images in it."""
        if crs not in self._boxes:
            pairs = zip(self._crs_N.tolist(), self._bounds_N4.tolist(), strict=True)
            boxes = [_box_in(self._crs[number], crs, tuple(bounds)) for number, bounds in pairs]
            self._boxes[crs] = np.array(boxes)
        return self._boxes[crs]


def _header(url: str, look: Callable[[str, Any], Any] | None) -> tuple[CRS, Box, float, Any]:
    """Read CRS, bounds and the width of a pixel, and what `look` finds."""
    with open_raster(url) as raster:
        if raster.scales[0] != 1 or raster.offsets[0] != 0:
            raise InputError(
                f"{url}: says that its values are to be scaled by {raster.scales[0]:g}; do it first "
                "(gdal_translate -unscale -ot Float32)"
            )
        grid = Grid.of(raster)
        return grid.crs, grid.bounds, grid.sides[0], look(url, raster) if look else None


def _box_in(own: CRS, crs: CRS, bounds: Box) -> Box:
    """Transform bounds to another CRS; NOWHERE if they have no place in it.

    Same as rasterio's `transform_bounds`, which takes 17 ms a call: too long for thousands of rasters.
    """
    if own == crs:
        return bounds
    left, bottom, right, top = bounds
    along = np.linspace(0, 1, EDGE_POINTS)
    eastward, northward = left + along * (right - left), bottom + along * (top - bottom)
    ring_x = np.concatenate(
        [eastward, np.full(EDGE_POINTS, right), eastward[::-1], np.full(EDGE_POINTS, left)]
    )
    ring_y = np.concatenate(
        [np.full(EDGE_POINTS, bottom), northward, np.full(EDGE_POINTS, top), northward[::-1]]
    )
    x, y = in_crs(np.stack([ring_x, ring_y]), own, crs)
    if not np.isfinite([x, y]).all():
        return NOWHERE
    if crs.is_geographic:
        return _wrapped(np.unwrap(x, period=360), y)
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _wrapped(x: NDArray[np.float64], y: NDArray[np.float64]) -> Box:
    """Bound points whose longitudes may continue across the antimeridian: left > right if they do."""
    width = float(np.ptp(x))
    if width >= 360:
        return -180.0, float(y.min()), 180.0, float(y.max())
    left = float(half_turn(x.min()))
    right = left + width
    return left, float(y.min()), right - 360 * (right > 180), float(y.max())


def _unwrapped(boxes_N4: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unwrap boxes so that left < right; also return the degrees to move others by, so that they meet."""
    shift_N = np.asarray(np.where(boxes_N4[..., 0] > boxes_N4[..., 2], 360.0, 0.0))
    unwrapped_N4 = boxes_N4.copy()
    unwrapped_N4[..., 2] += shift_N
    return unwrapped_N4, shift_N


def _area(boxes_N4: NDArray[np.float64]) -> NDArray[np.float64]:
    left, bottom, right, top = np.moveaxis(_unwrapped(boxes_N4)[0], -1, 0)
    return np.asarray((right - left) * (top - bottom))


def _overlap(
    boxes_N4: NDArray[np.float64], others_N4: NDArray[np.float64], pixel_N: Any
) -> NDArray[np.bool_]:
    """Tell (N,) whether boxes, maybe wrapped ones, share an area with others; False where one is NOWHERE."""
    unwrapped_N4, shift_N = _unwrapped(boxes_N4)
    left, bottom, right, top = np.moveaxis(unwrapped_N4, -1, 0)
    height = np.minimum(top, others_N4[..., 3]) - np.maximum(bottom, others_N4[..., 1])
    widths = [
        np.minimum(right, others_N4[..., 2] + by) - np.maximum(left, others_N4[..., 0] + by)
        for by in (0.0, shift_N)
    ]
    return np.asarray(np.minimum(np.maximum(*widths), height) > LEAST_OVERLAP * pixel_N)


def _reach(box: Box, grid: Grid) -> tuple[int, int, int, int]:
    """Return top, left, bottom, right (exclusive) of the pixels in a box; the whole grid if it is unknown."""
    left, bottom, right, top = box
    if not left <= right:
        return 0, 0, grid.height, grid.width
    corners = ((left, top), (right, top), (left, bottom), (right, bottom))
    columns_rows = np.array([~grid.transform @ corner for corner in corners])
    low, high = columns_rows.min(0), columns_rows.max(0)
    # The box comes from a few points of its edge, and resampling reaches beyond it.
    margin = 2 + 0.01 * (high - low)
    shape = (grid.width, grid.height)
    first_column, first_row = np.clip(np.floor(low - margin), 0, shape).astype(int).tolist()
    end_column, end_row = np.clip(np.ceil(high + margin), 0, shape).astype(int).tolist()
    return first_row, first_column, end_row, end_column
