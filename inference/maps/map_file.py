"""Maps written block by block, in any order, and finished as Cloud-Optimised GeoTIFFs.

with map_writer("maps/scene.chm.tif", Grid.of(raster), (HEIGHT,), tags) as write:
    write(block, stored_CHW)
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import Resampling

from inference.maps.class_colours import MapClass
from inference.tiling.windows import Block
from shards.raster.grid import Grid
from shards.raster.opening import bound_cache
from shards.storage.checksum import checksum
from shards.storage.objects import staged

NODATA = -9999
LARGEST_CLASS = 255
"""Largest number of a class in a map, whose pixels are bytes."""
CLASSES_TAG = "TREELINE_CLASSES"
"""Tag of a map of classes: their names by number, as JSON."""
TILE = 512
DEFLATE_LEVEL = 4
"""Compression level. GDAL's default, 6, is slower than a GPU predicts; this one takes a third of the time
for a tenth more bytes."""
WriteBlock = Callable[[Block, NDArray[Any]], None]


@dataclass(frozen=True)
class MapBand:
    """One band of a map: its stored values times `scale` are in `unit`.

    Overviews hold its mean; for classes, the most frequent one.
    """

    name: str
    unit: str = ""
    scale: float = 1.0
    dtype: str = "int16"
    """Stored type, the same for all bands of a map."""
    nodata: int = NODATA
    """Stored value where there is none."""
    classes: tuple[MapClass, ...] = ()
    """Classes of a map of classes, which has this band alone."""


HEIGHT = MapBand("canopy height", "m", 0.1)
SPREAD = MapBand("spread", "m", 0.01)


@contextmanager
def map_writer(
    url: str, grid: Grid, bands: tuple[MapBand, ...], tags: dict[str, str]
) -> Iterator[WriteBlock]:
    """Yield write(block, stored_CHW); the whole map appears at `url` when the `with` block succeeds.

    NODATA in `stored_CHW` becomes the band's own. The same pixels give the same bytes, whatever the blocks
    and their order.

    Args:
        url: where the map goes.
        grid: pixel grid of the map.
        bands: bands of the map, as in each `stored_CHW`.
        tags: metadata of the map.
    """
    first = bands[0]
    resampling = Resampling.mode if first.classes else Resampling.average
    profile = {
        "driver": "GTiff",
        "dtype": first.dtype,
        "count": len(bands),
        "nodata": first.nodata,
        "width": grid.width,
        "height": grid.height,
        "crs": grid.crs,
        "transform": grid.transform,
        "tiled": True,
        "blockxsize": TILE,
        "blockysize": TILE,
        "interleave": "band",
        "sparse_ok": True,
        "bigtiff": "IF_SAFER",
    }
    options = {"GDAL_TIFF_OVR_BLOCKSIZE": TILE, "SPARSE_OK_OVERVIEW": "YES"}
    bound_cache()
    with rasterio.Env(**options), staged(url) as path:
        tiles, written = path.with_name(f"{path.name}.tiles.tif"), list[tuple[Block, int]]()
        try:
            with rasterio.open(tiles, "w", **profile) as target:
                target.descriptions = tuple(band.name for band in bands)
                target.units = tuple(band.unit for band in bands)
                target.scales = tuple(band.scale for band in bands)
                target.update_tags(**tags)
                if first.classes:
                    target.write_colormap(1, {one.number: one.colour for one in first.classes})

                def write(block: Block, stored_CHW: NDArray[Any]) -> None:
                    stored_CHW = as_stored(stored_CHW, first)
                    target.write(stored_CHW, window=block.window)
                    written.append((block, checksum(stored_CHW.tobytes())))

                yield write
            # Overviews are built here, band by band: for several bands the COG driver takes memory that grows
            # with the map.
            with rasterio.open(tiles, "r+") as target:
                for block, digest in written:
                    # rasterio raises no error where the disk is full when GDAL empties its cache.
                    if checksum(target.read(window=block.window).tobytes()) != digest:
                        raise OSError(f"{tiles}: could not be written; is the disk full?")
                target.build_overviews(_overviews(grid), resampling)
            rasterio.shutil.copy(
                tiles,
                path,
                driver="COG",
                compress="deflate",
                level=DEFLATE_LEVEL,
                predictor="yes",
                blocksize=TILE,
                overview_resampling=resampling.name,
                bigtiff="IF_SAFER",
            )
        finally:
            tiles.unlink(missing_ok=True)


def as_stored(stored_CHW: NDArray[Any], band: MapBand) -> NDArray[Any]:
    """Return numbers as a file of this band has them, with its own nodata value instead of NODATA."""
    if band.nodata != NODATA:
        stored_CHW = np.where(stored_CHW == NODATA, band.nodata, stored_CHW)
    return stored_CHW.astype(band.dtype, copy=False)


def _overviews(grid: Grid) -> list[int]:
    """List the factors 2, 4, ... by which overviews are coarser; the last overview fits into one tile."""
    tiles = max(grid.height, grid.width) / TILE
    return [2**level for level in range(1, math.ceil(math.log2(tiles)) + 1)] if tiles > 1 else []
