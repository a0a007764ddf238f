"""A raster on the pixels of another grid, finer or coarser, in any CRS.

One of four rules decides which value a pixel gets. With each, the value depends only on the pixel's place,
to the last bit, and not on the pixels that are read with it. One test holds all four to that.

| rule | value of a pixel | used for |
|---|---|---|
| `resampled`, read by `read_on_grid` | GDAL's nearest, bilinear or average; places to 1/8 pixel | chips |
| `Bilinear` | GDAL's bilinear, places exact, memory bounded | mosaics |
| `area_means` | the mean over its area; no value where less than half of it has values | scores, labels |
| `nearest_values` | the value at its middle, places exact | labels that are classes |

docs/benchmarks.md, "Rasters on another grid", says why one rule does not serve all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioIOError, WarpOperationError
from rasterio.vrt import WarpedVRT
from rasterio.warp import reproject
from rasterio.windows import Window

from shards.errors import InputError, one_line
from shards.raster.grid import Grid, half_turn
from shards.raster.opening import read_window

TILE = 512
"""Side in pixels of the tiles that `Bilinear` resamples."""
READ_PIXELS = 1 << 21
"""Most pixels that `area_means` and `nearest_values` read at a time: 16 MB of float64."""
LEAST_COVERED = 0.5
"""Least share of a pixel's area that must have values."""
SNAP = 2.0**20
"""Steps per pixel to which places are rounded, much finer than places are known. So rounding errors of
coordinates reach no neighbour, and areas are exact."""


# --- any of GDAL's resamplings, block by block ---


def resampled(raster: Any, grid: Grid, resampling: Resampling, **options: Any) -> WarpedVRT:
    """Open a raster on the pixels of `grid`; the caller closes it.

    Args:
        raster: an open raster.
        grid: the pixels to resample to.
        resampling: GDAL's rule for a value from those around it.
        options: further options of WarpedVRT, on nodata and alpha.
    """
    place = {"crs": grid.crs, "transform": grid.transform, "height": grid.height, "width": grid.width}
    return WarpedVRT(raster, resampling=resampling, **place, **options)


def read_on_grid(raster: Any, indexes: int | list[int], window: Window) -> NDArray[Any]:
    """Read (rows, columns), or (bands, rows, columns) for a list of bands, from a raster, resampled or not.

    Raises:
        InputError: the raster's file is damaged.
    """
    pieces = [
        [read_window(raster, indexes=indexes, window=part) for part in row] for row in _pieces(raster, window)
    ]
    if len(pieces) == len(pieces[0]) == 1:
        return np.asarray(pieces[0][0])
    return np.concatenate([np.concatenate(row, axis=-1) for row in pieces], axis=-2)


def _pieces(raster: Any, window: Window) -> list[list[Window]]:
    """Cut `window` into smaller ones, in rows from north to south.

    GDAL warps a window of more rows than a block, or the whole raster, at once instead of block by block, and
    approximates as it goes. Then a pixel depends on the window and not on its place alone
    (VRTWarpedDataset::IRasterIO in GDAL's frmts/vrt/vrtwarped.cpp).
    """
    if not isinstance(raster, WarpedVRT):
        return [[window]]
    most, bottom = raster.block_shapes[0][0], window.row_off + window.height
    tops = range(window.row_off, bottom, most)
    is_whole = len(tops) == 1 and (window.height, window.width) == raster.shape and window.width > 1
    spans = [(window.col_off, window.width)]
    if is_whole:
        spans = [(0, window.width // 2), (window.width // 2, window.width - window.width // 2)]
    return [[Window(left, top, width, min(most, bottom - top)) for left, width in spans] for top in tops]


# --- between four pixels ---


@dataclass(frozen=True)
class Bilinear:
    """A band of a raster on an unbounded grid, whose windows may have negative offsets."""

    raster: Any
    number: int
    """Number of the band: 1, 2, ..."""
    nodata: float
    crs: CRS
    anchor: Affine
    """Transform from (column, row) on the grid to (x, y) in units of the CRS."""
    place: Window
    """Window of the grid outside which the raster has no pixels."""
    scales: tuple[float, float]
    """Pixels of the grid per pixel of the raster, along a row and a column of the grid, at most 1. Without
    them, GDAL computes scales from each tile, and those of tiles at an edge differ."""

    def read(self, window: Window) -> NDArray[np.float32]:
        """Read (rows, columns) of a window within `place`; NaN where the nearest pixel has no value.

        Tiles are the same for every window, because GDAL may transform between two CRSs differently for
        another tile.

        Raises:
            InputError: the raster's file is damaged.
        """
        (top, bottom), (left, right) = window.toranges()
        row, column = top - (top - self.place.row_off) % TILE, left - (left - self.place.col_off) % TILE
        tiles = [
            [self._tile(first_row, first) for first in range(column, right, TILE)]
            for first_row in range(row, bottom, TILE)
        ]
        values_HW = np.concatenate([np.concatenate(of_row, axis=1) for of_row in tiles])
        return values_HW[top - row : bottom - row, left - column : right - column]

    def _tile(self, row: int, column: int) -> NDArray[np.float32]:
        """Resample the tile that begins at this row and column.

        Bands are resampled one by one: with several at once, GDAL fills a hole from its edges where another
        band has no hole. A WarpedVRT does not serve: rasterio 1.4 cannot make one with a tolerance of 0.
        """
        (_, bottom), (_, right) = self.place.toranges()
        values_HW = np.full((min(TILE, bottom - row), min(TILE, right - column)), np.nan, np.float32)
        try:
            reproject(
                rasterio.band(self.raster, self.number),
                values_HW,
                src_nodata=self.nodata,
                dst_crs=self.crs,
                dst_transform=self.anchor @ Affine.translation(column, row),
                dst_nodata=np.nan,
                resampling=Resampling.bilinear,
                tolerance=0,
                XSCALE=self.scales[0],
                YSCALE=self.scales[1],
            )
        except (WarpOperationError, RasterioIOError) as error:
            raise InputError(
                f"{self.raster.name}: cannot be read or resampled ({one_line(error.__cause__ or error)})"
            ) from error
        return values_HW


# --- the mean over a pixel's area ---


@dataclass(frozen=True)
class Areas:
    """Pixels as parallelograms in some CRS: their middles, and the steps to the next column and row."""

    middle_2HW: NDArray[np.float64]
    column_2HW: NDArray[np.float64]
    row_2HW: NDArray[np.float64]

    @classmethod
    def of(cls, grid: Grid, rows: range, columns: range, crs: CRS) -> "Areas":
        """Transform pixels of `grid` to `crs`; NaN where a pixel has no place there."""
        row_edges, column_edges = (np.arange(span.start, span.stop + 1) for span in (rows, columns))
        corner_2HW = grid.corners(row_edges, column_edges, crs)
        first_2HW = corner_2HW[:, :-1, :-1]
        others = (corner_2HW[:, :-1, 1:], corner_2HW[:, 1:, :-1], corner_2HW[:, 1:, 1:])
        right, below, opposite = (other - first_2HW for other in others)
        if crs.is_geographic:
            for step_2HW in (right, below, opposite):
                step_2HW[0] = half_turn(step_2HW[0])
        middle_2HW = first_2HW + (right + below + opposite) / 4
        return cls(middle_2HW, (right + opposite - below) / 2, (below + opposite - right) / 2)

    def boxes(self, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute the boxes of all areas: (2, H, W) lowest and highest column and row, in pixels of `grid`.

        `grid` has the areas' CRS. A box has the area and the middle of its pixel. Where the grids are rotated
        against each other it is the pixel turned upright: a box around the corners could be twice as large.
        """
        middle_2HW = grid.pixels(grid.nearest_turn(self.middle_2HW))
        column_2HW, row_2HW = grid.steps(self.column_2HW), grid.steps(self.row_2HW)
        half_2HW = np.sqrt(column_2HW**2 + row_2HW**2) / 2
        return _snapped(middle_2HW - half_2HW), _snapped(middle_2HW + half_2HW)


def area_means(
    read: Callable[[Window], NDArray[np.float64]], own: Grid, areas: Areas, wanted_HW: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Compute (rows, columns) means of a raster over the wanted areas; NaN elsewhere, see `area_average`.

    Args:
        read: reads the raster's values in a window, NaN where there is no value.
        own: the raster's grid.
        areas: areas in the raster's CRS.
        wanted_HW: the areas that are wanted.
    """
    low_2HW, high_2HW = areas.boxes(own)
    shape = np.array([own.width, own.height])[:, None, None]
    # Also False where a place is not finite.
    reached_HW = (
        wanted_HW & ((low_2HW < shape) & (high_2HW > 0)).all(0) & np.isfinite(low_2HW + high_2HW).all(0)
    )
    mean_HW = np.full(wanted_HW.shape, np.nan)
    mean_HW[reached_HW] = _averages(read, own, low_2HW[:, reached_HW], high_2HW[:, reached_HW])
    return mean_HW


def _averages(
    read: Callable[[Window], NDArray[np.float64]],
    own: Grid,
    low_2N: NDArray[np.float64],
    high_2N: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Compute (N,) means over boxes, all of which reach into the raster."""
    count = low_2N.shape[1]
    if not count:
        return np.zeros(0)
    first = np.maximum(np.floor(low_2N.min(1)), 0).astype(int)
    stop = np.minimum(np.ceil(high_2N.max(1)), (own.width, own.height)).astype(int)
    size = stop - first
    if size.prod() > READ_PIXELS and count > 1:
        halves = np.s_[:, : count // 2], np.s_[:, count // 2 :]
        return np.concatenate([_averages(read, own, low_2N[half], high_2N[half]) for half in halves])
    values_HW = read(Window(*first.tolist(), *size.tolist()))
    return area_average(values_HW, low_2N - first[:, None], high_2N - first[:, None])


def area_average(
    values_HW: NDArray[np.float64], low_2N: NDArray[np.float64], high_2N: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute (N,) means of the values in each box, weighted by area; NaN if less than half of it has values.

    Args:
        values_HW: values, NaN where there is none; outside of them there is none either.
        low_2N: lowest column and row of each box.
        high_2N: highest column and row.
    """
    known_HW = np.isfinite(values_HW)
    value_P, known_P = np.where(known_HW, values_HW, 0.0).ravel(), known_HW.ravel().astype(np.float64)
    height, width = values_HW.shape
    weighted_columns = list(_weighted(low_2N[0], high_2N[0], width))
    total_N, covered_N = np.zeros(low_2N.shape[1]), np.zeros(low_2N.shape[1])
    for row_N, row_weight_N in _weighted(low_2N[1], high_2N[1], height):
        for column_N, column_weight_N in weighted_columns:
            place_N = row_N * width + column_N
            weight_N = row_weight_N * column_weight_N * known_P[place_N]
            total_N += weight_N * value_P[place_N]
            covered_N += weight_N
    area_N = (high_2N - low_2N).prod(0)
    enough_N = (covered_N > 0) & (covered_N >= LEAST_COVERED * area_N)
    mean_N = np.full(len(total_N), np.nan)
    mean_N[enough_N] = total_N[enough_N] / covered_N[enough_N]
    return mean_N


def _weighted(
    low_N: NDArray[np.float64], high_N: NDArray[np.float64], length: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """Yield along one axis each box's first pixel and its share inside the box, then the second, and so on.

    Pixels beyond the raster have a share of 0 and the number of some other pixel.
    """
    first_N = np.floor(low_N).astype(np.intp)
    most = int((np.ceil(high_N).astype(np.intp) - first_N).max(initial=0))
    for number in range(most):
        place_N = first_N + number
        weight_N = np.maximum(np.minimum(high_N, place_N + 1) - np.maximum(low_N, place_N), 0)
        weight_N[(place_N < 0) | (place_N >= length)] = 0
        yield np.clip(place_N, 0, length - 1), weight_N


# --- the value at a place ---


def nearest_values(
    read: Callable[[Window], NDArray[np.float64]],
    own: Grid,
    place_2HW: NDArray[np.float64],
    wanted_HW: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Find (rows, columns) values of the raster's pixels that hold the wanted places; NaN elsewhere.

    Args:
        read: reads the raster's values in a window, NaN where there is no value.
        own: the raster's grid.
        place_2HW: places in the raster's CRS, NaN where there is none.
        wanted_HW: the places that are wanted.
    """
    pixel_2HW = np.floor(_snapped(own.pixels(own.nearest_turn(place_2HW))))
    shape = np.array([own.width, own.height])[:, None, None]
    # Also False where a place is not finite.
    reached_HW = wanted_HW & ((pixel_2HW >= 0) & (pixel_2HW < shape)).all(0)
    value_HW = np.full(wanted_HW.shape, np.nan)
    value_HW[reached_HW] = _values_of(read, pixel_2HW[:, reached_HW].astype(np.intp))
    return value_HW


def _values_of(
    read: Callable[[Window], NDArray[np.float64]], pixel_2N: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Read (N,) values of pixels, given by column and row."""
    count = pixel_2N.shape[1]
    if not count:
        return np.zeros(0)
    first = pixel_2N.min(1)
    size = pixel_2N.max(1) + 1 - first
    if size.prod() > READ_PIXELS and count > 1:
        halves = np.s_[:, : count // 2], np.s_[:, count // 2 :]
        return np.concatenate([_values_of(read, pixel_2N[half]) for half in halves])
    values_HW = read(Window(*first.tolist(), *size.tolist()))
    column_N, row_N = pixel_2N - first[:, None]
    return np.asarray(values_HW[row_N, column_N])


def _snapped(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.rint(pixels * SNAP) / SNAP)
