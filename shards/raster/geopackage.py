"""GeoPackages: told by their first bytes, so that GDAL's driver for them opens nothing else."""

from pathlib import Path

from shards.errors import InputError
from shards.storage.regular import regular

_SQLITE = b"SQLite format 3\0"
_APPLICATIONS = (b"GPKG", b"GP10", b"GP11")
"""Application ids of GeoPackage 1.2 and later, 1.0 and 1.1, at byte 68 (https://www.geopackage.org/spec/)."""


def check_geopackage(url: str, path: Path) -> None:
    """Refuse the file at `path`, for GDAL, if it is no GeoPackage.

    Args:
        url: the file's URL, for the message.
        path: the file on this machine.

    Raises:
        InputError: it is none, cannot be read, or is called otherwise.
    """
    try:
        with open(path, "rb", opener=regular) as file:
            first = file.read(72)
    except OSError as error:
        raise InputError(f"{url}: cannot be read ({error.strerror or error})") from error
    if path.suffix.lower() != ".gpkg" or not (first.startswith(_SQLITE) and first[68:] in _APPLICATIONS):
        raise InputError(f"{url}: is damaged or no GeoPackage (*.gpkg); write it again")
