"""Maps written block by block, in any order, and finished as Cloud-Optimised GeoTIFFs.

with map_writer("maps/scene.chm.tif", Grid.of(raster), (HEIGHT,), tags) as write:
    write(block, stored_CHW)
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # GDAL's errors have no public name
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from inference.maps.class_colours import MapClass
from inference.maps.cloud_optimised import LARGE, Finish
from inference.tiling.windows import Block
from shards.errors import one_line
from shards.format.manifest import StoredObject
from shards.format.missing import NODATA as NODATA
from shards.raster.grid import Grid
from shards.raster.opening import bound_cache
from shards.storage.checksum import checksum, hexadecimal_of_pieces
from shards.storage.objects import name_of, read_pieces, staged

LARGEST_CLASS = 255
"""Largest number of a class in a map, whose pixels are bytes."""
CLASSES_TAG = "TREELINE_CLASSES"
"""Tag of a map of classes: their names by number, as JSON."""
TILE = 512
DEFLATE_LEVEL = 4
"""Compression level. GDAL's default, 6, is slower than a GPU predicts; this one takes a third of the time
for a tenth more bytes."""
PROBE_BYTES = 1 << 20
"""Bytes that are written to learn why a map could not be written."""
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


def classes_of(raster: Any) -> tuple[MapClass, ...]:
    """Return the classes of an open map of classes, as its tag and its colour table have them."""
    names, colours = json.loads(raster.tags()[CLASSES_TAG]), raster.colormap(1)
    return tuple(MapClass(int(one), str(name), colours[int(one)][:3]) for one, name in names.items())


@contextmanager
def map_writer(
    url: str,
    grid: Grid,
    bands: tuple[MapBand, ...],
    tags: dict[str, str],
    describe: Callable[[StoredObject], None] = lambda stored: None,
) -> Iterator[WriteBlock]:
    """Yield write(block, stored_CHW); the whole map appears at `url` when the `with` block succeeds.

    NODATA in `stored_CHW` becomes the band's own. The same pixels give the same bytes, whatever the blocks
    and their order.

    Args:
        url: where the map goes.
        grid: pixel grid of the map.
        bands: bands of the map, as in each `stored_CHW`.
        tags: metadata of the map.
        describe: called with size and checksum of the map's file when it is whole, before it appears.

    Raises:
        OSError: the map cannot be written, for example to a full disk; or `stop_writing` was called.
    """
    first = bands[0]
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
    bound_cache()
    with staged(url) as path:
        tiles, written = path.with_name(f"{path.name}.tiles.tif"), list[tuple[Block, int]]()
        _WRITING.add(tiles)
        try:
            with _writing(url, tiles):
                target = rasterio.open(tiles, "w", **profile)
            with target:
                target.descriptions = tuple(band.name for band in bands)
                target.units = tuple(band.unit for band in bands)
                target.scales = tuple(band.scale for band in bands)
                target.update_tags(**tags)
                if first.classes:
                    target.write_colormap(1, {one.number: one.colour for one in first.classes})

                def write(block: Block, stored_CHW: NDArray[Any]) -> None:
                    stored_CHW = as_stored(stored_CHW, first)
                    with _writing(url, tiles):
                        target.write(stored_CHW, window=block.window)
                    written.append((block, checksum(stored_CHW.tobytes())))

                yield write
                with _writing(url, tiles):
                    target.close()
            with _writing(url, tiles):
                _check(tiles, written)
                resampling = Resampling.mode if first.classes else Resampling.average
                finish = Finish(
                    str(tiles), str(path), tuple(_overviews(grid)), resampling.name, TILE, DEFLATE_LEVEL
                )
                if grid.width * grid.height * len(bands) < LARGE:
                    finish.run()
                else:
                    finish.run_apart(lambda: tiles in _WRITING)
            digest, nbytes = hexadecimal_of_pieces(read_pieces(str(path)))
            describe(StoredObject(name_of(url), nbytes, digest))
        finally:
            _WRITING.discard(tiles)
            tiles.unlink(missing_ok=True)


_WRITING: set[Path] = set()
"""Maps that are being written, by the files of their tiles."""


def stop_writing() -> None:
    """Have the maps that other threads are writing end within a second, with an error and without a file."""
    _WRITING.clear()


@contextmanager
def _writing(url: str, tiles: Path) -> Iterator[None]:
    """Raise an OSError that names `url` and the reason where the block cannot write `tiles`."""
    try:
        if tiles not in _WRITING:
            raise OSError("was stopped")
        yield
    except (RasterioError, CPLE_BaseError, OSError) as error:
        raise OSError(f"{url}: cannot be written ({_reason(error, tiles)})") from error


def _reason(error: Exception, tiles: Path) -> str:
    """Say why a file cannot be written: GDAL knows that writing failed, but not that the disk is full."""
    try:
        with open(tiles, "ab", buffering=0) as file:
            file.write(bytes(PROBE_BYTES))
            os.fsync(file.fileno())
    except OSError as why:
        return why.strerror or str(why)
    if (free := shutil.disk_usage(tiles.parent).free) < tiles.stat().st_size:  # what was begun is gone again
        return f"{os.strerror(errno.ENOSPC)}: {free / 1e6:,.0f} MB are free"
    return one_line(error.__cause__ or error)


def _check(tiles: Path, written: list[tuple[Block, int]]) -> None:
    """Compare what was written with what is there.

    rasterio raises no error where the disk is full when GDAL empties its cache.
    """
    with rasterio.open(tiles) as target:
        for block, digest in written:
            if tiles not in _WRITING:
                raise OSError("was stopped")
            if checksum(target.read(window=block.window).tobytes()) != digest:
                raise OSError("its pixels are not those that were written; was the disk full?")


def as_stored(stored_CHW: NDArray[Any], band: MapBand) -> NDArray[Any]:
    """Return numbers as a file of this band has them, with its own nodata value instead of NODATA."""
    if band.nodata != NODATA:
        stored_CHW = np.where(stored_CHW == NODATA, band.nodata, stored_CHW)
    return stored_CHW.astype(band.dtype, copy=False)


def _overviews(grid: Grid) -> list[int]:
    """List the factors 2, 4, ... by which overviews are coarser; the last overview fits into one tile."""
    tiles = max(grid.height, grid.width) / TILE
    return [2**level for level in range(1, math.ceil(math.log2(tiles)) + 1)] if tiles > 1 else []
