"""Tiles of an array in memory: each of image_BCHW, or windows side by side of image_CHW, row by row."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inference.scenes.array_pixels import array_findings, array_pixels
from shards.errors import InputError
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from shards.raster.finding import Finding


class ArrayTiles:
    """See `inference.embed.tiles.Tiles`."""

    remark = ""

    def __init__(self, image: NDArray[Any], schema: Schema, tile_size: int = 0) -> None:
        """Cut image_CHW into windows of `tile_size` pixels (0: the schema's), or take image_BCHW as it is.

        Raises:
            InputError: the array is not like the images of the schema, or holds no square tile.
        """
        self._schema, self._given = schema, np.asanyarray(image).dtype.name
        image, said = array_pixels(image, schema, may_be_tiles=True), f"an array of shape {image.shape}"
        self._image_BCHW, self._per_row = image, 0
        if image.ndim == 3:
            side = tile_size or schema.chip_size
            bands, rows, columns = len(image), image.shape[1] // side, image.shape[2] // side
            cut_CRSKS = image[:, : rows * side, : columns * side].reshape(bands, rows, side, columns, side)
            self._image_BCHW = cut_CRSKS.transpose(1, 3, 0, 2, 4).reshape(-1, bands, side, side)
            self._per_row = columns
        elif image.shape[2] != image.shape[3] or tile_size not in (0, image.shape[2]):
            raise InputError(f"{said}: its tiles are not cut, so each must be a square of tile_size pixels")
        self.count, self.size = len(self._image_BCHW), self._image_BCHW.shape[-1]
        if not self.count:
            raise InputError(f"{said}: holds no tile of {side} pixels; give a smaller tile_size")
        self.identity: dict[str, Any] = {}

    def findings(self, statistics: Statistics) -> dict[str, tuple[Finding, ...]]:
        """See Tiles."""
        bands = self._image_BCHW.shape[1]
        side_by_side_CHW = self._image_BCHW.transpose(1, 0, 2, 3).reshape(bands, -1, self.size)
        return array_findings(side_by_side_CHW, self._schema, statistics, self._given)

    def columns(self, start: int, stop: int) -> pa.Table:
        """See Tiles; windows have the row and the column of their first pixel, others their number."""
        number_N = np.arange(start, stop)
        if not self._per_row:
            return pa.table({"tile": number_N})
        row_N, column_N = (place_N * self.size for place_N in np.divmod(number_N, self._per_row))
        return pa.table({"row": row_N, "column": column_N})

    def images(self, start: int, stop: int, batch_size: int) -> Iterator[NDArray[Any]]:
        """See Tiles."""
        for first in range(start, stop, batch_size):
            yield self._image_BCHW[first : min(first + batch_size, stop)]
