"""Rasters on the pixels of an image: the image itself, resampled if need be, and those that serve it."""

from collections.abc import Iterator
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
from ingest.scenes.scene_matching import Placed
from shards.errors import InputError
from shards.format.schema import Schema
from shards.raster.grid import Grid
from shards.raster.on_grid import read_on_grid, resampled
from shards.raster.opening import band_names, open_raster
from shards.storage.objects import is_local


def open_image(config: ScenesConfig, url: str, opened: ExitStack) -> Any:
    """The image, resampled if --crs or --pixel-size ask for it; `opened` closes it.

    Raises:
        InputError: it cannot be opened, has no CRS, or --crs is none.
    """
    source = opened.enter_context(open_raster(url))
    if not (config.crs or config.pixel_size):
        return source
    try:
        crs = CRS.from_user_input(config.crs) if config.crs else source.crs
    except CRSError as error:
        raise InputError(f"--crs {config.crs}: not a CRS that GDAL knows; try EPSG:3338") from error
    transform, width, height = calculate_default_transform(
        source.crs, crs, source.width, source.height, *source.bounds, resolution=config.pixel_size or None
    )
    grid = Grid(crs, transform, height, width)
    # Without a nodata value, alpha alone tells what lies beyond the image's footprint.
    image = resampled(source, grid, Resampling.bilinear, add_alpha=source.nodata is None)
    return opened.enter_context(image)


def source_of(image: Any) -> Any:
    """The raster that a resampled image is made from, or the image itself."""
    return getattr(image, "src_dataset", image)


def band_numbers(config: ScenesConfig, url: str, image: Any, schema: Schema) -> list[int]:
    """1, 2, ...: the image's bands that are kept, in the schema's order.

    Raises:
        InputError: it lacks one, or stores other values.
    """
    names = band_names(source_of(image), config.bands, schema.bands)
    missing = [name for name in schema.bands if name not in names]
    if missing or image.dtypes[0] != schema.dtype:
        found = f"{image.dtypes[0]} {' '.join(names)}"
        raise InputError(f"{url}: is {found}, not {schema.dtype} {' '.join(schema.bands)} as the first image")
    return [names.index(name) + 1 for name in schema.bands]


@dataclass(frozen=True)
class GridRaster:
    """An open raster, and what to call it if it cannot be read."""

    url: str
    data: Any
    """On the image's grid."""

    def read(self, indexes: int | list[int], window: Window) -> NDArray[Any]:
        """(rows, columns), or with a list of bands (bands, rows, columns).

        Raises:
            Rejected: its file is damaged.
            OSError: it is remote, where damage cannot be told from an outage.
        """
        try:
            return read_on_grid(self.data, indexes, window)
        except InputError as error:
            raise trouble(self.url, error) from error


class Layer:
    """The rasters of one kind that serve an image, each open only while strips reach it."""

    def __init__(self, image: Any, placed: tuple[Placed, ...], resampling: Resampling, is_mask: bool) -> None:
        self.image, self.placed, self.resampling, self.is_mask = image, placed, resampling, is_mask
        self._open: dict[int, tuple[ExitStack, GridRaster]] = {}

    def within(self, window: Window) -> Iterator[tuple[int, GridRaster, Window]]:
        """Those that reach into `window`: number, raster, and the part that it reaches, in their order."""
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
        """Close all that are open."""
        for number in list(self._open):
            self._close(number)

    def _close(self, number: int) -> None:
        if number in self._open:
            self._open.pop(number)[0].close()

    def _opened(self, number: int) -> GridRaster:
        if number not in self._open:
            url = self.placed[number].url
            with ExitStack() as opened:
                raster = GridRaster(url, self._on_grid(_open(url, opened), opened))
                self._open[number] = opened.pop_all(), raster
        return self._open[number][1]

    def _on_grid(self, raster: Any, opened: ExitStack) -> Any:
        if self.is_mask:
            # Alpha tells what lies beyond the mask; its nodata value may be one of those that are dropped.
            own_alpha = ColorInterp.alpha in raster.colorinterp
            values: dict[str, Any] = {"src_nodata": None, "nodata": None, "add_alpha": not own_alpha}
        else:
            own = HEIGHT_NODATA if raster.nodata is None else raster.nodata
            values = {"src_nodata": own, "nodata": HEIGHT_NODATA, "dtype": "float32"}
        return opened.enter_context(resampled(raster, Grid.of(self.image), self.resampling, **values))


def _open(url: str, opened: ExitStack) -> Any:
    try:
        return opened.enter_context(open_raster(url))
    except InputError as error:
        raise trouble(url, error) from error


def trouble(url: str, error: InputError) -> Rejected | OSError:
    """What it means that a raster, which could be opened when candidates were listed, cannot be read."""
    if is_local(url):
        return Rejected(UNREADABLE, str(error))
    return OSError(f"{error}; try again, or leave this raster out if it is damaged")
