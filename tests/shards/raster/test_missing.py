"""One definition says which pixels of a raster are missing, however the file marks them.

- every kind of mark gives the same missing pixels, and the values of the others as they are
- a mask's pixels are marked in whole numbers without losing a measured one
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from shards.format.missing import missing_values
from shards.raster.missing import Missing, mark, nodata_to_store
from shards.raster.opening import open_raster

SIDE = 12
WHOLE = Window(0, 0, SIDE, SIDE)
MISSING_HW = np.zeros((SIDE, SIDE), np.bool_)
MISSING_HW[:4, 3:9] = True
LOWEST = float(np.finfo(np.float32).min)


def measured(dtype: str, bands: int = 4) -> NDArray[Any]:
    """Pixels (bands, rows, columns) of 100 to 227, none of which is missing."""
    return (100 + np.arange(bands * SIDE * SIDE).reshape(bands, SIDE, SIDE) % 128).astype(dtype)


def write(path: Path, image_CHW: NDArray[Any], **profile: Any) -> Path:
    given = {"count": len(image_CHW), "dtype": image_CHW.dtype.name, "height": SIDE, "width": SIDE}
    place = {"driver": "GTiff", "crs": "EPSG:3338", "transform": Affine(2, 0, 0, 0, -2, 0)}
    with rasterio.open(path, "w", **given, **place, **profile) as raster:
        raster.write(image_CHW)
    return path


def by_value(path: Path, value: float, dtype: str, declared: bool) -> Path:
    image_CHW = measured(dtype)
    image_CHW[:, MISSING_HW] = value
    return write(path, image_CHW, nodata=value if declared else None)


def by_mask(path: Path, is_internal: bool) -> Path:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=is_internal):
        write(path, measured("int16"))
        with rasterio.open(path, "r+") as raster:
            raster.write_mask(~MISSING_HW)
    assert is_internal != path.with_name(f"{path.name}.msk").exists()
    return path


def by_alpha(path: Path) -> Path:
    image_CHW = np.concatenate([measured("uint16"), np.where(MISSING_HW, 0, 65535)[None].astype(np.uint16)])
    write(path, np.zeros_like(image_CHW))
    with rasterio.open(path, "r+") as raster:
        raster.colorinterp = [*[ColorInterp.undefined] * 4, ColorInterp.alpha]
        raster.write(image_CHW)
    return path


def by_mask_of_bytes(path: Path) -> Path:
    write(path, measured("uint8"))
    with rasterio.open(path, "r+") as raster:
        raster.colorinterp = [ColorInterp.undefined] * 4
        raster.write_mask(~MISSING_HW)
    return path


MARKED: dict[str, Callable[[Path], Path]] = {
    "nodata of whole numbers": lambda path: by_value(path, -9999, "int16", True),
    "nodata 0": lambda path: by_value(path, 0, "uint16", True),
    "nodata of floats": lambda path: by_value(path, LOWEST, "float32", True),
    "NaN": lambda path: by_value(path, np.nan, "float32", False),
    "infinity": lambda path: by_value(path, -np.inf, "float32", False),
    "lowest float32, undeclared": lambda path: by_value(path, LOWEST, "float32", False),
    "netCDF's fill value, undeclared": lambda path: by_value(path, 9.96921e36, "float32", False),
    "lowest float64, undeclared": lambda path: by_value(path, -1.7976931348623157e308, "float64", False),
    "internal mask": lambda path: by_mask(path, True),
    "mask beside the file": lambda path: by_mask(path, False),
    "mask of bytes": by_mask_of_bytes,
    "alpha band": by_alpha,
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # of the mask's file
@pytest.mark.parametrize("kind", MARKED)
def test_however_a_file_marks_them_the_same_pixels_are_missing(kind: str, tmp_path: Path) -> None:
    with open_raster(str(MARKED[kind](tmp_path / "image.tif"))) as raster:
        stored_BHW, missing_BHW = Missing.of(raster, [1, 2, 3, 4]).read(WHOLE)
        part = Window(2, 1, 7, 5)
        _, of_part_BHW = Missing.of(raster, [3]).read(part)
        several = Window(0, 0, 5, 2), part, Window(3, 3, 1, 9)
        together = Missing.of(raster, [4, 1]).read_all(several)
        apart = [Missing.of(raster, [4, 1]).read(window) for window in several]
    for together_BN, parts in zip(together, zip(*apart, strict=True), strict=True):
        np.testing.assert_array_equal(together_BN, np.hstack([part.reshape(2, -1) for part in parts]))
    np.testing.assert_array_equal(missing_BHW, np.broadcast_to(MISSING_HW, missing_BHW.shape))
    np.testing.assert_array_equal(of_part_BHW[0], MISSING_HW[1:6, 2:9])
    np.testing.assert_array_equal(stored_BHW[:, ~MISSING_HW], measured("int16")[:, ~MISSING_HW])


def test_each_band_may_have_a_nodata_value_of_its_own(tmp_path: Path) -> None:
    image_CHW = measured("int16", bands=2)
    image_CHW[0, 0], image_CHW[1, 0] = -1, -2
    image_CHW[1, 1] = -1  # measured there
    first = write(tmp_path / "image.tif", image_CHW)
    bands = "".join(
        f'<VRTRasterBand dataType="Int16" band="{n}"><NoDataValue>{-n}</NoDataValue><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{first.name}</SourceFilename><SourceBand>{n}</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for n in (1, 2)
    )
    where = "<SRS>EPSG:3338</SRS><GeoTransform>0,2,0,0,0,-2</GeoTransform>"
    (tmp_path / "both.vrt").write_text(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}">{where}{bands}</VRTDataset>'
    )
    with open_raster(str(tmp_path / "both.vrt")) as raster:
        _, missing_BHW = Missing.of(raster, [1, 2]).read(WHOLE)
    assert missing_BHW[:, 0].all()
    assert not missing_BHW[:, 1:].any()


def test_a_value_that_the_user_names_is_missing_too(tmp_path: Path) -> None:
    path = by_value(tmp_path / "image.tif", 0, "int16", declared=False)
    with open_raster(str(path)) as raster:
        assert not Missing.of(raster, [1, 2]).read(WHOLE)[1].any()
        np.testing.assert_array_equal(Missing.of(raster, [2], 0.0).read(WHOLE)[1][0], MISSING_HW)


def test_the_fourth_band_of_bytes_is_a_band_where_it_is_read(tmp_path: Path) -> None:
    """GDAL calls it alpha unless told otherwise."""
    image_CHW = measured("uint8")
    image_CHW[3, 0] = 0
    with open_raster(str(write(tmp_path / "image.tif", image_CHW))) as raster:
        assert raster.colorinterp[3] == ColorInterp.alpha
        assert not Missing.of(raster, [1, 2, 3, 4]).read(WHOLE)[1].any()


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("uint16", 0), ("int16", -9999)])
def test_a_mask_becomes_a_value_that_no_measured_pixel_has(dtype: str, nodata: int, tmp_path: Path) -> None:
    image_CHW = measured(dtype)
    image_CHW[1, 8] = nodata
    write(tmp_path / "image.tif", image_CHW)
    with rasterio.open(tmp_path / "image.tif", "r+") as raster:
        raster.colorinterp = [ColorInterp.undefined] * 4
        raster.write_mask(~MISSING_HW)
    with open_raster(str(tmp_path / "image.tif")) as raster:
        marks = Missing.of(raster, [1, 2, 3, 4])
        stored_BHW, missing_BHW = marks.read(WHOLE)
        assert nodata_to_store(raster, [1, 2, 3, 4], None) == nodata
        stored_BHW = mark(stored_BHW, missing_BHW, nodata, marks.is_marked_apart)
    np.testing.assert_array_equal(missing_values(stored_BHW, nodata), missing_BHW)
    assert (stored_BHW[1, 8] == nodata + 1).all()
    stored_BHW[1, 8] = nodata
    np.testing.assert_array_equal(stored_BHW[:, ~MISSING_HW], image_CHW[:, ~MISSING_HW])
