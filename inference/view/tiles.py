"""Tiles of a raster: squares of pixels on any grid, at the resolution that is shown.

A tile of level n has TILE x TILE pixels, each 2^n pixels of the frame wide; tiles count from the frame's
first pixel. On the raster's own grid they are its own pixels (or its overviews'), on another one GDAL's.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.enums import ColorInterp, Resampling
from rasterio.windows import Window

from shards.raster.grid import Grid
from shards.raster.missing import Missing
from shards.raster.on_grid import resampled

TILE = 256
FINEST = -4
"""Finest level: a frame's pixel is cut into 16 x 16 at most."""


def tile_grid(frame: Grid, level: int, column: int, row: int) -> Grid:
    """Return the pixels of a tile."""
    share = 2.0**level
    transform = frame.transform @ Affine.translation(column * TILE * share, row * TILE * share)
    return Grid(frame.crs, transform @ Affine.scale(share), TILE, TILE)


def is_near(frame: Grid, level: int, column: int, row: int) -> bool:
    """Tell whether a tile has ground of the frame, or lies right beside it."""
    share = TILE * 2.0**level
    sides = ((column, frame.width), (row, frame.height))
    return all(-1 <= number <= math.ceil(pixels / share) for number, pixels in sides)


def levels(frame: Grid, pixel: float, own_pixel: float) -> tuple[int, int]:
    """Return the finest and the coarsest level at which a raster is shown.

    Args:
        frame: the frame.
        pixel: width of its pixels in metres.
        own_pixel: width of the raster's pixels in metres.
    """
    finest = math.floor(math.log2(own_pixel / pixel) + 0.01)
    coarsest = math.ceil(math.log2(max(frame.height, frame.width, TILE) / TILE))
    return max(FINEST, min(finest, 0)), coarsest


def read_tile(
    raster: Any, numbers: list[int], tile: Grid, nodata: float | None, mean: bool
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read stored_BHW and missing_BHW of an open raster's bands on a tile.

    Args:
        raster: an open raster.
        numbers: numbers of the bands, from 1.
        tile: the pixels of the tile.
        nodata: value that means nothing in a raster that declares none.
        mean: whether values have means; else the nearest is taken.

    Raises:
        InputError: the raster's file is damaged.
    """
    window = _own_window(Grid.of(raster), tile)
    if window is not None:
        return _read_own(Missing.of(raster, numbers, nodata), window, tile)
    marks = Missing.of(raster, numbers, nodata)
    declared = marks.values_B[0]
    options: dict[str, Any] = {}
    if ColorInterp.alpha not in raster.colorinterp and (marks.is_marked_apart or not declared):
        options["add_alpha"] = True
    elif declared:
        options |= {"src_nodata": declared[0], "nodata": declared[0]}
    resampling = Resampling.average if mean else Resampling.nearest
    with resampled(raster, tile, resampling, **options) as warped:
        return Missing.of(warped, numbers, nodata).read(Window(0, 0, tile.width, tile.height))


def read_pixel(
    raster: Any, numbers: Sequence[int], pixel: tuple[int, int], nodata: float | None = None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read stored_B and missing_B of a pixel, by row and column, at full resolution; see `read_tile`."""
    row, column = pixel
    stored_B11, missing_B11 = Missing.of(raster, numbers, nodata).read(Window(column, row, 1, 1))
    return stored_B11[:, 0, 0], missing_B11[:, 0, 0]


def _own_window(own: Grid, tile: Grid) -> Window | None:
    """Return the tile as a window of a raster's grid; None if its pixels are not whole ones of the raster."""
    if own.crs != tile.crs:
        return None
    a, b, c, d, e, f = (~own.transform @ tile.transform)[:6]
    share, column, row = round(a), round(c), round(f)
    if share < 1 or not np.allclose((a, b, d, e), (share, 0, 0, share), rtol=1e-9, atol=1e-9):
        return None
    if not np.allclose((c, f), (column, row), rtol=0, atol=1e-6):
        return None
    return Window(column, row, share * tile.width, share * tile.height)


def _read_own(marks: Missing, window: Window, tile: Grid) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read a window that may reach beyond the raster, in the tile's shape."""
    share = window.width // tile.width
    shape = len(marks.numbers), tile.height, tile.width
    stored_BHW = np.zeros(shape, marks.raster.dtypes[marks.numbers[0] - 1])
    missing_BHW = np.ones(shape, np.bool_)
    height, width = marks.raster.shape
    top, left = max(window.row_off, 0), max(window.col_off, 0)
    bottom, right = min(window.row_off + window.height, height), min(window.col_off + window.width, width)
    # Only the first and the last pixels of a tile can lie partly outside: their part inside is shown.
    rows = slice((top - window.row_off) // share, -(-(bottom - window.row_off) // share))
    columns = slice((left - window.col_off) // share, -(-(right - window.col_off) // share))
    if bottom > top and right > left:
        inside = Window(left, top, right - left, bottom - top)
        small = rows.stop - rows.start, columns.stop - columns.start
        read, missing = marks.read(inside, None if share == 1 else small)
        stored_BHW[:, rows, columns], missing_BHW[:, rows, columns] = read, missing
    return stored_BHW, missing_BHW
