"""Numbers of patches as maps of tiles, and as GeoTIFFs on the tiles' grids."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from inference.attention.tiles import Tile
from inference.tiling.windows import Block
from shards.storage.objects import staged

BLOCK = 256
"""Side of a GeoTIFF's blocks, in pixels."""
ROWS = 64
"""Rows of patches that are written at a time."""


@dataclass(frozen=True, eq=False)
class PatchMap:
    """A tile's patches: a few numbers each, NaN where a patch is not attended to."""

    tile: Tile
    patch_size: int
    values_KRC: NDArray[np.float32]
    """Numbers by band, row and column of patches."""

    @classmethod
    def empty(cls, tile: Tile, patch_size: int, bands: int) -> "PatchMap":
        """Make a map without values."""
        shape = bands, -(-tile.height // patch_size), -(-tile.width // patch_size)
        return cls(tile, patch_size, np.full(shape, np.nan, np.float32))

    def put(self, block: Block, values_KN: NDArray[np.float32]) -> None:
        """Lay down the patches of a window, row by row; what reaches beyond the tile's end is left out."""
        side = round(values_KN.shape[1] ** 0.5)
        row, column = block.rows.start // self.patch_size, block.columns.start // self.patch_size
        place_KRC = self.values_KRC[:, row : row + side, column : column + side]
        place_KRC[:] = values_KN.reshape(-1, side, side)[:, : place_KRC.shape[1], : place_KRC.shape[2]]

    def sampled(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return the values (K, *shape) at pixels spread evenly over the tile."""
        rows, columns = (
            ((np.arange(count) + 0.5) * length / count).astype(int) // self.patch_size
            for count, length in zip(shape, (self.tile.height, self.tile.width), strict=True)
        )
        return self.values_KRC[:, rows][:, :, columns]

    def write(self, url: str, names: tuple[str, ...], tags: dict[str, str]) -> None:
        """Write a float32 GeoTIFF on the tile's grid: each pixel has the value of its patch, or NaN."""
        tile, side = self.tile, self.patch_size
        profile = {
            "driver": "GTiff",
            "dtype": "float32",
            "count": len(names),
            "nodata": np.nan,
            "width": tile.width,
            "height": tile.height,
            "crs": tile.crs,
            "compress": "deflate",
            "tiled": True,
            "blockxsize": BLOCK,
            "blockysize": BLOCK,
            "interleave": "band",
            "bigtiff": "IF_SAFER",
        }
        if tile.transform != Affine.identity():  # a chip without a position has none
            profile["transform"] = tile.transform
        with staged(url) as path, _unwarned(), rasterio.open(path, "w", **profile) as target:
            target.descriptions = names
            target.update_tags(**tags)
            for first in range(0, self.values_KRC.shape[1], ROWS):
                some_KRC = self.values_KRC[:, first : first + ROWS]
                pixels_KHW = some_KRC.repeat(side, 1).repeat(side, 2)
                top = first * side
                pixels_KHW = pixels_KHW[:, : tile.height - top, : tile.width]
                window = Window(0, top, tile.width, pixels_KHW.shape[1])
                target.write(pixels_KHW, window=window)


@contextmanager
def _unwarned() -> Iterator[None]:
    """Write rasters without a place in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
