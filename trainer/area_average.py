"""The mean of a raster over the area of each pixel of another grid, finer or coarser, in any CRS.

What a pixel gets depends on where it is alone, to the last bit, and not on what is computed with it. GDAL's
own average does not tell how much of a pixel it saw, which at the edge of a raster may be a sliver.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from shards.grid import Grid, half_turn

LEAST_COVERED = 0.5
"""Share of a pixel's area that must have values."""
SNAP = 2.0**20
"""Places are rounded to 1 / SNAP of a raster's pixel, much less than they are known to: then rounding errors
of coordinates reach no neighbour, and areas are exact."""


@dataclass(frozen=True)
class Areas:
    """Pixels in some CRS, each as a parallelogram: its middle, and the steps to the next column and row."""

    middle_2HW: NDArray[np.float64]
    column_2HW: NDArray[np.float64]
    row_2HW: NDArray[np.float64]

    @classmethod
    def of(cls, grid: Grid, rows: range, columns: range, crs: CRS) -> "Areas":
        """Those of `grid` in `crs`; NaN where one has no place there."""
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
        """(2, H, W) lowest and highest column and row of each in pixels of `grid`, which has their CRS.

        A box has the area of the pixel and its middle. Where the grids are turned against each other it is
        the pixel turned upright: a box around its corners would be too large, up to twice.
        """
        middle_2HW = grid.pixels(grid.nearest_turn(self.middle_2HW))
        column_2HW, row_2HW = grid.steps(self.column_2HW), grid.steps(self.row_2HW)
        half_2HW = np.sqrt(column_2HW**2 + row_2HW**2) / 2
        return _snapped(middle_2HW - half_2HW), _snapped(middle_2HW + half_2HW)


def area_average(
    values_HW: NDArray[np.float64], low_2N: NDArray[np.float64], high_2N: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N,) mean of the values in each box, weighted by area; NaN where less than half of it has a value.

    Args:
        values_HW: NaN where there is none; there is none beyond them either.
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
    """Along one axis: each box's first pixel and how much of it is in the box, its second one, ...

    Of pixels beyond the raster nothing is in the box; the number of some other pixel stands for theirs.
    """
    first_N = np.floor(low_N).astype(np.intp)
    most = int((np.ceil(high_N).astype(np.intp) - first_N).max(initial=0))
    for number in range(most):
        place_N = first_N + number
        weight_N = np.maximum(np.minimum(high_N, place_N + 1) - np.maximum(low_N, place_N), 0)
        weight_N[(place_N < 0) | (place_N >= length)] = 0
        yield np.clip(place_N, 0, length - 1), weight_N


def _snapped(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.rint(pixels * SNAP) / SNAP)
