"""Common grid of a mosaic, and the place of each map on it.

The grid is endless: rows and columns are whole numbers, also negative ones, counted from an anchor that
depends only on the first map and the options. A mosaic is a rectangle of the grid; where two rectangles
overlap, they have the same pixels.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from inference.maps.height_map import HeightMap
from inference.tiling.windows import Block, Span
from shards.errors import InputError
from shards.raster.grid import WGS84, Grid, half_turn, in_crs

ALIGNED = 1e-3
"""Pixels by which a map's corners may miss the grid's while its pixels are still taken unchanged."""
EDGE_POINTS = 101
"""Points along each edge of a map seen in another CRS; bulges between them are far below 1 m."""
GAP_POINTS = 33
"""Points between two maps at which the way from one to the other is looked at."""
MARGIN = 2
"""Pixels added around a map that is transformed to another CRS, for what these points miss."""
SLACK = 1e-6
"""Pixels by which --bounds may miss a pixel's edge and still mean that edge."""
MOST_PIXELS = 2**31 - 1
"""Most pixels along a side of a raster, in GDAL."""
_DEGREES = CRS.from_user_input(WGS84)


@dataclass(frozen=True)
class EndlessGrid:
    """Grid of pixels that extends in all directions."""

    crs: CRS
    anchor: Affine
    """Transform from (column, row) of a pixel's corner to (x, y) in units of the CRS."""

    def part(self, place: Block) -> Grid:
        """Return the grid of a raster that has the pixels of `place`."""
        corner = self.anchor @ Affine.translation(place.columns.start, place.rows.start)
        return Grid(self.crs, corner, len(place.rows), len(place.columns))


@dataclass(frozen=True)
class PlacedMap:
    """A map, and the rectangle of the grid that contains it."""

    map: HeightMap
    place: Block
    is_aligned: bool
    """Whether its pixels coincide with pixels of the grid."""
    scales: tuple[float, float] = (1.0, 1.0)
    """Grid pixels per pixel of the map, along a row and along a column of the grid, at most 1."""


def meet(one: Block, other: Block) -> Block | None:
    """Intersect two rectangles; None if they have no pixel in common."""
    rows, columns = (
        Span(max(a.start, b.start), min(a.stop, b.stop))
        for a, b in ((one.rows, other.rows), (one.columns, other.columns))
    )
    return Block(rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def endless_grid(first: HeightMap, crs: str, resolution: float) -> EndlessGrid:
    """Choose the grid of the `first` map, or one that the options ask for.

    In the latter case the edges of pixels lie at multiples of the resolution.

    Args:
        first: map whose CRS and pixel size are the defaults.
        crs: CRS as the user names it, or "".
        resolution: pixel size in units of the CRS, or 0.

    Raises:
        InputError: the CRS is unknown, or its units differ from the first map's and no resolution is given.
    """
    try:
        wanted = CRS.from_user_input(crs) if crs else first.crs
    except CRSError as error:
        raise InputError(f"--crs {crs}: not a CRS that GDAL knows; try EPSG:3338") from error
    own = first.transform
    sides = math.hypot(own.a, own.d), math.hypot(own.b, own.e)
    if resolution:
        sides = resolution, resolution
    elif wanted != first.crs and wanted.units_factor != first.crs.units_factor:
        unit, map_unit = wanted.units_factor[0], first.crs.units_factor[0]
        raise InputError(
            f"--crs {crs}: its unit is the {unit}, but the maps' is the {map_unit}; give --resolution"
        )
    is_kept = wanted == first.crs and sides == (own.a, -own.e) and own.b == own.d == 0
    return EndlessGrid(wanted, own if is_kept else Affine(sides[0], 0, 0, 0, -sides[1], 0))


def placed(height_map: HeightMap, grid: EndlessGrid) -> PlacedMap:
    """Find where the map lies on the grid.

    Raises:
        InputError: the map cannot be transformed to the grid's CRS.
    """
    own, size_2 = height_map.transform, np.array([height_map.width, height_map.height])
    is_elsewhere = height_map.crs != grid.crs
    points = EDGE_POINTS if is_elsewhere else 2
    corners_N2 = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)])
    shares = np.linspace(0, 1, points)[:, None]
    ring_N2 = np.concatenate([a + shares * (b - a) for a, b in pairwise(corners_N2)])
    seen_N2 = _seen(height_map, grid, _mapped(own, ring_N2 * size_2))
    start_2, stop_2 = seen_N2.min(0), seen_N2.max(0)
    first_2 = np.rint(seen_N2[0])
    if not is_elsewhere and np.abs(seen_N2 - (first_2 + ring_N2 * size_2)).max() < ALIGNED:
        return PlacedMap(height_map, _block(first_2, first_2 + size_2), is_aligned=True)
    margin = MARGIN * is_elsewhere
    place = _block(np.floor(start_2) - margin, np.ceil(stop_2) + margin)
    return PlacedMap(height_map, place, False, _scales(height_map, grid, (start_2 + stop_2) / 2))


def extent_of(maps: list[PlacedMap], grid: EndlessGrid, bounds: tuple[float, ...]) -> Block:
    """Find the mosaic's rectangle: around all maps, or the pixels that touch `bounds`.

    Args:
        maps: maps on the grid.
        grid: grid of the mosaic.
        bounds: left, bottom, right and top in units of the grid's CRS; empty for all maps.

    Raises:
        InputError: the bounds are not a box, hold no map, or hold too many pixels; or maps lie on both sides
            of where the grid's CRS ends.
    """
    if bounds:
        given = f"--bounds {' '.join(f'{edge:.12g}' for edge in bounds)}"
        is_box = len(bounds) == 4 and bounds[0] < bounds[2] and bounds[1] < bounds[3]
        if not (is_box and np.isfinite(bounds).all()):
            raise InputError(f"{given}: give left, bottom, right and top, in units of the mosaic's CRS")
        left, bottom, right, top = bounds
        edges_22 = _mapped(~grid.anchor, np.array([(left, top), (right, bottom)]))
        extent = _block(np.floor(edges_22.min(0) + SLACK), np.ceil(edges_22.max(0) - SLACK))
        if not any(meet(one.place, extent) for one in maps):
            whole = _bounds(_around(maps), grid)
            raise InputError(
                f"{given}: no map is there; the maps lie within {whole} of {grid.crs.to_string()}"
            )
    else:
        _refuse_apart(maps, grid)
        extent = _around(maps)
    if max(len(extent.rows), len(extent.columns)) > MOST_PIXELS:
        raise InputError(
            f"{_bounds(extent, grid)}: too many pixels for a raster; see --resolution and --bounds"
        )
    return extent


def _refuse_apart(maps: list[PlacedMap], grid: EndlessGrid) -> None:
    """Refuse maps between which the grid takes the long way round the Earth, as degrees do across 180.

    Raises:
        InputError: there are such maps.
    """
    for axis in ("columns", "rows"):
        ordered = sorted(maps, key=lambda one: getattr(one.place, axis).start)
        before = ordered[0]
        widest, pair = 0, (before, before)
        for after in ordered[1:]:
            gap = getattr(after.place, axis).start - getattr(before.place, axis).stop
            if gap > widest:
                widest, pair = gap, (before, after)
            before = max(before, after, key=lambda one: getattr(one.place, axis).stop)
        ends_22 = np.array([(_middle(one.place)) for one in pair])
        between_N2 = ends_22[0] + np.linspace(0, 1, GAP_POINTS)[:, None] * (ends_22[1] - ends_22[0])
        longitude_N = in_crs(_mapped(grid.anchor, between_N2).T, grid.crs, _DEGREES)[0]
        # Ways over the ground turn by 180 degrees at most, which those over a pole do.
        if np.abs(half_turn(np.diff(longitude_N))).sum() > 180 + SLACK:
            (west, east), name = (one.map.url for one in pair), grid.crs.to_string()
            raise InputError(
                f"{west} and {east}: lie on both sides of the 180th meridian, or wherever {name} ends, so "
                "that the mosaic goes round the Earth; choose another --crs (EPSG:3338, or a UTM zone), "
                "or give --bounds"
            )


def _middle(place: Block) -> tuple[float, float]:
    """Return the column and row of a block's middle."""
    return (place.columns.start + place.columns.stop) / 2, (place.rows.start + place.rows.stop) / 2


def _around(maps: list[PlacedMap]) -> Block:
    places = [one.place for one in maps]
    rows, columns = (
        Span(min(span.start for span in spans), max(span.stop for span in spans))
        for spans in ([place.rows for place in places], [place.columns for place in places])
    )
    return Block(rows, columns)


def _bounds(place: Block, grid: EndlessGrid) -> str:
    """Write the left, bottom, right and top of `place` as --bounds takes them."""
    corners_22 = np.array([(place.columns.start, place.rows.stop), (place.columns.stop, place.rows.start)])
    return " ".join(f"{edge:.12g}" for edge in _mapped(grid.anchor, corners_22).ravel())


def _block(start_2: NDArray[Any], stop_2: NDArray[Any]) -> Block:
    """Make the block from one (column, row) to another."""
    return Block(Span(int(start_2[1]), int(stop_2[1])), Span(int(start_2[0]), int(stop_2[0])))


def _mapped(affine: Affine, points_N2: NDArray[Any]) -> NDArray[np.float64]:
    x, y = points_N2[:, 0], points_N2[:, 1]
    a, b, c, d, e, f = affine[:6]
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)


def _seen(height_map: HeightMap, grid: EndlessGrid, points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Transform points from the map's CRS to (column, row) on the grid."""
    if height_map.crs != grid.crs:
        middles_N2 = in_crs((points_N2[1:] + points_N2[:-1]).T / 2, height_map.crs, grid.crs).T
        points_N2 = in_crs(points_N2.T, height_map.crs, grid.crs).T
        is_torn = _is_torn(points_N2, middles_N2)
        if is_torn or not np.isfinite(points_N2).all():
            why = ", because it crosses the 180th meridian or another end of it" * is_torn
            raise InputError(
                f"{height_map.url}: has no place in {grid.crs.to_string()}{why}; choose another --crs"
            )
    return _mapped(~grid.anchor, points_N2)


def _is_torn(points_N2: NDArray[np.float64], middles_N2: NDArray[np.float64]) -> bool:
    """Tell whether an outline jumps from one end of a CRS to the other, as degrees do at 180.

    A step's middle, transformed by itself, lies between the step's ends, unless the step is such a jump.
    """
    step_N2 = np.diff(points_N2, axis=0)
    missed_N2 = middles_N2 - points_N2[:-1] - step_N2 / 2
    return bool((np.hypot(*missed_N2.T) > np.hypot(*step_N2.T) / 4).any())


def _scales(height_map: HeightMap, grid: EndlessGrid, centre_2: NDArray[np.float64]) -> tuple[float, float]:
    """Count grid pixels per pixel of the map, in its middle: below 1 where the map's pixels are finer."""
    cross_32 = centre_2 + np.array([(0, 0), (1, 0), (0, 1)])
    points_23 = in_crs(_mapped(grid.anchor, cross_32).T, grid.crs, height_map.crs)
    own_32 = _mapped(~height_map.transform, points_23.T)
    along_row, along_column = (float(np.hypot(*(own_32[n] - own_32[0]))) for n in (1, 2))
    return min(1.0, 1 / along_row), min(1.0, 1 / along_column)
