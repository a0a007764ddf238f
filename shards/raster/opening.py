"""Opening of rasters from any storage, by named drivers and without files beside them."""

import os
import warnings
from collections import OrderedDict
from typing import Any

from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from shards.errors import InputError, one_line
from shards.raster.formats import is_virtual, open_by_driver, other_format
from shards.raster.gdal_advice import assign_bounds, assign_crs
from shards.raster.sidecars import check_sidecars
from shards.raster.virtual import check_overviews, check_virtual
from shards.storage.gdal import gdal_path
from shards.storage.objects import is_local, local_path

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
        InputError: there is no raster, its format is none of shards.raster.formats, its numbers are complex,
            something beside it matters, or it has no place although it needs one.
    """
    path = gdal_path(url)
    if is_local(url):
        _check_regular(url)
    if is_virtual(url):
        if not is_local(url):
            raise InputError(f"{url}: virtual rasters are read from local paths alone; give their rasters")
        check_virtual(path)
    try:
        raster = open_by_driver(path, url)
    except RasterioIOError as error:
        why = one_line(error.__cause__ or error)
        cure = f"; {other_format()}" if "not recognized as being in a supported" in why else ""
        raise InputError(f"{url}: cannot be read as a raster ({why}){cure}") from error
    try:
        if why := _complex(raster):
            raise InputError(f"{url}: {why}")
        check_overviews(url, raster)
        check_sidecars(url, raster)
        if needs_crs and (why := _placeless(raster)):
            raise InputError(f"{url}: {why}")
    except BaseException:
        raster.close()
        raise
    return raster


def _check_regular(url: str) -> None:
    """Refuse what is no file: GDAL would wait for a pipe."""
    path = local_path(url)
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise InputError(f"{url}: is {what}; give a raster")


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
