"""Height rasters on the pixels of a map: lidar or radar, read window by window.

    rasters = HeightRasters(urls)                            # opens every raster once, for its header
    near = rasters.near(grid, rows, columns)
    height_HW = rasters.heights(grid, rows, columns, near, wanted_HW)  # metres; NaN: no height

Where several rasters cover a pixel, the first by name counts.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.windows import Window

from shards.errors import InputError
from shards.raster.grid import Grid, reaches
from shards.raster.missing import NODATA, Missing
from shards.raster.on_grid import Areas, area_means
from shards.raster.opening import HEADERS, METRES, OpenRasters, open_raster
from shards.storage.objects import name_of

SAMPLES = 21
"""Points along each side of a rectangle that are transformed to another CRS."""


@dataclass(frozen=True)
class HeightRaster:
    """Name and grid of a raster."""

    url: str
    grid: Grid

    @classmethod
    def at(cls, url: str) -> "HeightRaster":
        """Read the header of the raster at `url`.

        Raises:
            InputError: it is missing, is not a raster, has no CRS, or is not in metres.
        """
        with open_raster(url) as raster:
            unit = raster.units[0] or ""
            if unit.lower() not in METRES:
                raise InputError(
                    f"{url}: states its values in {unit!r}; convert it to metres first (from feet: "
                    "gdal_calc.py -A FILE --calc 'A*0.3048' --outfile NEW), or correct the stated unit "
                    "(rio edit-info --units m)"
                )
            return cls(url, Grid.of(raster))


class HeightRasters:
    """Rasters of heights or elevations."""

    def __init__(self, urls: Iterable[str]) -> None:
        """Read the header of each raster.

        Raises:
            InputError: a raster cannot be used.
        """
        with ThreadPoolExecutor(HEADERS) as pool:
            self.rasters = list(pool.map(HeightRaster.at, by_name(urls)))
        self._open = OpenRasters()  # closes rasters when it drops them

    @property
    def urls(self) -> list[str]:
        """URLs of the rasters, in the order in which they count."""
        return [raster.url for raster in self.rasters]

    def near(
        self, grid: Grid, rows: range, columns: range, among: list[HeightRaster] | None = None
    ) -> list[HeightRaster]:
        """Select the rasters that may have values in a rectangle of `grid`: all that do, and few others."""
        rasters = self.rasters if among is None else among
        row_points, column_points = (np.linspace(span.start, span.stop, SAMPLES) for span in (rows, columns))
        crss = {raster.grid.crs for raster in rasters}
        places = {crs: grid.corners(row_points, column_points, crs) for crs in crss}
        return [raster for raster in rasters if reaches(places[raster.grid.crs], raster.grid)]

    def heights(
        self, grid: Grid, rows: range, columns: range, near: list[HeightRaster], wanted_HW: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Compute heights in metres (rows, columns), NaN where no raster has any or none are wanted.

        Args:
            grid: grid of the pixels.
            rows: rows of the grid.
            columns: columns of the grid.
            near: rasters that may have values there.
            wanted_HW: whether each pixel's height is wanted.

        Raises:
            InputError: a raster's file is damaged.
        """
        height_HW = np.full(wanted_HW.shape, np.nan)
        areas: dict[CRS, Areas] = {}
        for raster in near:
            open_HW = wanted_HW & np.isnan(height_HW)
            if not open_HW.any():
                break
            crs = raster.grid.crs
            if crs not in areas:
                areas[crs] = Areas.of(grid, rows, columns, crs)
            mean_HW = area_means(partial(self._metres, raster.url), raster.grid, areas[crs], open_HW)
            height_HW[open_HW] = mean_HW[open_HW]
        return height_HW

    def _metres(self, url: str, window: Window) -> NDArray[np.float64]:
        """Read a window of the first band, with its scale and offset applied; NaN where it has no value."""
        raster = self._open[url]
        marks = Missing.of(raster, [1], NODATA if raster.nodata is None else None)
        stored_1HW, missing_1HW = marks.read(window)
        values_HW: NDArray[np.float64] = stored_1HW[0].astype(np.float64) * raster.scales[0]
        values_HW += raster.offsets[0]
        values_HW[missing_1HW[0]] = np.nan
        return values_HW


def by_name(urls: Iterable[str]) -> list[str]:
    """Sort URLs by file name, and by folder where names are equal; drop duplicates."""
    return sorted(set(urls), key=lambda url: (name_of(url), url))
