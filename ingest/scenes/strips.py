"""Strips of an image and of the rasters that serve it, on the image's grid, read from north to south.

    with OpenScene(config, schema, url, serving) as scene:
        strip = scene.strip(row, left, right)          # rows `row` to `row` + chip size
        raw = scene.chip(strip, column)

Rows of the last strip are kept, so that overlapping chips do not read them again. Height rasters are open
only while strips reach them. A pixel's value does not depend on where a strip begins or ends.
"""

from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from ingest.chips.check import HEIGHT_NODATA, INCOMPLETE, Rejected
from ingest.chips.source import Raw
from ingest.config import ScenesConfig
from ingest.scenes.image_grid import GridRaster, Layer, band_numbers, open_image, trouble
from ingest.scenes.scene_matching import Serving
from shards.errors import InputError
from shards.format.scene_names import scene_name
from shards.format.schema import Schema
from shards.raster.missing import Missing, mark, of_band

MASKED = "masked"


class Strip(NamedTuple):
    """Rows of an image, all of the same columns."""

    top: int
    left: int
    image_CHW: NDArray[Any]
    """Pixels as stored; nodata (NaN for floats), if there is one, where one is missing or masked."""
    outside_HW: NDArray[np.bool_]
    """Pixels of which a band is missing."""
    masked_HW: NDArray[np.bool_]
    """Pixels that a mask makes unusable."""
    height_HW: NDArray[np.float32]
    """Heights in metres; NaN where no raster has a value."""
    source_HW: NDArray[np.uint16]
    """Number of the raster that gave the height; the number of rasters where none did."""

    @property
    def bottom(self) -> int:
        """Row after the last."""
        return self.top + len(self.outside_HW)

    @property
    def right(self) -> int:
        """Column after the last."""
        return self.left + int(self.outside_HW.shape[1])

    def cut(self, top: int, left: int, bottom: int, right: int) -> "Strip":
        """Cut out a part, as views."""
        part = np.s_[..., top - self.top : bottom - self.top, left - self.left : right - self.left]
        arrays: list[Any] = [array[part] for array in self[2:]]
        return Strip(top, left, *arrays)

    def above(self, below: "Strip") -> "Strip":
        """Join this strip and the one below it, as a copy."""
        pairs: Any = zip(self[2:], below[2:], strict=True)
        return Strip(self.top, self.left, *(np.concatenate(pair, axis=-2) for pair in pairs))


class OpenScene:
    """An image and the rasters that serve it."""

    def __init__(self, config: ScenesConfig, schema: Schema, url: str, serving: Serving) -> None:
        """Open the image.

        Raises:
            Rejected: a local image cannot be opened.
            OSError: a remote image cannot be opened.
        """
        self.config, self.schema, self.serving = config, schema, serving
        self._opened = ExitStack()
        with ExitStack() as opened:
            try:
                image = open_image(config, url, opened)
                self._bands = band_numbers(config, url, image, schema)
            except InputError as error:
                raise trouble(url, error) from error
            self._image = GridRaster(url, image)
            self._marks = Missing.of(image, self._bands, config.nodata)
            self._heights, self._ground = height_layers(config, schema, image, serving)
            self._masks = Layer(image, serving.masks, Resampling.nearest, is_mask=True)
            for layer in (self._heights, self._ground, self._masks):
                opened.callback(layer.close)
            self._opened = opened.pop_all()
        self._missing = schema.nodata if np.dtype(schema.dtype).kind != "f" else np.nan
        self._last: Strip | None = None

    def __enter__(self) -> "OpenScene":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def strip(self, top: int, left: int, right: int) -> Strip:
        """Read rows `top` to `top` + chip size, columns `left` to `right`; `top` must never decrease.

        Raises:
            Rejected: a local file is damaged there.
            OSError: a remote raster cannot be read.
        """
        bottom, last = top + self.schema.chip_size, self._last
        self._last = None  # a strip that cannot be read is not kept
        if last is None or not (last.top <= top < last.bottom and last.left <= left and right <= last.right):
            strip = self._rows(top, left, bottom, right)
        else:
            strip = last.cut(top, left, min(bottom, last.bottom), right)
            if last.bottom < bottom:
                strip = strip.above(self._rows(last.bottom, left, bottom, right))
        self._last = strip
        return strip

    def chip(self, strip: Strip, column: int) -> Raw:
        """Cut the chip of `strip` whose first column is `column`.

        Raises:
            Rejected: a pixel is missing, and the image has no nodata value to mark it.
        """
        chip = strip.cut(strip.top, column, strip.bottom, column + self.schema.chip_size)
        if self._missing is None and chip.outside_HW.any():
            raise Rejected(INCOMPLETE, "beyond the image's footprint")
        if self._missing is None and chip.masked_HW.any():
            raise Rejected(MASKED, f"{chip.masked_HW.mean():.1%} of image")
        facts: dict[str, Any] = {}
        first = int(chip.source_HW.min())
        if first < len(self.serving.heights):
            facts["source"] = scene_name(self.serving.heights[first].url)
        return Raw(chip.image_CHW, chip.height_HW if self.schema.label else None, facts)

    def _rows(self, top: int, left: int, bottom: int, right: int) -> Strip:
        window = Window(left, top, right - left, bottom - top)
        image_CHW = self._image.read(self._bands, window)
        missing_CHW = self._marks.missing(image_CHW, window)
        outside_HW, masked_HW = np.asarray(missing_CHW.any(0)), self._masked(window)
        if self._missing is not None:
            image_CHW = mark(image_CHW, missing_CHW, self.schema.nodata, self._marks.is_marked_apart)
            image_CHW[:, masked_HW] = self._missing
        height_HW, source_HW = merged(self._heights, window)
        if self.serving.ground:
            height_HW -= merged(self._ground, window)[0]
        return Strip(top, left, image_CHW, outside_HW, masked_HW, height_HW, source_HW)

    def _masked(self, window: Window) -> NDArray[np.bool_]:
        """Tell (rows, columns) where any mask has a value of --mask-drop."""
        masked_HW = np.zeros((window.height, window.width), np.bool_)
        for _, raster, part in self._masks.within(window):
            values_HW, alpha_HW = raster.read([1, raster.data.count], part)
            drop_HW = np.isin(values_HW, self.config.mask_drop) & (alpha_HW > 0)
            masked_HW[_place(part, window)] |= drop_HW
        return masked_HW


def height_layers(config: ScenesConfig, schema: Schema, image: Any, serving: Serving) -> tuple[Layer, Layer]:
    """Return the heights and the ground that serve an open image; the caller closes them."""
    resampling = Resampling.nearest if schema.class_names else Resampling[config.height_resampling]
    heights, ground = (
        Layer(image, placed, resampling, False, config.height_band, serving.metres)
        for placed in (serving.heights, serving.ground)
    )
    return heights, ground


def merged(layer: Layer, window: Window) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Take each pixel from the first raster that has a value; return metres (rows, columns) and its number.

    Where none has a value, metres are NaN and the number is the number of rasters.
    """
    merged_HW = np.full((window.height, window.width), np.nan, np.float32)
    number_HW = np.full(merged_HW.shape, len(layer.placed), np.uint16)
    for number, raster, part in layer.within(window):
        place = _place(part, window)
        is_open_HW = np.isnan(merged_HW[place])
        if is_open_HW.any():
            values_HW = raster.read(raster.band, part)
            take_HW = is_open_HW & ~of_band(values_HW, [HEIGHT_NODATA])
            merged_HW[place][take_HW] = values_HW[take_HW] * np.float32(raster.metres)
            number_HW[place][take_HW] = number
    return merged_HW, number_HW


def _place(part: Window, window: Window) -> tuple[slice, slice]:
    """Return the slices of `part` within an array of `window`."""
    row, column = part.row_off - window.row_off, part.col_off - window.col_off
    return slice(row, row + part.height), slice(column, column + part.width)
