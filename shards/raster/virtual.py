"""Virtual rasters (.vrt): what they may be made of. GDAL follows whatever their text names.

Sources are regular files of this machine in a format that is read, and each is looked at as if it were given
itself. Elements that are unknown here are refused: among them raw bands, which show any file as pixels, and
functions in Python, which run.
"""

import os
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import rasterio
from rasterio.errors import RasterioError

from shards.addresses import GDAL
from shards.errors import InputError, one_line
from shards.foreign_text import visible
from shards.raster.formats import is_virtual, open_by_driver
from shards.storage.gdal import gdal_path
from shards.storage.limits import Limit
from shards.storage.objects import version_of

VRT_BYTES = Limit("TREELINE_MAX_VRT_BYTES", 32 << 20, "bytes of a virtual raster's text")
"""32 MiB: a mosaic of some 30,000 scenes."""
DEEPEST = 8
"""Virtual rasters made of virtual rasters, at most."""

_CURE = "write it as GeoTIFF where it was made (gdal_translate IN.vrt OUT.tif)"
_SOURCES = {"SourceFilename", "SourceDataset"}
_DATASET = (
    "VRTDataset SRS GeoTransform Metadata MDI VRTRasterBand MaskBand NoDataValue HideNoDataValue ColorInterp "
    "ColorTable Entry CategoryNames Category Description UnitType Offset Scale Histograms HistItem HistMin "
    "HistMax BucketCount IncludeOutOfRange Approximate HistCounts BlockXSize BlockYSize OverviewList "
    "GCPList GCP"
)
_SIMPLE = (
    "SimpleSource ComplexSource AveragedSource NoDataFromMaskSource KernelFilteredSource Kernel Size Coefs "
    "SourceBand SourceProperties SrcRect DstRect NODATA UseMaskBand ScaleOffset ScaleRatio Exponent SrcMin "
    "SrcMax DstMin DstMax Clamp LUT ColorTableComponent MaskValueThreshold RemappedValue"
)
_WARPED = (
    "GDALWarpOptions WarpMemoryLimit ResampleAlg WorkingDataType Option Options Transformer "
    "ApproxTransformer MaxError BaseTransformer GenImgProjTransformer SrcGeoTransform "
    "SrcInvGeoTransform DstGeoTransform DstInvGeoTransform ReprojectTransformer "
    "ReprojectionTransformer SourceSRS TargetSRS BandList BandMapping SrcNoDataReal SrcNoDataImag "
    "DstNoDataReal DstNoDataImag SrcAlphaBand DstAlphaBand InitDest Reversed GCPTransformer "
    "TPSTransformer Order RefineTolerance MinimumGcps"
)
_KNOWN = {*_DATASET.split(), *_SIMPLE.split(), *_WARPED.split(), *_SOURCES}
_KINDS = {"", "VRTSourcedRasterBand", "VRTWarpedDataset", "VRTWarpedRasterBand"}
"""Values of subClass: plain bands and warped ones."""


def check_virtual(path: str, depth: int = 1) -> None:
    """Refuse the virtual raster at `path` if it is made of anything but rasters of this machine.

    Args:
        path: a local path.
        depth: number of virtual rasters around it, with itself.

    Raises:
        InputError: says what it has, and what to do.
    """
    if depth > DEEPEST:
        raise InputError(f"{path}: virtual rasters of virtual rasters, more than {DEEPEST} deep; {_CURE}")
    try:
        known = os.stat(path)
    except OSError:
        return  # the driver says so
    _checked(path, known.st_mtime_ns, known.st_size, depth)


@lru_cache(maxsize=4096)
def _checked(path: str, changed: int, size: int, depth: int) -> None:
    """See `check_virtual`; `changed` and `size` make the cache forget a file that was written again."""
    VRT_BYTES.check(path, size)
    try:
        # Its parser, Expat, follows no entity to a file and limits how far entities unfold.
        root = ElementTree.fromstring(Path(path).read_bytes())  # noqa: S314
    except (ElementTree.ParseError, ValueError, LookupError, OSError, RecursionError) as error:
        raise InputError(f"{path}: is damaged or no virtual raster ({one_line(error)}); {_CURE}") from error
    for element in root.iter():
        name = str(element.tag)
        kind = element.get("subClass", "")
        if name not in _KNOWN or kind not in _KINDS:
            what = f"{name} of the kind {visible(kind)}" if name in _KNOWN else visible(name)
            raise InputError(f"{path}: has {what}, which virtual rasters may not have here; {_CURE}")
        if "OVERVIEW_FILE" in element.attrib.values():
            raise InputError(f"{path}: names a file of overviews, which is not followed; {_CURE}")
        if name in _SOURCES:
            _check_source(path, element, depth)


def _check_source(path: str, element: ElementTree.Element, depth: int) -> None:
    name = (element.text or "").strip()
    is_beside = element.get("relativeToVRT", element.get("relativetoVRT", "0")) == "1"
    source = os.path.join(os.path.dirname(path), name) if is_beside else name
    if not os.path.isfile(source) or source.startswith(GDAL):
        raise InputError(
            f"{path}: its source {visible(name)} is no file of this machine; give that raster itself, "
            f"or {_CURE}"
        )
    check_source(source, depth)


def check_source(source: str, depth: int) -> None:
    """Refuse a local file that a virtual raster is made of if it could not be given itself.

    Raises:
        InputError: it is none of the formats that are read.
    """
    if is_virtual(source):
        check_virtual(source, depth + 1)
        return
    check_raster(source)


def check_raster(url: str) -> None:
    """Refuse a raster that GDAL would open by itself if it could not be given.

    Raises:
        InputError: its format is none that is read, or it names a file of overviews.
    """
    _check_raster(url, version_of(url))


@lru_cache(maxsize=1 << 16)
def _check_raster(source: str, version: str) -> None:
    try:
        # Otherwise, while it is opened, GDAL would look for files beside it.
        with (
            rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE"),
            open_by_driver(gdal_path(source), source) as raster,
        ):
            check_overviews(source, raster)
    except RasterioError as error:
        raise InputError(
            f"{source}: cannot be read as a raster ({one_line(error.__cause__ or error)})"
        ) from error


def check_overviews(url: str, raster: rasterio.DatasetReader) -> None:
    """Refuse a raster whose tags say that its overviews are in another file: GDAL would open any.

    Raises:
        InputError: says so.
    """
    if "OVERVIEW_FILE" in raster.tags(ns="OVERVIEWS"):
        raise InputError(
            f"{url}: names a file of overviews, which is not followed; write it again "
            "(gdal_translate IN OUT.tif)"
        )
