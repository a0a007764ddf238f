"""Reading a chip's file, .npy, .npz or .tif, as an array. Nothing is unpickled."""

import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window

from ingest.chips.check import UNREADABLE, WRONG_DTYPE, WRONG_SHAPE, Rejected
from ingest.files.npy import npy_of_chip
from shards.errors import InputError, one_line
from shards.format.schema import Schema
from shards.raster.band_names import KNOWN_BANDS
from shards.raster.formats import open_by_driver, open_bytes
from shards.raster.missing import Missing, mark
from shards.raster.opening import is_scaled
from shards.storage.chip_bytes import read_chip_bytes
from shards.storage.gdal import gdal_path
from shards.storage.objects import is_local

_BAD_ZIP = (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError, ValueError)
LEAST_LIMIT = 64 << 20
"""Bytes of an array, and of its file, that are read whatever the chips should be."""

ENDINGS = (".npy", ".npz", ".tif", ".tiff")


@dataclass(frozen=True)
class ChipPlace:
    """Centre of a raster chip, in its CRS."""

    x: float
    y: float
    crs: str

    def __str__(self) -> str:
        return f"{self.x:.2f} {self.y:.2f} ({self.crs})"


def most_bytes(schema: Schema) -> int:
    """Return how many bytes the array of a chip, or its file, may have: some more than its values take."""
    return max(LEAST_LIMIT, 2 * 8 * math.prod(schema.image_shape))


def read_chip_file(
    url: str, array: str = "", nodata: float | None = None, most: int = LEAST_LIMIT
) -> tuple[NDArray[Any], ChipPlace | None]:
    """Read the array in the file at `url`, and its place if the file says it.

    Args:
        url: an .npy, .npz or .tif file.
        array: name of the array in an .npz; "": the only one.
        nodata: value for the pixels that a raster marks as missing. NaN turns whole numbers into floats; None
            leaves whole numbers as they are. Missing pixels of floats always become NaN.
        most: number of bytes that the file and its array may have, see `most_bytes`.

    Raises:
        Rejected: the file does not exist, cannot be read or is too large, or its type cannot hold `nodata`.
        OSError: remote storage failed.
    """
    if "\0" in url:
        raise Rejected(UNREADABLE, f"{url!r} is no name that a file can have")
    try:
        data = read_chip_bytes(url, most)
    except InputError as error:
        raise Rejected(UNREADABLE, str(error)) from error
    if len(data) > most:
        raise Rejected(WRONG_SHAPE, f"{url} has more than {most:,} bytes, and is no chip")
    ending = url.rpartition(".")[2].lower()
    if ending == "npy":
        return npy_of_chip(data, url).values, None
    if ending == "npz":
        return npy_of_chip(_member(data, url, array, most), url).values, None
    return _read_raster(data, url, nodata, most)


def _member(data: bytes, url: str, array: str, most: int) -> bytes:
    """Extract the .npy file of an array from an .npz."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if not array and len(names) != 1:
                found = ", ".join(name.removesuffix(".npy") for name in names)
                raise Rejected(UNREADABLE, f"{url} holds several arrays ({found}); choose one with --array")
            wanted = f"{array}.npy" if array else names[0]
            if wanted not in names:
                raise Rejected(UNREADABLE, f"{url} holds no array {array!r}")
            if archive.getinfo(wanted).file_size > most:
                raise Rejected(WRONG_SHAPE, f"{url} unpacks to {archive.getinfo(wanted).file_size:,} bytes")
            return archive.read(wanted)
    except (*_BAD_ZIP, OSError) as error:
        raise Rejected(UNREADABLE, f"{url} is truncated or not .npz") from error


def _read_raster(
    data: bytes, url: str, nodata: float | None, most: int
) -> tuple[NDArray[Any], ChipPlace | None]:
    try:
        with MemoryFile(data) as file, open_bytes(file) as raster:
            if raster.subdatasets:  # GDAL reads the first alone
                said = f"{url} holds {len(raster.subdatasets)} images; give each a file of its own"
                raise Rejected(UNREADABLE, f"{said} (gdal_translate -sds)")
            shape = (raster.count, raster.height, raster.width)
            if "complex" in raster.dtypes[0]:
                raise Rejected(WRONG_DTYPE, f"{url} holds complex numbers; make one number of each first")
            if math.prod(shape) * np.dtype(raster.dtypes[0]).itemsize > most:
                raise Rejected(WRONG_SHAPE, f"{url} is {shape}, no chip")
            if is_scaled(raster):
                said = f"{url} says that its values are to be scaled; do it first (gdal_translate -unscale)"
                raise Rejected("scaled", said)
            return _marked(raster, nodata, url), _place(raster)
    except (RasterioError, InputError) as error:
        said = one_line(error.__cause__ or error)
        raise Rejected(UNREADABLE, f"{url} is no raster that can be read ({said})") from error


def place_of(url: str) -> ChipPlace | None:
    """Read a raster chip's place from its header; None if it does not say, or cannot be read."""
    try:
        with open_by_driver(gdal_path(url), url) as raster:
            return _place(raster)
    except RasterioError as error:
        if not is_local(url):
            raise OSError(f"{url}: cannot be read ({one_line(error)})") from error
        return None


def _place(raster: Any) -> ChipPlace | None:
    if raster.crs is None:
        return None
    x, y = raster.transform @ (raster.width / 2, raster.height / 2)
    return ChipPlace(x, y, raster.crs.to_string())


def _marked(raster: Any, nodata: float | None, url: str) -> NDArray[Any]:
    """Read all bands but alpha, and give `nodata` to the pixels that the raster marks as missing."""
    numbers = [number for number, kind in enumerate(raster.colorinterp, 1) if kind != ColorInterp.alpha]
    # GDAL calls the fourth of four bands of bytes alpha unless told otherwise.
    numbers = list(raster.indexes) if raster.count in KNOWN_BANDS else numbers
    marks = Missing.of(raster, numbers)
    values, is_missing = marks.read(Window(0, 0, raster.width, raster.height))
    is_float = values.dtype.kind == "f"
    if not is_missing.any() or (nodata is None and not is_float and not marks.is_marked_apart):
        return values
    if is_float or nodata is None or math.isnan(nodata):
        return np.where(is_missing, np.float32(np.nan), values)
    limits = np.iinfo(values.dtype)
    if not (limits.min <= nodata <= limits.max and nodata == int(nodata)):
        own = next((value for value in raster.nodatavals if value is not None), nodata)
        raise Rejected(
            "other nodata",
            f"{url}: {own:g} is its nodata, and {values.dtype} holds no {nodata:g}; give --nodata {own:g}",
        )
    return mark(values, is_missing, nodata, marks.is_marked_apart)
