"""The values of rasters on a chip's footprint.

    rasters = LabelRasters(urls, rule)      # reads the header of every raster
    value_HW = rasters.values(grid)         # on the chip's pixels; NaN: no value

A pixel takes its value from the first raster that has one there, in the order they were given.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from ingest.chips.check import HEIGHT_NODATA
from ingest.labels.footprint import LabelRule
from shards.errors import InputError
from shards.raster.footprints import RasterFootprints
from shards.raster.gdal_advice import take_band
from shards.raster.grid import Grid
from shards.raster.height_unit import stated_unit, unit_name
from shards.raster.missing import Missing
from shards.raster.on_grid import Areas, area_means, nearest_values
from shards.raster.opening import OpenRasters


class LabelRasters:
    """Rasters of one band in any CRS and with pixels of any size."""

    def __init__(self, urls: list[str], rule: LabelRule) -> None:
        """Read the header of each raster.

        Raises:
            InputError: a file is no raster, does not exist, has no CRS, a scale or several bands, or states
                another unit than the others.
        """
        self._footprints, self._rule = RasterFootprints(urls, _unit), rule
        self._open = OpenRasters()
        first: dict[str, str] = {}
        for url, unit in self._footprints.found.items():
            first.setdefault(unit, url)
        stated = [unit for unit in first if unit]
        if len(stated) > 1:
            one, other = stated[:2]
            raise InputError(
                f"{first[other]}: states its values in {other!r}, and {first[one]} in {one!r}; a column has "
                "one unit, so convert one of them first (gdal_calc.py)"
            )

    def values(self, grid: Grid) -> NDArray[np.float64] | None:
        """Compute the values (rows, columns) on the pixels of `grid`, NaN where there is none.

        With --mean a pixel has the mean over its area, with --majority the value at its middle.

        Returns:
            None where no raster overlaps the grid.

        Raises:
            InputError: a raster is damaged, or (majority) has values that are not whole.
        """
        near = self._footprints.overlapping(grid)
        if not near:
            return None
        rows, columns = range(grid.height), range(grid.width)
        value_HW = np.full((grid.height, grid.width), np.nan)
        for placed in near:
            open_HW = np.isnan(value_HW)
            if not open_HW.any():
                break
            own = Grid.of(self._open[placed.url])
            read = partial(self._read, placed.url)
            if self._rule.majority:
                middle_2HW = grid.corners(np.array(rows) + 0.5, np.array(columns) + 0.5, own.crs)
                found_HW = nearest_values(read, own, middle_2HW, open_HW)
            else:
                found_HW = area_means(read, own, Areas.of(grid, rows, columns, own.crs), open_HW)
            value_HW[open_HW] = found_HW[open_HW]
        return value_HW

    def _read(self, url: str, window: Window) -> NDArray[np.float64]:
        raster = self._open[url]
        marks = Missing.of(raster, [1], HEIGHT_NODATA if raster.nodata is None else None)
        stored_1HW, missing_1HW = marks.read(window)
        value_HW = self._rule.counted(stored_1HW[0], missing_1HW[0])
        if self._rule.majority and (broken_N := value_HW[np.mod(value_HW, 1) > 0]).size:
            raise InputError(
                f"{url}: has {broken_N[0]:g}, and only whole numbers have a majority; use --mean, or leave "
                "such values out by --valid"
            )
        return value_HW


def _unit(url: str, raster: Any) -> str:
    """Return the unit that the one band of an open raster states; "" if it states none."""
    if sum(band != ColorInterp.alpha for band in raster.colorinterp) != 1:
        raise InputError(
            f"{url}: has {raster.count} bands, and a label has one; choose it first ({take_band()})"
        )
    return unit_name(stated_unit(raster, 1))
