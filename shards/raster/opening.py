"""Opening of rasters (GeoTIFF and whatever GDAL reads) from any storage."""

import os
import warnings
from collections import OrderedDict
from typing import Any

import rasterio
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from shards.errors import InputError, one_line
from shards.raster.gdal_advice import assign_bounds, assign_crs
from shards.storage.gdal import gdal_options, gdal_path

# A raster without a place is refused below, with our own message.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

CACHE_MB = 128
HEADERS = 16
"""Number of rasters whose headers are read at a time: with remote rasters, waiting takes the time."""
MOST_OPEN = 64
"""Number of rasters that stay open, see `OpenRasters`."""


def bound_cache() -> None:
    """Limit GDAL's cache in this process to CACHE_MB, unless the user's environment sets a limit.

    GDAL's own default is a share of the machine's memory. It reads the limit when it first needs it.
    """
    os.environ.setdefault("GDAL_CACHEMAX", str(CACHE_MB))


def open_raster(url: str, needs_crs: bool = True) -> Any:
    """Open the raster at `url` for reading; the caller closes it.

    Raises:
        InputError: there is no raster, its numbers are complex, or it has no place although it needs one.
    """
    path = gdal_path(url)
    try:
        with rasterio.Env(**gdal_options(url)):
            raster = rasterio.open(path)
    except RasterioIOError as error:
        raise InputError(
            f"{url}: cannot be read as a raster ({one_line(error.__cause__ or error)})"
        ) from error
    why = _complex(raster) or (_placeless(raster) if needs_crs else "")
    if why:
        raster.close()
        raise InputError(f"{url}: {why}")
    return raster


def _complex(raster: Any) -> str:
    """Say why a raster of complex numbers is refused: only their real parts would be taken."""
    if not any("complex" in dtype for dtype in raster.dtypes):
        return ""
    return f"pixels are {raster.dtypes[0]}; derive one real number first (e.g. the amplitude by gdal_calc.py)"


def _placeless(raster: Any) -> str:
    """Say why a raster has no place on the ground; return "" if it has one."""
    is_placed = raster.transform != Affine.identity()
    if raster.crs is not None and is_placed:
        return ""
    for what, there, option in (
        ("ground control points", raster.gcps[0], "-tps"),
        ("rational polynomials (RPCs)", raster.rpcs, "-rpc"),
    ):
        if there and not is_placed:
            return f"has {what} only, and no grid of pixels; give it one (gdalwarp {option} IN.tif OUT.tif)"
    if raster.crs is not None:
        return (
            f"has a CRS but no geotransform, so its place is unknown; assign its bounds ({assign_bounds()})"
        )
    return f"has no CRS, so its place is unknown; assign one ({assign_crs()})"


class OpenRasters:
    """Rasters by URL, a few open at a time: the least recently used one is closed first."""

    def __init__(self, most: int = MOST_OPEN) -> None:
        self._most = most
        self._open: OrderedDict[str, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def __getitem__(self, url: str) -> Any:
        """Return the raster, open until enough others have been used.

        Raises:
            InputError: there is no raster, or it has no CRS.
        """
        if url not in self._open:
            while len(self._open) >= self._most:
                self._open.popitem(last=False)[1].close()
            self._open[url] = open_raster(url)
        self._open.move_to_end(url)
        return self._open[url]

    def close(self) -> None:
        """Close all open rasters."""
        while self._open:
            self._open.popitem()[1].close()


def read_window(raster: Any, **options: Any) -> Any:
    """Call `raster.read(**options)`.

    Raises:
        InputError: the raster's file is truncated or damaged.
    """
    try:
        return raster.read(**options)
    except RasterioIOError as error:
        window = options.get("window")
        where = f" at row {window.row_off}, column {window.col_off}" if window else ""
        raise InputError(
            f"{raster.name}: cannot be read{where} ({one_line(error.__cause__ or error)})"
        ) from error


def is_scaled(raster: Any) -> bool:
    """Tell whether a band has a scale or an offset, so that its stored values are not its values."""
    return set(raster.scales) != {1.0} or set(raster.offsets) != {0.0}
