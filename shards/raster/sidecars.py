"""Files beside a raster (.msk, .aux.xml): not read, and never passed over in silence where they matter.

GDAL opens them by their content, whatever that names. What they say belongs into the raster itself.
"""

from typing import Any

from shards.errors import InputError
from shards.storage.objects import exists, is_local, local_path

MASK = ".msk"
AUXILIARY = ".aux.xml"
_MOST_BYTES = 1 << 20


def check_sidecars(url: str, raster: Any) -> None:
    """Refuse a raster with a file beside it that says which pixels are missing, or what values mean.

    Args:
        url: the raster's URL.
        raster: the raster, opened without what is beside it.

    Raises:
        InputError: says which file, what it states, and how to put that into the raster.
    """
    if exists(url + MASK):
        raise InputError(
            f"{url}{MASK}: masks beside a raster are not read; put it into the raster "
            "(gdal_translate --config GDAL_TIFF_INTERNAL_MASK YES IN.tif OUT.tif)"
        )
    beside = url + AUXILIARY
    if not is_local(url) or not local_path(beside).is_file():
        return
    with local_path(beside).open("rb") as file:
        text = file.read(_MOST_BYTES)
    states = {
        b"<NoDataValue": ("a nodata value", any(value is not None for value in raster.nodatavals)),
        b"<UnitType": ("a unit", any(raster.units)),
        b"<Scale": ("a scale", set(raster.scales) != {1.0}),
        b"<Offset": ("an offset", set(raster.offsets) != {0.0}),
        b"<SRS": ("a CRS", raster.crs is not None),
        b"<GeoTransform": ("a place", not raster.transform.is_identity),
    }
    said = [what for element, (what, is_known) in states.items() if element in text and not is_known]
    if said:
        raise InputError(
            f"{beside}: states {' and '.join(said)}, and files beside a raster are not read; put it into the "
            "raster (gdal_translate IN.tif OUT.tif)"
        )
