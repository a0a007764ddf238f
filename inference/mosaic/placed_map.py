"""Maps read on the common grid, whatever their own grids; only a few are open at a time."""

from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from inference.maps.map_file import NODATA
from inference.mosaic.common_grid import EndlessGrid, PlacedMap, meet
from inference.tiling.windows import Block
from shards.raster.on_grid import Bilinear
from shards.raster.opening import MOST_OPEN, OpenRasters, read_window


@dataclass(frozen=True)
class Pixels:
    """Pixels of a map in a window of the grid."""

    height_HW: NDArray[np.float32]
    """Heights in decimetres, NaN where there is none."""
    spread_HW: NDArray[np.float32] | None
    """Spreads in centimetres, NaN where there is none; None if they were not asked for."""


class OpenMaps:
    """Maps of a mosaic, open while they are needed."""

    def __init__(self, grid: EndlessGrid, most_open: int = MOST_OPEN) -> None:
        self._grid, self._open = grid, OpenRasters(most_open)

    def __enter__(self) -> "OpenMaps":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def read(self, one: PlacedMap, window: Block, with_spread: bool = False) -> Pixels:
        """Read the map's pixels in `window` of the grid, which may reach beyond the map.

        Raises:
            InputError: the map's file is damaged or gone.
        """
        heights, *spreads = (
            self._band(one, window, number, step)
            for number, step in enumerate((one.map.height_step, one.map.spread_step)[: 1 + with_spread], 1)
        )
        return Pixels(heights, spreads[0] if spreads else None)

    def _band(self, one: PlacedMap, window: Block, number: int, step: float | None) -> NDArray[np.float32]:
        values_HW = np.full((len(window.rows), len(window.columns)), np.nan, np.float32)
        if common := meet(window, one.place):
            values_HW[_within(common, window)] = self._stored(one, number, common) * np.float32(step or 1)
        return values_HW

    def _stored(self, one: PlacedMap, number: int, part: Block) -> NDArray[np.float32]:
        """Read stored values in a part of the map's place, interpolated if unaligned; NaN where none."""
        raster, grid = self._open[one.map.url], self._grid
        if one.is_aligned:
            window = Window.from_slices(*_within(part, one.place))
            stored_HW = read_window(raster, indexes=number, window=window)
            return np.where(stored_HW == NODATA, np.nan, stored_HW).astype(np.float32)
        # Counted from the anchor, not from the place, a pixel's corner has the same bits in every map.
        band = Bilinear(raster, number, NODATA, grid.crs, grid.anchor, one.place.window, one.scales)
        return band.read(part.window)


def _within(part: Block, whole: Block) -> tuple[slice, slice]:
    """Locate `part` in an array that has the pixels of `whole`."""
    return (
        slice(part.rows.start - whole.rows.start, part.rows.stop - whole.rows.start),
        slice(part.columns.start - whole.columns.start, part.columns.stop - whole.columns.start),
    )
