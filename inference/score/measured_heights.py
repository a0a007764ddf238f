"""Height rasters on the pixels of a map: lidar or radar, read window by window.

    rasters = HeightRasters(urls)                            # opens every raster once, for its header
    near = rasters.near(grid, rows, columns)
    height_HW = rasters.heights(grid, rows, columns, near)   # metres, NaN where there is none

Of several rasters that cover a pixel, the first in the order of names counts.
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
from shards.raster.grid import Grid
from shards.raster.on_grid import Areas, area_means
from shards.raster.opening import HEADERS as HEADERS
from shards.raster.opening import (  # score_maps takes it from here
    METRES,
    OpenRasters,
    open_raster,
    read_window,
)
from shards.storage.objects import name_of

NODATA = -9999
"""Means no measurement also in a raster that does not say so, as when chips are made."""
SAMPLES = 21
"""Points along each side of a rectangle that are seen in another CRS."""


@dataclass(frozen=True)
class HeightRaster:
    """A raster's name and place."""

    url: str
    grid: Grid

    @classmethod
    def at(cls, url: str) -> "HeightRaster":
        """The raster at `url`.

        Raises:
            InputError: it is no raster, is not there, has no CRS, or is not in metres.
        """
        with open_raster(url) as raster:
            unit = raster.units[0] or ""
            if unit.lower() not in METRES:
                raise InputError(
                    f"{url}: says that its values are in {unit!r}; convert it to metres first (of feet: "
                    "gdal_calc.py -A FILE --calc 'A*0.3048' --outfile NEW), or mend what it says "
                    "(rio edit-info --units m)"
                )
            return cls(url, Grid.of(raster))


class HeightRasters:
    """Rasters of heights, or of elevations."""

    def __init__(self, urls: Iterable[str]) -> None:
        """Read the header of each.

        Raises:
            InputError: one cannot be used.
        """
        with ThreadPoolExecutor(HEADERS) as pool:
            self.rasters = list(pool.map(HeightRaster.at, by_name(urls)))
        self._open = OpenRasters()  # which are closed when they are dropped

    @property
    def urls(self) -> list[str]:
        """In the order in which they count."""
        return [raster.url for raster in self.rasters]

    def near(
        self, grid: Grid, rows: range, columns: range, among: list[HeightRaster] | None = None
    ) -> list[HeightRaster]:
        """Those that may have values in a rectangle of `grid`: all that have, and few others."""
        rasters = self.rasters if among is None else among
        row_points, column_points = (np.linspace(span.start, span.stop, SAMPLES) for span in (rows, columns))
        crss = {raster.grid.crs for raster in rasters}
        places = {crs: grid.corners(row_points, column_points, crs) for crs in crss}
        return [raster for raster in rasters if _reaches(places[raster.grid.crs], raster.grid)]

    def heights(
        self, grid: Grid, rows: range, columns: range, near: list[HeightRaster], wanted_HW: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Metres (rows, columns) where they are wanted and a raster has them, else NaN.

        Args:
            grid: whose pixels they are.
            rows: of it.
            columns: of it.
            near: the rasters that may have values there.
            wanted_HW: where.

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
        """(rows, columns) of the first band, by its own scale and offset; NaN where it has no value."""
        raster = self._open[url]
        stored_HW = read_window(raster, indexes=1, window=window, masked=True)
        values_HW: NDArray[np.float64] = (
            stored_HW.data.astype(np.float64) * raster.scales[0] + raster.offsets[0]
        )
        missing_HW = np.ma.getmaskarray(stored_HW) | ~np.isfinite(values_HW)
        if raster.nodata is None:
            missing_HW |= stored_HW.data == NODATA
        values_HW[missing_HW] = np.nan
        return values_HW


def by_name(urls: Iterable[str]) -> list[str]:
    """Each once, in the order of files' names, and of folders for equal names."""
    return sorted(set(urls), key=lambda url: (name_of(url), url))


def _reaches(place_2HW: NDArray[np.float64], grid: Grid) -> bool:
    """Whether what lies between places in the grid's CRS may be on it; it may if one is unknown."""
    if not np.isfinite(place_2HW).all():
        return True
    pixel_2P = grid.pixels(grid.nearest_turn(place_2HW)).reshape(2, -1)
    low, high = pixel_2P.min(1), pixel_2P.max(1)
    # Between the points an edge may bend outwards.
    margin = 2 + 0.02 * (high - low)
    return bool(((low - margin < (grid.width, grid.height)) & (high + margin > 0)).all())
