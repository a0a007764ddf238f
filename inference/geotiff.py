"""Writes a map block by block, in any order, and finishes it into a Cloud-Optimised GeoTIFF."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window

from inference.block import DECIMETRES, NODATA
from inference.windows import Block
from shards.storage import staged

TILE = 512
WriteBlock = Callable[[Block, NDArray[np.int16]], None]


@contextmanager
def map_writer(url: str, scene: Any, tags: dict[str, str]) -> Iterator[WriteBlock]:
    """write(block, decimetres_HW); the map appears at `url`, whole, when the block of code ends well.

    Args:
        url: of the map.
        scene: the open raster whose grid the map has.
        tags: kept in the map's metadata.
    """
    profile = {
        "driver": "GTiff",
        "dtype": "int16",
        "count": 1,
        "nodata": NODATA,
        "width": scene.width,
        "height": scene.height,
        "crs": scene.crs,
        "transform": scene.transform,
        "tiled": True,
        "blockxsize": TILE,
        "blockysize": TILE,
        "bigtiff": "IF_SAFER",
    }
    with staged(url) as path:
        tiles = path.with_name(f"{path.name}.tiles.tif")
        try:
            with rasterio.open(tiles, "w", **profile) as target:
                target.descriptions = ("canopy height",)
                # What is stored times the scale is metres.
                target.units, target.scales = ("m",), (1 / DECIMETRES,)
                target.update_tags(**tags)

                def write(block: Block, decimetres_HW: NDArray[np.int16]) -> None:
                    size = len(block.columns), len(block.rows)
                    target.write(
                        decimetres_HW, 1, window=Window(block.columns.start, block.rows.start, *size)
                    )

                yield write
            rasterio.shutil.copy(
                tiles,
                path,
                driver="COG",
                compress="deflate",
                predictor="yes",
                blocksize=TILE,
                overview_resampling="average",
                bigtiff="IF_SAFER",
            )
        finally:
            tiles.unlink(missing_ok=True)
