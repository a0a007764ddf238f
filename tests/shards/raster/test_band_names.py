"""Bands are found by their names, and by what other producers call the same band."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rasterio.enums import ColorInterp

from shards.errors import InputError
from shards.raster.band_names import band_names, named_bands, numbers_of_bands
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


def coloured(path: Path, colours: str, dtype: str = "int16", descriptions: tuple[str, ...] = ()) -> str:
    """A raster whose bands have these colour interpretations: "r g b u a" and the like."""
    kinds = {"r": "red", "g": "green", "b": "blue", "n": "nir", "u": "undefined", "a": "alpha"}
    named = [ColorInterp[kinds[letter]] for letter in colours.split()]
    place = {"crs": "EPSG:3338", "transform": Affine(2, 0, 0, 0, -2, 0)}
    shape = {"count": len(named), "height": 4, "width": 4, "dtype": dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place) as raster:
        raster.colorinterp = named
        if descriptions:
            raster.descriptions = descriptions
        raster.write(np.ones((len(named), 4, 4), dtype))
    return str(path)


ORDER = ("red", "green", "blue", "nir")
BY_COLOURS = "bands have no names; taken as red green blue nir by their colours"


@pytest.mark.parametrize(
    ("colours", "dtype", "expected", "names", "assumed"),
    [
        ("r g b", "int16", (), ORDER[:3], ""),
        ("r g b u", "int16", (), ORDER, BY_COLOURS),
        ("r g b u", "int16", WANTED, ORDER, BY_COLOURS),
        ("r g b u a", "int16", WANTED, (*ORDER, "alpha"), BY_COLOURS),
        ("r g b n", "int16", WANTED, ORDER, ""),
        ("n r g", "int16", ("NIR1", "red", "green"), ("nir", "red", "green"), ""),
        ("r g b a", "uint8", (), ORDER, BY_COLOURS),  # as GDAL calls any four bands of bytes
        ("r g b a", "uint8", ORDER[:3], (*ORDER[:3], "alpha"), ""),
        ("b g r u", "int16", (), WANTED, "bands have no names; taken as blue green red nir by their colours"),
        (
            "r g b",
            "uint8",
            ("nir", "red", "green"),
            ("nir", "red", "green"),
            "bands have no names; taken as nir red green in this order, although their colours are red green "
            "blue",
        ),
        ("u u u u", "int16", (), WANTED, "bands have no names; taken as blue green red nir in this order"),
        ("u u", "int16", ("vv", "vh"), ("vv", "vh"), "bands have no names; taken as vv vh in this order"),
        ("r r b u", "int16", (), WANTED, "bands have no names; taken as blue green red nir in this order"),
    ],
)
def test_bands_without_names_are_named_by_their_colours(
    tmp_path: Path,
    colours: str,
    dtype: str,
    expected: tuple[str, ...],
    names: tuple[str, ...],
    assumed: str,
) -> None:
    """What neither the user nor the file states is said."""
    with open_raster(coloured(tmp_path / "a.tif", colours, dtype)) as raster:
        assert named_bands(raster, (), expected) == (names, assumed)
        assert named_bands(raster, tuple("abcde")[: raster.count]).assumed == ""


def test_eight_bands_without_names_may_be_another_producers(tmp_path: Path) -> None:
    """They are taken as WorldView's, and the cure has the names of PlanetScope's."""
    with open_raster(coloured(tmp_path / "a.tif", " ".join("u" * 8), "uint16")) as raster:
        (finding,) = named_bands(raster, ()).findings()
        given = finding.cure.rpartition("--bands ")[2].split()
        assert not named_bands(raster, given).findings()
        assert numbers_of_bands("a.tif", given, WANTED) == [2, 4, 6, 8]
    with open_raster(coloured(tmp_path / "b.tif", "u u u u", "uint16")) as raster:
        (finding,) = named_bands(raster, ()).findings()
        assert finding.cure == "if they are others, give --bands"


def test_descriptions_come_before_colours(tmp_path: Path) -> None:
    with open_raster(coloured(tmp_path / "a.tif", "r g b", "uint8", ("nir", "red", "green"))) as raster:
        assert named_bands(raster, ()) == (("nir", "red", "green"), "")


def test_colours_that_contradict_the_usual_order_leave_names_to_the_user(tmp_path: Path) -> None:
    with (
        open_raster(coloured(tmp_path / "a.tif", "r g b u u u u u")) as raster,
        pytest.raises(InputError, match="8 bands; name them with --bands"),
    ):
        named_bands(raster, ())
