"""Reads maps on the common grid, whatever grids they have of their own; a few are open at a time.

What is read of a pixel depends on where it is alone, and not on what is read with it.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioIOError, WarpOperationError
from rasterio.warp import reproject
from rasterio.windows import Window

from inference.geotiff import NODATA
from inference.mosaic_grid import EndlessGrid, PlacedMap, meet
from inference.windows import Block, Span
from shards.errors import InputError, one_line
from shards.raster import open_raster, read_window

MOST_OPEN = 64
"""Maps; the one that was not read for longest is closed first."""
WARPED = 512
"""Pixels along each side of what is resampled at a time."""


@dataclass(frozen=True)
class Pixels:
    """What a map has in a window of the grid."""

    height_HW: NDArray[np.float32]
    """Decimetres, NaN where there is none."""
    spread_HW: NDArray[np.float32] | None
    """Centimetres, NaN where there is none; None if it was not asked for."""


class OpenMaps:
    """The maps of a mosaic, open while they are needed."""

    def __init__(self, grid: EndlessGrid, most_open: int = MOST_OPEN) -> None:
        self._grid, self._most_open = grid, most_open
        self._open: OrderedDict[str, Any] = OrderedDict()

    def __enter__(self) -> "OpenMaps":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            self._close_oldest()

    def read(self, one: PlacedMap, window: Block, with_spread: bool = False) -> Pixels:
        """The map's pixels in `window` of the grid, which may reach beyond the map.

        Raises:
            InputError: its file is damaged, or gone.
        """
        heights, *spreads = (
            self._band(one, window, number, step)
            for number, step in enumerate((one.map.height_step, one.map.spread_step)[: 1 + with_spread], 1)
        )
        return Pixels(heights, spreads[0] if spreads else None)

    def _band(self, one: PlacedMap, window: Block, number: int, step: float | None) -> NDArray[np.float32]:
        values_HW = np.full((len(window.rows), len(window.columns)), np.nan, np.float32)
        common = meet(window, one.place)
        for piece in _pieces(one, common) if common else ():
            part = meet(piece, window)
            assert part is not None
            read_HW = (
                self._aligned(one, piece, number) if one.is_aligned else self._warped(one, piece, number)
            )
            values_HW[_within(part, window)] = read_HW[_within(part, piece)] * np.float32(step or 1)
        return values_HW

    def _aligned(self, one: PlacedMap, piece: Block, number: int) -> NDArray[np.float32]:
        """Stored values, NaN where there is none."""
        rows, columns = _within(piece, one.place)
        window = Window(columns.start, rows.start, len(piece.columns), len(piece.rows))
        stored_HW = read_window(self._opened(one.map.url), indexes=number, window=window)
        return np.where(stored_HW == NODATA, np.nan, stored_HW).astype(np.float32)

    def _warped(self, one: PlacedMap, piece: Block, number: int) -> NDArray[np.float32]:
        """Stored values between four pixels of the map, NaN where the nearest of them has none.

        Band by band: of several together GDAL fills a hole from its edges where another band has none. And
        not by a WarpedVRT, which rasterio 1.4 does not make with a tolerance of 0.
        """
        target = self._grid.part(piece)
        values_HW = np.full((target.height, target.width), np.nan, np.float32)
        try:
            reproject(
                rasterio.band(self._opened(one.map.url), number),
                values_HW,
                src_nodata=NODATA,
                dst_crs=target.crs,
                dst_transform=target.transform,
                dst_nodata=np.nan,
                resampling=Resampling.bilinear,
                tolerance=0,
                # Else GDAL takes them from each piece, and pieces at an edge have others.
                XSCALE=one.scales[0],
                YSCALE=one.scales[1],
            )
        except (WarpOperationError, RasterioIOError) as error:
            raise InputError(
                f"{one.map.url}: cannot be read or resampled ({one_line(error.__cause__ or error)})"
            ) from error
        return values_HW

    def _opened(self, url: str) -> Any:
        if url not in self._open:
            while len(self._open) >= self._most_open:
                self._close_oldest()
            self._open[url] = open_raster(url)
        self._open.move_to_end(url)
        return self._open[url]

    def _close_oldest(self) -> None:
        self._open.popitem(last=False)[1].close()


def _pieces(one: PlacedMap, window: Block) -> Iterator[Block]:
    """What to read of the map for `window`, which lies within its place: if it is resampled, squares that are
    the same for every window, since GDAL may choose another way between two CRSs for another square."""
    if one.is_aligned:
        yield window
        return
    place = one.place
    for rows in _tiles(window.rows, place.rows):
        for columns in _tiles(window.columns, place.columns):
            yield Block(rows, columns)


def _tiles(wanted: Span, whole: Span) -> Iterator[Span]:
    first = wanted.start - (wanted.start - whole.start) % WARPED
    for start in range(first, wanted.stop, WARPED):
        yield Span(start, min(start + WARPED, whole.stop))


def _within(part: Block, whole: Block) -> tuple[slice, slice]:
    """Where `part` is in an array that has the pixels of `whole`."""
    return (
        slice(part.rows.start - whole.rows.start, part.rows.stop - whole.rows.start),
        slice(part.columns.start - whole.columns.start, part.columns.stop - whole.columns.start),
    )
