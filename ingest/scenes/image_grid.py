"""Rasters on an image's grid: the image itself, resampled if need be, and the rasters that serve it."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import CRSError
from rasterio.warp import calculate_default_transform
from rasterio.windows import Window

from ingest.chips.check import HEIGHT_NODATA, UNREADABLE, Rejected
from ingest.config import ScenesConfig
from shards.errors import InputError
from shards.format.schema import Schema
from shards.raster.band_names import band_names, numbers_of_bands
from shards.raster.footprints import Placed
from shards.raster.gdal_advice import convert_to
from shards.raster.grid import Grid
from shards.raster.height_check import band_of
from shards.raster.on_grid import read_on_grid, resampled
from shards.raster.opening import open_raster
from shards.storage.objects import is_local


def open_image(config: ScenesConfig, url: str, opened: ExitStack) -> Any:
    """Open the image, resampled if --crs or --pixel-size ask for it; `opened` closes it.

    Raises:
        InputError: the image cannot be opened or has no CRS, or --crs is not a CRS.
    """
    source = opened.enter_context(open_raster(url))
    if not (config.crs or config.pixel_size):
        return source
    try:
        crs = CRS.from_user_input(config.crs) if config.crs else source.crs
    except CRSError as error:
        raise InputError(f"--crs {config.crs}: not a CRS that GDAL knows; try EPSG:3338") from error
    own = Grid.of(source)
    left, bottom, right, top = own.bounds
    # Of a grid that is turned, the default is for an upright one around it with pixels of its size.
    around = [
        max(1, round(length / side))
        for length, side in zip((right - left, top - bottom), own.sides, strict=True)
    ]
    transform, width, height = calculate_default_transform(
        source.crs, crs, *around, left, bottom, right, top, resolution=config.pixel_size or None
    )
    grid = Grid(crs, transform, height, width)
    nodata = _one_nodata(config, url, source)
    # Without a nodata value, only alpha shows what lies beyond the image's footprint.
    own_alpha = ColorInterp.alpha in source.colorinterp
    values: dict[str, Any] = {"add_alpha": nodata is None and not own_alpha}
    if nodata is not None:
        values |= {"src_nodata": nodata, "nodata": nodata}
    return opened.enter_context(resampled(source, grid, Resampling.bilinear, **values))


def _one_nodata(config: ScenesConfig, url: str, source: Any) -> float | None:
    """Return the one value of missing pixels that resampling leaves out.

    Raises:
        InputError: there are several.
    """
    values = {value for value in (*source.nodatavals, config.nodata) if value is not None}
    if len(values) > 1 and not all(map(math.isnan, values)):
        said = " and ".join(f"{value:g}" for value in sorted(values))
        raise InputError(
            f"{url}: {said} mean missing pixels, and resampling leaves out one value only; make them one "
            'first (gdalwarp -srcnodata "VALUE OF EACH BAND" -dstnodata VALUE IN.tif OUT.tif)'
        )
    return next(iter(values), None)


def source_of(image: Any) -> Any:
    """Return the raster that a resampled image is made from, or the image itself."""
    return getattr(image, "src_dataset", image)


def band_numbers(config: ScenesConfig, url: str, image: Any, schema: Schema) -> list[int]:
    """Return the numbers (from 1) of the image's bands that are kept, in the schema's order.

    Raises:
        InputError: the image lacks a band, or stores another type.
    """
    names = band_names(source_of(image), config.bands, schema.bands)
    if image.dtypes[0] != schema.dtype:
        raise InputError(
            f"{url}: is {image.dtypes[0]} {' '.join(names)}, not {schema.dtype} {' '.join(schema.bands)} as "
            f"the first image; convert it ({convert_to(schema.dtype)})"
        )
    return numbers_of_bands(url, names, schema.bands)


@dataclass(frozen=True)
class GridRaster:
    """An open raster on an image's grid."""

    url: str
    """URL of its file, for messages."""
    data: Any
    """Raster on the image's grid."""
    band: int = 1
    """Number of the band that is read of heights, ground and masks."""
    metres: float = 1.0
    """Length of the unit of its heights."""

    def read(self, indexes: int | list[int], window: Window) -> NDArray[Any]:
        """Read a window: (rows, columns), or with a list of bands (bands, rows, columns).

        Raises:
            Rejected: the file is damaged.
            OSError: the file is remote and cannot be read: damage looks the same as an outage.
        """
        try:
            return read_on_grid(self.data, indexes, window)
        except InputError as error:
            raise trouble(self.url, error) from error


class Layer:
    """Rasters of one kind that serve an image; each is open only while strips reach it."""

    def __init__(
        self,
        image: Any,
        placed: tuple[Placed, ...],
        resampling: Resampling,
        is_mask: bool,
        band: int | None = None,
        metres: Mapping[str, float] | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            image: the open image.
            placed: the rasters.
            resampling: how they come to the image's pixels.
            is_mask: whether they are masks, and not measured values.
            band: number of the band that holds the values; default: the only one.
            metres: length of the unit of values, by URL, where it is not the metre.
        """
        self.image, self.placed, self.resampling, self.is_mask = image, placed, resampling, is_mask
        self._band, self._metres = band, metres or {}
        self._open: dict[int, tuple[ExitStack, GridRaster]] = {}

    def within(self, window: Window) -> Iterator[tuple[int, GridRaster, Window]]:
        """Yield the rasters that reach into `window`, in order: number, raster, and the part it reaches."""
        top, left = window.row_off, window.col_off
        bottom, right = top + window.height, left + window.width
        for number, raster in enumerate(self.placed):
            if raster.bottom <= top:
                self._close(number)
                continue
            first_row, first_column = max(top, raster.top), max(left, raster.left)
            rows = min(bottom, raster.bottom) - first_row
            columns = min(right, raster.right) - first_column
            if min(rows, columns) > 0:
                yield number, self._opened(number), Window(first_column, first_row, columns, rows)

    def close(self) -> None:
        """Close all open rasters."""
        for number in list(self._open):
            self._close(number)

    def _close(self, number: int) -> None:
        if number in self._open:
            self._open.pop(number)[0].close()

    def _opened(self, number: int) -> GridRaster:
        if number not in self._open:
            url = self.placed[number].url
            with ExitStack() as opened:
                raster = _open(url, opened)
                band = 1 if self.is_mask else band_of(url, raster, self._band)
                on_grid = self._on_grid(raster, band, opened)
                found = GridRaster(url, on_grid, band, self._metres.get(url, 1.0))
                self._open[number] = opened.pop_all(), found
        return self._open[number][1]

    def _on_grid(self, raster: Any, band: int, opened: ExitStack) -> Any:
        if self.is_mask:
            # Alpha shows what lies beyond the mask; its nodata value may itself be one of --mask-drop.
            own_alpha = ColorInterp.alpha in raster.colorinterp
            values: dict[str, Any] = {"src_nodata": None, "nodata": None, "add_alpha": not own_alpha}
        else:
            stated = raster.nodatavals[band - 1]
            own = HEIGHT_NODATA if stated is None else stated
            values = {"src_nodata": own, "nodata": HEIGHT_NODATA, "dtype": "float32"}
        return opened.enter_context(resampled(raster, Grid.of(self.image), self.resampling, **values))


def _open(url: str, opened: ExitStack) -> Any:
    try:
        return opened.enter_context(open_raster(url))
    except InputError as error:
        raise trouble(url, error) from error


def trouble(url: str, error: InputError) -> Rejected | OSError:
    """Make the error for a raster that cannot be read, though it could when candidates were listed."""
    if is_local(url):
        return Rejected(UNREADABLE, str(error))
    return OSError(f"{error}; try again, or leave out this raster if it is damaged")
