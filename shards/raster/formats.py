"""Formats of rasters that are read, each by the driver that is named: GDAL would choose one by the content.

A file called .tif may hold text that makes another driver read a second file, or ask a server. With named
drivers it is a raster of these formats or none.
"""

import os

import rasterio
from rasterio.errors import RasterioIOError
from rasterio.io import DatasetReader, MemoryFile

from shards.errors import InputError
from shards.storage.gdal import gdal_options

DRIVERS = ("GTiff", "JP2OpenJPEG")
"""GeoTIFF (COG among them) and JPEG 2000."""
VRT = "VRT"
VRT_ENDING = ".vrt"
"""Ending of the names of virtual rasters; nothing with another name is read as one."""
FURTHER_DRIVERS = "TREELINE_GDAL_DRIVERS"
"""Environment variable that names further drivers of GDAL, divided by spaces or commas, e.g. "HFA NITF"."""


def is_virtual(url: str) -> bool:
    """Tell whether a raster is a virtual one, by its name."""
    return url.lower().endswith(VRT_ENDING)


def drivers_of(url: str) -> list[str]:
    """Return the drivers that may open the raster at `url`.

    Raises:
        InputError: the environment names VRT as a further one.
    """
    if is_virtual(url):
        return [VRT]
    further = os.environ.get(FURTHER_DRIVERS, "").replace(",", " ").split()
    if VRT in further:
        raise InputError(
            f"{FURTHER_DRIVERS}: {VRT} is read from files called *{VRT_ENDING} alone; leave it out"
        )
    return [*DRIVERS, *further]


def open_by_driver(path: str, url: str) -> DatasetReader:
    """Open a raster by the drivers that may open it, with what `gdal_options` says.

    Args:
        path: GDAL's name for the raster.
        url: the raster's URL.

    Raises:
        RasterioIOError: none of them can.
    """
    with rasterio.Env(**gdal_options(url)):
        return DatasetReader(path, driver=drivers_of(url))  # rasterio.open() takes a single driver


def open_bytes(file: MemoryFile) -> DatasetReader:
    """Open the raster whose bytes are in memory.

    Raises:
        RasterioIOError: its format is none that is read.
    """
    if not len(file):  # rasterio would make a new one
        raise RasterioIOError("it is empty")
    with rasterio.Env(**gdal_options("")):
        return file.open(driver=drivers_of(""))


def other_format() -> str:
    """Say what to do about a file that none of the drivers opens."""
    return (
        "GeoTIFF, JPEG 2000 and *.vrt are read; for another format, write it as GeoTIFF (gdal_translate IN "
        f"OUT.tif) or name GDAL's driver in {FURTHER_DRIVERS}"
    )
