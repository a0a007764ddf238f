"""Bands are found by their names, and by what other producers call the same band."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rasterio.enums import ColorInterp

from shards.errors import InputError
from shards.raster.band_names import band_names, numbers_of_bands
from shards.raster.opening import open_raster

WANTED = ("blue", "green", "red", "nir")


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (WANTED, [1, 2, 3, 4]),
        (("Blue", "Green", "Red", "NIR1"), [1, 2, 3, 4]),
        (("NIR", "R", "G", "B"), [4, 3, 2, 1]),
        (("BAND_C", "BAND_B", "BAND_G", "BAND_Y", "BAND_R", "BAND_RE", "BAND_N", "BAND_N2"), [2, 3, 5, 7]),
        (
            ("coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"),  # SuperDove
            [2, 4, 6, 8],
        ),
        (("Red", "Green", "Blue", "Near Infrared"), [3, 2, 1, 4]),
    ],
)
def test_bands_are_found_by_the_usual_names(names: tuple[str, ...], numbers: list[int]) -> None:
    assert numbers_of_bands("a.tif", names, WANTED) == numbers


def test_the_exact_name_comes_before_its_synonyms() -> None:
    assert numbers_of_bands("a.tif", ("NIR1", "nir"), ("nir",)) == [2]
    assert numbers_of_bands("a.tif", ("nir", "NIR1"), ("NIR1",)) == [2]


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("VV", "VH"), r"a\.tif: lacks band blue and green and red and nir; it has VV VH; .*--bands"),
        (("b", "B", "green", "red", "nir"), r"bands 1 \(b\) and 2 \(B\) can both be blue; .*--bands"),
    ],
)
def test_bands_that_are_not_found_are_named_with_the_cure(names: tuple[str, ...], named: str) -> None:
    with pytest.raises(InputError, match=named):
        numbers_of_bands("a.tif", names, WANTED)


def raster_of(path: Path, descriptions: tuple[str | None, ...], alpha: bool = False) -> str:
    count = len(descriptions)
    place = {"crs": "EPSG:3338", "transform": Affine(2, 0, 0, 0, -2, 0)}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, dtype="int16", height=4, width=4, **place
    ) as raster:
        raster.colorinterp = [ColorInterp.undefined] * (count - alpha) + [ColorInterp.alpha] * alpha
        raster.descriptions = descriptions
        raster.write(np.ones((count, 4, 4), np.int16))
    return str(path)


@pytest.mark.parametrize(
    ("descriptions", "alpha", "names"),
    [
        ((None,) * 4, False, WANTED),
        (("Band 1", "Band 2", "Band 3", "Band 4"), False, WANTED),  # says nothing
        ((None,) * 5, True, (*WANTED, "alpha")),
        (("Red", "Green", "Blue", "NIR", None), True, ("Red", "Green", "Blue", "NIR", "alpha")),
        (("nir", "red", "green", "blue"), False, ("nir", "red", "green", "blue")),
    ],
)
def test_bands_are_named_by_the_file_or_by_their_number(
    tmp_path: Path, descriptions: tuple[str | None, ...], alpha: bool, names: tuple[str, ...]
) -> None:
    with open_raster(raster_of(tmp_path / "a.tif", descriptions, alpha)) as raster:
        assert band_names(raster, ()) == names
