"""Opens rasters (GeoTIFF and whatever GDAL reads) from any storage, and tells what their bands are."""

import math
import os
import warnings
from collections import OrderedDict
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from shards.errors import InputError, one_line
from shards.storage.gdal import gdal_options, gdal_path

# A raster without a place is refused below, in words of ours.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

CACHE_MB = 128
METRES = {"", "m", "metre", "metres", "meter", "meters"}
"""Units of a band, in lower case, that mean metres; most height rasters name none."""
HEADERS = 16
"""Rasters opened at a time for their headers: of remote ones it is the waiting that takes the time."""
MOST_OPEN = 64
"""Rasters that stay open, see `OpenRasters`."""
PIXEL_SIZE_TOLERANCE = 0.01
"""Images of one dataset may differ so much (as a share) in the width of their pixels."""
KNOWN_BANDS = {
    4: ("blue", "green", "red", "nir"),
    8: ("coastal", "blue", "green", "yellow", "red", "rededge", "nir", "nir2"),
}
"""Bands of WorldView-2/3 images by their number, for rasters that do not name them."""


def bound_cache() -> None:
    """Let GDAL keep so many MB of rasters in this process, unless the user's environment says how many.

    Its own default is a share of the machine's memory. It asks when it first needs to know.
    """
    os.environ.setdefault("GDAL_CACHEMAX", str(CACHE_MB))


def open_raster(url: str) -> Any:
    """The raster at `url`, open for reading; the caller closes it.

    Raises:
        InputError: it is no raster, is not there, or has no CRS.
    """
    path = gdal_path(url)
    try:
        with rasterio.Env(**gdal_options(url)):
            raster = rasterio.open(path)
    except RasterioIOError as error:
        raise InputError(
            f"{url}: cannot be read as a raster ({one_line(error.__cause__ or error)})"
        ) from error
    if raster.crs is None:
        raster.close()
        raise InputError(f"{url}: has no CRS, so its place is unknown; assign one (gdal_edit.py -a_srs ...)")
    return raster


class OpenRasters:
    """Rasters by their URLs, a few open at a time: the one that was not asked for longest is closed first."""

    def __init__(self, most: int = MOST_OPEN) -> None:
        self._most = most
        self._open: OrderedDict[str, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def __getitem__(self, url: str) -> Any:
        """Return the raster, which is open until others have been asked for.

        Raises:
            InputError: it is no raster, is not there, or has no CRS.
        """
        if url not in self._open:
            while len(self._open) >= self._most:
                self._open.popitem(last=False)[1].close()
            self._open[url] = open_raster(url)
        self._open.move_to_end(url)
        return self._open[url]

    def close(self) -> None:
        """Close all that are open."""
        while self._open:
            self._open.popitem()[1].close()


def read_window(raster: Any, **options: Any) -> Any:
    """`raster.read(**options)`.

    Raises:
        InputError: its file ends early or is damaged.
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
    """Whether the values of a band mean something else than is stored."""
    return set(raster.scales) != {1.0} or set(raster.offsets) != {0.0}


def is_as_wide(raster: Any, pixel_size: float) -> bool:
    """Whether its pixels are as wide as that, within a hundredth."""
    return math.isclose(abs(raster.transform.a), pixel_size, rel_tol=PIXEL_SIZE_TOLERANCE)


def band_names(raster: Any, given: tuple[str, ...], expected: tuple[str, ...] = ()) -> tuple[str, ...]:
    """A name for each band: `given`, or their descriptions, or `expected`, or WorldView's by their number.

    Raises:
        InputError: their number fits none of these.
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
