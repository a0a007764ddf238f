"""Commands that mend rasters, for messages: GDAL's own, and rasterio's where GDAL's programs are missing.

    advice("gdalwarp -tr 2 2 IN.tif OUT.tif", "rio -q warp IN.tif OUT.tif --res 2")

rasterio comes with its program `rio`, and without GDAL's.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

WARP = "gdalwarp {crs}-tr {width:.7g} {height:.7g} -r average IN.tif OUT.tif"
RIO_WARP = "rio -q warp IN.tif OUT.tif {crs}--res {width:.7g} --res {height:.7g} --resampling average"
"""With -q: otherwise a result smaller than the file's blocks comes with a harmless warning on Blockxsize."""


def advice(gdal: str, rio: str) -> str:
    """Return a command of GDAL's; if its program is missing, also one of rio's that does the same."""
    if shutil.which(gdal.split()[0]) or not _has_rio():
        return gdal
    return f"{gdal}; or, as {gdal.split()[0]} is not installed here, {rio}"


def resample(crs: str, sides: tuple[float, float]) -> str:
    """Return the command that gives pixels of these sides, in the unit of `crs`; "": the raster's own CRS."""
    width, height = sides
    return advice(
        WARP.format(crs=f"-t_srs {crs} " if crs else "", width=width, height=height),
        RIO_WARP.format(crs=f"--dst-crs {crs} " if crs else "", width=width, height=height),
    )


def loses_names(command: str) -> bool:
    """Tell whether a command, as `resample` writes it, keeps no names of bands: rio's does not."""
    return "rio -q warp" in command


def _edit(gdal: str, rio: str, note: str = "") -> str:
    """Return the command that edits a file in place, also one that is cloud-optimised, as maps are.

    rio refuses those; its plain copy has no names of bands.
    """
    return advice(
        f"gdal_edit.py {gdal} -oo IGNORE_COG_LAYOUT_BREAK=YES FILE",
        f"rio edit-info {rio} FILE{note}; if FILE is cloud-optimised, edit its copy by rio convert FILE "
        "COPY.tif, which has no names of bands",
    )


def declare_nodata(value: float | str) -> str:
    """Return the command that declares a value as nodata; the file's pixels stay."""
    return _edit(f"-a_nodata {value}", f"--nodata {value}")


def declare_alpha(kinds: Sequence[str], number: int) -> str:
    """Return the command that declares a band as alpha, by which pixels are missing.

    Args:
        kinds: names of the colours of all bands.
        number: number of the band, from 1.
    """
    all_kinds = [*kinds[: number - 1], "alpha", *kinds[number:]]
    return _edit(f"-colorinterp_{number} alpha", f"--colorinterp {','.join(all_kinds)}")


def assign_crs() -> str:
    """Return the command that gives a file the CRS that it lacks."""
    return _edit("-a_srs EPSG:...", "--crs EPSG:...")


def assign_bounds() -> str:
    """Return the command that gives a file the place that it lacks."""
    return _edit(
        "-a_ullr LEFT TOP RIGHT BOTTOM",
        '--transform "[WIDTH, 0, LEFT, 0, -HEIGHT, TOP]"',
        ", by the sides of a pixel",
    )


def state_unit(unit: str) -> str:
    """Return the command that states the unit of a file's values."""
    return _edit(f"-units {unit}", f"--units {unit}")


def convert_to(dtype: str) -> str:
    """Return the command that stores pixels as another type; values beyond it are clipped."""
    return advice(
        f"gdal_translate -ot {_GDAL_TYPES[dtype]} IN.tif OUT.tif",
        f"rio convert IN.tif OUT.tif --dtype {dtype}",
    )


def take_band(number: str = "1") -> str:
    """Return the command that takes one band."""
    return advice(
        f"gdal_translate -b {number} IN.tif OUT.tif", f"rio stack IN.tif --bidx {number} -o OUT.tif"
    )


_GDAL_TYPES = {"uint8": "Byte", "int16": "Int16", "uint16": "UInt16", "float32": "Float32"}


def _has_rio() -> bool:
    """Tell whether rio is on the path, or beside this Python."""
    return bool(shutil.which("rio")) or (Path(sys.executable).parent / "rio").exists()
