"""What is looked at: rasters, or chips of a dataset. Both are tiles, read block by block.

tiles = raster_tiles(("s1/*.tif",), schema, bands)
with tiles[0].opened() as read:
    image_CHW = read(block)  # stored pixels, as in training
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS

from inference.scenes.check import findings_of
from inference.scenes.scene import Scene
from inference.scenes.scene_list import raster_urls
from inference.tiling.windows import Block, Span
from shards.errors import InputError
from shards.format.path_names import check_name
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from shards.raster.finding import Finding
from shards.raster.gdal_advice import assign_crs
from shards.raster.grid import Grid
from shards.read.dataset import Dataset
from shards.storage.objects import stem_of
from shards.write.places import chip_grids

Read = Callable[[Block], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Tile(ABC):
    """A raster or a chip: its name and its place."""

    name: str
    """Name of its files."""
    source: str
    """URL of the raster, or key of the chip."""
    height: int
    """Number of rows."""
    width: int
    """Number of columns."""
    transform: Affine
    crs: CRS | None
    """CRS; None if the tile has no place."""

    @abstractmethod
    def opened(self) -> AbstractContextManager[Read]:
        """Return a context of read(block), which returns image_CHW as stored in training."""

    @property
    def whole(self) -> Block:
        """All pixels."""
        return Block(Span(0, self.height), Span(0, self.width))

    def grid(self, block: Block, shape: tuple[int, int] | None = None) -> Grid:
        """Return the grid of a block, or a coarser one of this shape over the same ground.

        Raises:
            InputError: the tile has no place.
        """
        if self.crs is None:
            raise InputError(
                f"{self.source}: has no CRS, so no raster can be laid beside it; assign one "
                f"({assign_crs()}), or leave out --beside"
            )
        rows, columns = len(block.rows), len(block.columns)
        height, width = shape or (rows, columns)
        corner = self.transform @ Affine.translation(block.columns.start, block.rows.start)
        return Grid(self.crs, corner @ Affine.scale(columns / width, rows / height), height, width)


@dataclass(frozen=True, eq=False)
class RasterTile(Tile):
    """A raster with the bands that the checkpoint was trained on."""

    schema: Schema
    bands: tuple[str, ...]
    """Names of its bands, in order; (): as the file says."""
    nodata: float | None = None
    """Value that means a missing pixel, beside what the file declares."""

    @contextmanager
    def opened(self) -> Iterator[Read]:
        """See Tile.

        Raises:
            InputError: the raster cannot be read.
        """
        with Scene(self.source, self.schema, self.bands, False, self.nodata) as scene:
            yield scene.pixels


@dataclass(frozen=True, eq=False)
class ChipTile(Tile):
    """A chip of a dataset."""

    dataset: Dataset
    chip: int
    """Number of the chip."""

    @contextmanager
    def opened(self) -> Iterator[Read]:
        """See Tile."""
        image_CHW = self.dataset.gather(np.array([self.chip])).image_BCHW[0]
        yield lambda block: image_CHW[
            :, block.rows.start : block.rows.stop, block.columns.start : block.columns.stop
        ]

    def label(self) -> NDArray[np.float32]:
        """Read the chip's label (rows, columns); NaN where it is missing."""
        return np.asarray(self.dataset.gather(np.array([self.chip])).height_BHW[0])


def raster_tiles(
    given: tuple[str, ...], schema: Schema, bands: tuple[str, ...], nodata: float | None = None
) -> list[Tile]:
    """Find the rasters that are named, and read their headers.

    Raises:
        InputError: there is none, one has other bands or values than in training, or two share a name.
    """
    tiles: dict[str, Tile] = {}
    for url in raster_urls(given):
        name = stem_of(url)
        if name in tiles:
            raise InputError(
                f"{url}: has the same name as {tiles[name].source}, and pictures are named after tiles; "
                "rename one of them, or draw them into two folders"
            )
        with Scene(url, schema, bands, False, nodata) as scene:
            height, width = scene.shape
            place = scene.raster.transform, scene.raster.crs
        tiles[name] = RasterTile(name, url, height, width, *place, schema, bands, nodata)
    return list(tiles.values())


def raster_findings(tiles: list[Tile], statistics: Statistics) -> dict[str, tuple[Finding, ...]]:
    """Find what about rasters does not fit the training, by URL, where there is something.

    Raises:
        InputError: a raster cannot be read.
    """
    found: dict[str, tuple[Finding, ...]] = {}
    for tile in tiles:
        if isinstance(tile, RasterTile):
            with Scene(tile.source, tile.schema, tile.bands, False, tile.nodata) as scene:
                if findings := findings_of(scene, statistics) + scene.assumed:
                    found[tile.source] = findings
    return found


def chip_tiles(dataset: Dataset, chips: NDArray[np.int64]) -> list[Tile]:
    """Describe chips of a dataset, given by number.

    Raises:
        InputError: their positions cannot be understood.
    """
    rows = dataset.index.take(chips)
    side = dataset.schema.chip_size
    grids = chip_grids(dataset.url, rows, dataset.schema)
    tiles: list[Tile] = []
    for chip, key, grid in zip(chips.tolist(), rows["key"].to_pylist(), grids, strict=True):
        check_name(key)
        transform, crs = (grid.transform, grid.crs) if grid else (Affine.identity(), None)
        tiles.append(ChipTile(key, key, side, side, transform, crs, dataset, chip))
    return tiles
