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

from shards.raster.grid import SPREAD, Grid, reaches
from shards.raster.height_check import HeightHeader
from shards.raster.height_unit import HeightUnit
from shards.raster.missing import NODATA, Missing
from shards.raster.on_grid import Areas, area_means
from shards.raster.opening import HEADERS, OpenRasters, open_raster
from shards.storage.objects import name_of


@dataclass(frozen=True)
class HeightRaster:
    """Name and grid of a raster."""

    url: str
    grid: Grid
    header: HeightHeader

    @classmethod
    def at(cls, url: str, band: int | None = None, said: HeightUnit | None = None) -> "HeightRaster":
        """Read the header of the raster at `url`.

        Args:
            url: path or s3://...
            band: number of the band that holds heights; default: the only one.
            said: unit of heights that the user says.

        Raises:
            InputError: it is missing, is not a raster of heights, has no CRS, or is in another unit.
        """
        with open_raster(url) as raster:
            return cls(url, Grid.of(raster), HeightHeader.read(url, raster, band, said))


class HeightRasters:
    """Rasters of heights or elevations."""

    def __init__(self, urls: Iterable[str], band: int | None = None, said: HeightUnit | None = None) -> None:
        """Read the header of each raster; see `HeightRaster.at`.

        Raises:
            InputError: a raster cannot be used.
        """
        with ThreadPoolExecutor(HEADERS) as pool:
            self.rasters = list(pool.map(partial(HeightRaster.at, band=band, said=said), by_name(urls)))
        self._open = OpenRasters()  # closes rasters when it drops them

    @classmethod
    def opened(cls, rasters: Iterable[HeightRaster], files: OpenRasters) -> "HeightRasters":
        """Take rasters whose headers have been read, in the order in which they count, and open files."""
        found = cls(())
        found.rasters, found._open = list(rasters), files
        return found

    @property
    def urls(self) -> list[str]:
        """URLs of the rasters, in the order in which they count."""
        return [raster.url for raster in self.rasters]

    def near(
        self, grid: Grid, rows: range, columns: range, among: list[HeightRaster] | None = None
    ) -> list[HeightRaster]:
        """Select the rasters that may have values in a rectangle of `grid`: all that do, and few others."""
        rasters = self.rasters if among is None else among
        row_points, column_points = (np.linspace(span.start, span.stop, SPREAD) for span in (rows, columns))
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
            mean_HW = area_means(partial(self._metres, raster), raster.grid, areas[crs], open_HW)
            height_HW[open_HW] = mean_HW[open_HW]
        return height_HW

    def _metres(self, one: HeightRaster, window: Window) -> NDArray[np.float64]:
        """Read a window in metres, with scale and offset applied; NaN where the raster has no value."""
        raster, place = self._open[one.url], one.header.band - 1
        marks = Missing.of(raster, [one.header.band], NODATA if raster.nodatavals[place] is None else None)
        stored_1HW, missing_1HW = marks.read(window)
        values_HW: NDArray[np.float64] = stored_1HW[0].astype(np.float64) * raster.scales[place]
        values_HW += raster.offsets[place]
        values_HW *= one.header.unit.metres
        values_HW[missing_1HW[0]] = np.nan
        return values_HW


def by_name(urls: Iterable[str]) -> list[str]:
    """Sort URLs by file name, and by folder where names are equal; drop duplicates."""
    return sorted(set(urls), key=lambda url: (name_of(url), url))
