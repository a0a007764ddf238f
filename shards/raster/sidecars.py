"""Files beside a raster: overviews and masks that are rasters themselves, and statements that are not read.

GDAL opens .ovr and .msk by their content, whatever that names, so they are looked at before it does. What
.aux.xml states belongs into the raster itself, and is never passed over in silence where it matters.
"""

import os
from collections.abc import Iterator
from typing import Any

from shards.errors import InputError
from shards.raster.virtual import check_raster
from shards.storage.objects import beginning_with, is_local, local_path

RASTERS = (".ovr", ".msk", ".msk.ovr")
"""Endings of rasters beside a raster."""
AUXILIARY = ".aux.xml"
_MOST_BYTES = 1 << 20


def check_sidecars(url: str, raster: Any) -> None:
    """Refuse a raster with a file beside it that is not what it should be, or says what is not read.

    Args:
        url: the raster's URL.
        raster: the raster, none of whose overviews and masks has been asked for.

    Raises:
        InputError: says which file, and what to do.
    """
    for beside in _beside(url):
        lower = beside.lower()
        if lower.endswith(RASTERS):
            check_raster(beside)
        elif lower.endswith(".aux"):
            raise InputError(f"{beside}: files of this kind beside a raster are not read; move it elsewhere")
        elif lower.endswith(AUXILIARY) and is_local(url):
            _check_stated(beside, raster)


def _beside(url: str) -> Iterator[str]:
    """Yield the files that belong to a raster by their names."""
    stem = url.rpartition(".")[0] or url
    endings = (*RASTERS, AUXILIARY, ".aux")
    if is_local(url):
        names = {base + one for base in (url, stem) for ending in endings for one in (ending, ending.upper())}
        yield from (name for name in sorted(names) if os.path.lexists(local_path(name)))
        return
    yield from (name for name in beginning_with(f"{stem}.") if name.lower().endswith(endings))


def _check_stated(beside: str, raster: Any) -> None:
    """Refuse a raster if the file beside it states what the raster itself does not say."""
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
            f"{beside}: states {' and '.join(said)}, and such files beside a raster are not read; put it "
            "into the raster (gdal_translate IN.tif OUT.tif)"
        )
