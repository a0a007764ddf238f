"""Opening of rasters (GeoTIFF and whatever GDAL reads) from any storage, and the names of their bands."""

import math
import os
import warnings
from collections import OrderedDict
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from shards.errors import InputError, one_line
from shards.storage.gdal import gdal_options, gdal_path

# A raster without a place is refused below, with our own message.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

CACHE_MB = 128
METRES = {"", "m", "metre", "metres", "meter", "meters"}
"""Names of a band's unit, in lower case, that mean metres; most height rasters name no unit."""
HEADERS = 16
"""Number of rasters whose headers are read at a time: with remote rasters, waiting takes the time."""
MOST_OPEN = 64
"""Number of rasters that stay open, see `OpenRasters`."""
PIXEL_SIZE_TOLERANCE = 0.01
"""Largest difference (as a share) in pixel width between the images of one dataset."""
KNOWN_BANDS = {
    4: ("blue", "green", "red", "nir"),
    8: ("coastal", "blue", "green", "yellow", "red", "rededge", "nir", "nir2"),
}
"""Bands of WorldView-2/3 images by their number, for rasters that do not name their bands."""


def bound_cache() -> None:
    """Limit GDAL's cache in this process to CACHE_MB, unless the user's environment sets a limit.

    GDAL's own default is a share of the machine's memory. It reads the limit when it first needs it.
    """
    os.environ.setdefault("GDAL_CACHEMAX", str(CACHE_MB))


def open_raster(url: str, needs_crs: bool = True) -> Any:
    """Open the raster at `url` for reading; the caller closes it.

    Raises:
        InputError: there is no raster, or it has no CRS although it needs one.
    """
    path = gdal_path(url)
    try:
        with rasterio.Env(**gdal_options(url)):
            raster = rasterio.open(path)
    except RasterioIOError as error:
        raise InputError(
            f"{url}: cannot be read as a raster ({one_line(error.__cause__ or error)})"
        ) from error
    if needs_crs and raster.crs is None:
        raster.close()
        raise InputError(f"{url}: has no CRS, so its place is unknown; assign one (gdal_edit.py -a_srs ...)")
    return raster


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


def is_as_wide(raster: Any, pixel_size: float) -> bool:
    """Tell whether the raster's pixels are this wide, within PIXEL_SIZE_TOLERANCE."""
    return math.isclose(abs(raster.transform.a), pixel_size, rel_tol=PIXEL_SIZE_TOLERANCE)


def band_names(raster: Any, given: tuple[str, ...], expected: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Name each band: by `given`, the bands' descriptions, `expected`, or WorldView's names for their number.

    Raises:
        InputError: none of these has a name for each band.
    """
    if all(raster.descriptions):
        described: tuple[str, ...] = tuple(raster.descriptions)
    else:
        described = ()
    for names in (given, described, expected, KNOWN_BANDS.get(raster.count, ())):
        if len(names) == raster.count:
            return names
        if names is given and given:
            break
    wanted = f" where {len(given or expected)} are asked for ({' '.join(given or expected)})" * bool(
        given or expected
    )
    raise InputError(f"{raster.name}: has {raster.count} bands{wanted}; name them with --bands")
