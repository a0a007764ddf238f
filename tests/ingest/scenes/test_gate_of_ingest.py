"""What rasters must be before `ingest scenes` makes chips of them: a row for each input, by the command.

- what is not heights is refused with its cure and exit code 2, and nothing stands at --out
- units are converted and said; a grid that is turned or upside down gives the same heights of the same ground
- what may be meant so is noted, and chips are made; honest heights pass without a word
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from in_process import treeline
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.enums import ColorInterp

from ingest.config import ScenesConfig
from ingest.scenes.scenes_source import ScenesSource
from ingest.work import run
from ingest.work.run import ingest as ingest_at
from shards.format.manifest import MANIFEST, read_manifest
from shards.raster.grid import Grid
from shards.raster.height_check import TAKEN_AS_METRES, HeightHeader, height_findings
from shards.raster.opening import open_raster
from shards.read.dataset import open_dataset
from shards.write.change import publish_change

UTM = "EPSG:32605"
SIDE = 128
NORTH_UP = Affine(2, 0, 500_000, 0, -2, 7_200_000)
FEET_GRID = "EPSG:2225"
"""NAD83 / California zone 1, in US survey feet."""

BANDS = ("blue", "green", "red", "nir")

Values = NDArray[Any]


def write(path: Path, values: Values, grid: Affine = NORTH_UP, crs: str = UTM, **said: Any) -> str:
    """A GeoTIFF of (rows, columns) or (bands, rows, columns); `said`: unit, colors, nodata and the like.

    One band is in metres and four bands have names, unless it is said otherwise.
    """
    values_CHW = values if values.ndim == 3 else values[None]
    unit, colors = said.pop("unit", "" if len(values_CHW) > 1 else "m"), said.pop("colors", ())
    names = said.pop("names", BANDS if len(values_CHW) == 4 else ())
    count, height, width = values_CHW.shape
    shape = {"height": height, "width": width, "count": count, "dtype": values_CHW.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=grid, **shape, **said) as raster:
        raster.write(values_CHW)
        raster.units = (unit,) * count
        raster.descriptions = names or (None,) * count
        if colors:
            raster.colorinterp = colors
    return str(path)


def image(folder: Path, grid: Affine = NORTH_UP, crs: str = UTM, side: int = SIDE) -> str:
    values_CHW = np.random.default_rng(0).integers(100, 2000, (4, side, side)).astype(np.int16)
    return write(folder / "scene.tif", values_CHW, grid, crs)


def canopy(tallest: float = 20.0, seed: int = 1, side: int = SIDE) -> Values:
    """Metres of a canopy with gaps: crowns of about five pixels over ground with noise of a decimetre."""
    generator = np.random.default_rng(seed)
    crown_HW = np.kron(generator.random((side // 4, side // 4)), np.ones((4, 4)))
    is_open_HW = np.kron(generator.random((side // 16, side // 16)) < 0.3, np.ones((16, 16)))
    height_HW = tallest * crown_HW**0.5 * (1 - is_open_HW) + generator.normal(0, 0.1, (side, side))
    return np.asarray(height_HW.astype(np.float32))


def ground(low: float = 250.0, high: float = 400.0) -> Values:
    """Elevations of a slope."""
    return np.asarray(np.add.outer(np.linspace(low, high, SIDE), np.linspace(0, 20, SIDE)).astype(np.float32))


def holed(values_HW: Values, value: float) -> Values:
    """The same values with a tenth of them missing, but for a mark that nobody declares."""
    found_HW = values_HW.copy()
    found_HW[: SIDE // 5, : SIDE // 2] = value
    return found_HW


def ingest(folder: Path, *options: str, images: str = "") -> Any:
    given = ("--images", images or image(folder), "--out", "chips", "--chip-size", "32", "--shares", "1")
    return treeline("ingest", "scenes", *given, *options, folder=folder)


def said(done: Any) -> tuple[int, list[str]]:
    """Exit code and notes of a command."""
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("note: ")]


def heights_of(folder: Path) -> dict[str, Values]:
    dataset = open_dataset(str(folder / "chips"))
    keys = dataset.index["key"].to_pylist()
    return dict(zip(keys, dataset.gather(dataset.chips("all")).height_BHW.copy(), strict=True))


def cut(values_HW: Values, key: str) -> Values:
    row, column = map(int, key.split("_")[-2:])
    return values_HW[row : row + 32, column : column + 32]


# --- refused ---


def _swapped(name: str) -> Callable[[Path], tuple[str, ...]]:
    def options(folder: Path) -> tuple[str, ...]:
        heights = write(folder / "lidar.tif", canopy(), names=(name,))
        return "--images", heights, "--heights", image(folder)

    return options


def _alone(values: Values, **said: Any) -> Callable[[Path], tuple[str, ...]]:
    options = said.pop("options", ())
    return lambda folder: ("--heights", write(folder / "lidar.tif", values, **said), *options)


def _above(
    surface: Values, below: Values, units: tuple[str, str] = ("m", "m")
) -> Callable[[Path], tuple[str, ...]]:
    return lambda folder: (
        *("--heights", write(folder / "surface.tif", surface, unit=units[0])),
        *("--ground", write(folder / "ground.tif", below, unit=units[1])),
    )


def _in_feet_of_the_crs(folder: Path) -> tuple[str, ...]:
    """Surface and ground in US survey feet, of which no file says a word but the CRS."""
    grid = Affine(6, 0, 6_000_000, 0, -6, 2_000_000)
    return (
        *("--images", image(folder, grid, FEET_GRID)),
        *("--heights", write(folder / "surface.tif", in_feet(ground() + canopy()), grid, FEET_GRID, unit="")),
        *("--ground", write(folder / "ground.tif", in_feet(ground()), grid, FEET_GRID, unit="")),
    )


def in_feet(values_HW: Values) -> Values:
    return np.asarray((values_HW / 0.3048).astype(np.float32))


REFUSED: dict[str, tuple[Callable[[Path], tuple[str, ...]], str]] = {
    "images and heights exchanged": (
        _swapped("height"),
        "scene.tif: has 4 bands, and heights have one: is it an image?",
    ),
    "images and heights without a name exchanged": (
        _swapped(""),
        "lidar.tif: has 1 band; name them with --bands, or are --images and --heights exchanged?",
    ),
    "heights of two bands": (_alone(np.stack([canopy(), canopy()])), "--height-band"),
    "a band that is not there": (_alone(canopy(), options=("--height-band", "3")), "no --height-band 3"),
    "complex numbers": (_alone(canopy().astype(np.complex64)), "lidar.tif: pixels are complex64"),
    "a picture of colours": (
        _alone(np.ones((SIDE, SIDE), np.uint8), photometric="palette"),
        "is a picture whose values are numbers of colours",
    ),
    "a surface model of hills": (_alone(ground() + canopy()), "is this a surface model? give the ground's"),
    "a surface model of mountains, alike everywhere": (
        _alone(np.full((SIDE, SIDE), 2500, np.float32)),
        "99 of 100 heights are above 2500 m; is this a surface model? give the ground's elevations",
    ),
    "a surface model down to the sea": (
        _alone(ground(-1, 300) + canopy()),
        "no tree is above 120 m; if these are elevations, give --ground",
    ),
    "depths": (_alone(ground(-90, -20)), "no height above ground is; if these are elevations, give --ground"),
    "centimetres": (
        _alone((100 * canopy()).astype(np.int16), unit=""),
        "are these centimetres? --height-unit cm",
    ),
    "centimetres as floats": (_alone(100 * canopy(), unit=""), "--height-unit cm or ft"),
    "decimetres": (
        _alone((10 * canopy()).clip(0).astype(np.uint16), unit=""),
        "decimetres or centimetres? --height-unit",
    ),
    "centimetres of shrubs": (
        _alone((100 * canopy(2)).clip(0).astype(np.uint16), unit=""),
        "decimetres or centimetres? --height-unit dm or cm",
    ),
    "centimetres that the file calls metres": (
        _alone((100 * canopy()).astype(np.int16), unit="m"),
        "if their unit is wrong, correct it",
    ),
    "another unit than the file's": (
        _alone(canopy(), unit="ft", options=("--height-unit", "m")),
        "states its values in 'ft', not m; leave out --height-unit",
    ),
    "no length": (_alone(canopy(), unit="dB"), "states its values in 'dB', which is no length"),
    "undeclared -32767": (
        _alone(holed(canopy(), -32767)),
        "% of values are -32767, which is not declared as nodata; declare it (gdal_edit.py -a_nodata -32",
    ),
    "undeclared 9999": (_alone(holed(canopy(), 9999)), "gdal_edit.py -a_nodata 9999 -oo"),
    "undeclared 65535, in centimetres": (
        _alone(
            holed((100 * canopy()).clip(0).astype(np.uint16), 65535), unit="", options=("--height-unit", "cm")
        ),
        "gdal_edit.py -a_nodata 65535 -oo",
    ),
    "surface and ground exchanged": (
        _above(ground(), ground() + canopy()),
        "are --heights and --ground exchanged",
    ),
    "surface in feet above ground in metres": (
        _above((ground() + canopy()) / 0.3048, ground()),
        "or in other units",
    ),
    "feet that only the CRS knows of": (
        _in_feet_of_the_crs,
        "surface.tif: states no unit of heights, and the unit of its CRS is the US survey foot; give "
        "--height-unit ft, or m if heights are in metres, or give --on-mismatch note (1 other raster is",
    ),
    "surface and ground in feet, unsaid": (
        _above(in_feet(ground() + canopy(25)), in_feet(ground()), ("", "")),
        "no unit is stated, and as metres one height in 100 is above 8",
    ),
    "a forest in feet, unsaid": (
        _alone(in_feet(canopy(25)), unit=""),
        "are they in feet? --height-unit ft; if",
    ),
    "a tall forest in feet, unsaid": (
        _above(in_feet(ground() + canopy(40)), in_feet(ground()), ("", "")),
        "as in no forest on Earth; are they in feet? --height-unit ft; if they are in metres, --height-",
    ),
    "surface in feet above ground that says nothing": (
        _above(in_feet(ground(0, 5) + canopy(9)), in_feet(ground(0, 5)), ("ft", "")),
        "the ground states no unit of heights, and the surface is in ft; give --height-unit ft if both are",
    ),
    "ground of 0 where it is unknown": (
        _above(ground() + canopy(), holed(ground(), 0)),
        "of the ground below it,",
    ),
    "surface of -32767 where it is unknown": (
        _above(holed(ground() + canopy(), -32767), ground()),
        "gdal_edit.py -a_nodata -32767 -oo",
    ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_is_not_heights_is_refused_with_its_cure(tmp_path: Path, row: str) -> None:
    make, line = REFUSED[row]
    options = make(tmp_path)
    images = options[1] if options[0] == "--images" else ""
    done = ingest(tmp_path, *(options[2:] if images else options), images=images)
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "chips").exists()


@pytest.mark.parametrize(
    ("kind", "dtype", "mark"),  # GDAL calls a fourth band of bytes alpha in any case
    [
        ("alpha", "uint8", 255),
        ("alpha", "uint8", 1),
        ("alpha", "uint16", 65535),
        ("undefined", "uint16", 65535),
        ("undefined", "int16", 255),
        ("undefined", "int16", 10_000),
        ("undefined", "float32", 1),
    ],
)
def test_a_band_that_only_marks_pixels_is_not_learned_from_as_nir(
    tmp_path: Path, kind: str, dtype: str, mark: int
) -> None:
    stored_CHW = np.random.default_rng(0).integers(1, 255, (4, SIDE, SIDE)).astype(dtype)
    stored_CHW[3] = mark * (np.arange(SIDE) > 40)
    colors = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp[kind]]
    heights = "--heights", write(tmp_path / "lidar.tif", canopy())
    path = write(tmp_path / "rgba.tif", stored_CHW, colors=colors, names=(None,) * 4)
    done = ingest(tmp_path, *heights, images=path)
    assert done.returncode == 2
    asked = f"band 4, taken as nir, has only 0 and {mark}; is it a mask or alpha? if so, "
    assert asked + ("name the other" if kind == "alpha" else "declare it (gdal_edit.py -color") in done.stderr
    with rasterio.open(path, "r+") as raster:
        raster.colorinterp = [*colors[:3], ColorInterp.alpha]
    done = ingest(tmp_path, *heights, "--bands", "red", "green", "blue", images=path)
    assert said(done) == (0, [])
    dataset = open_dataset(str(tmp_path / "chips"))
    assert dataset.schema.bands == ("red", "green", "blue")
    assert set(dataset.index["key"].to_pylist()) == {f"rgba_{row:05}_{64:05}" for row in (0, 32, 64, 96)} | {
        f"rgba_{row:05}_{96:05}" for row in (0, 32, 64, 96)
    }
    measured = write(tmp_path / "cir.tif", np.maximum(stored_CHW, 1) % 251, colors=colors)
    assert ingest(tmp_path, *heights, "--out", "other", images=measured).returncode == 0


@pytest.mark.parametrize("answer", ["note", "ignore"])
def test_whoever_means_it_so_says_on_mismatch(tmp_path: Path, answer: str) -> None:
    surface_HW = ground() + canopy()
    heights = "--heights", write(tmp_path / "surface.tif", surface_HW)
    done = ingest(tmp_path, *heights, "--on-mismatch", answer)
    assert done.returncode == 0
    assert ("note: surface.tif: 99 of 100 heights" in done.stderr.replace(f"{tmp_path}/", "")) == (
        answer == "note"
    )
    for key, height_HW in heights_of(tmp_path).items():
        np.testing.assert_array_equal(height_HW, cut(surface_HW, key))


@pytest.mark.real
@pytest.mark.parametrize(
    ("heights", "ground", "line"),
    [
        ("highesthit", "", "is this a surface model? give the ground's elevations (--ground)"),
        ("bareearth", "highesthit", "are --heights and --ground exchanged"),
        ("highesthit", "bareearth", ""),
    ],
)
def test_real_surfaces_give_heights_only_above_their_ground(
    tahoe: Path, tmp_path: Path, heights: str, ground: str, line: str
) -> None:
    options = ["--bands", "nir", "red", "green", "--heights", str(tahoe / f"tahoe_lidar_{heights}.tif")]
    if ground:
        options += ["--ground", str(tahoe / f"tahoe_lidar_{ground}.tif")]
    done = ingest(tmp_path, *options, images=str(tahoe / "tahoe_highrez.tif"))
    assert done.returncode == (2 if line else 0)
    assert line in done.stderr
    if not line:
        note = "pixels are oblong, 5.473e-06 x 5.473e-06 degree (0.4722 x 0.6076 m); --crs EPSG:32611 --pixel"
        assert note in done.stderr
        assert f"note: 2 rasters, such as {options[5]}: {'; '.join(TAKEN_AS_METRES)}" in said(done)[1]
        assert len(said(done)[1]) == 2


# --- units and bands ---


@pytest.mark.parametrize(
    ("metres", "name", "stated", "options"),
    [
        (0.3048, "ft", {"unit": "ft"}, ()),
        (0.3048, "ft", {"unit": "foot"}, ("--height-unit", "ft")),
        (1200 / 3937, "US survey ft", {"unit": "US survey foot"}, ()),
        (1200 / 3937, "US survey ft", {"crs": f"{UTM}+6360", "unit": ""}, ()),
        (0.01, "cm", {"unit": "centimetre"}, ()),
        (0.1, "dm", {"unit": ""}, ("--height-unit", "dm")),
        (1.0, "", {"unit": "Metre"}, ()),
        (1.0, "", {"unit": ""}, ("--height-unit", "m")),
    ],
)
def test_heights_become_metres_and_that_is_said(
    tmp_path: Path, metres: float, name: str, stated: dict[str, Any], options: tuple[str, ...]
) -> None:
    stored_HW = (canopy() / metres).astype(np.float32)
    done = ingest(tmp_path, "--heights", write(tmp_path / "lidar.tif", stored_HW, **stated), *options)
    line = [f"note: {tmp_path}/lidar.tif: heights are in {name}, converted to metres"] * bool(name)
    assert said(done) == (0, line)
    found = heights_of(tmp_path)
    assert len(found) == 16
    for key, height_HW in found.items():
        np.testing.assert_allclose(height_HW, cut(canopy(), key), rtol=1e-6, atol=1e-6)


def test_surface_and_ground_have_units_of_their_own(tmp_path: Path) -> None:
    surface = write(tmp_path / "surface.tif", (ground() + canopy()) / np.float32(0.3048), unit="ft")
    done = ingest(tmp_path, "--heights", surface, "--ground", write(tmp_path / "ground.tif", ground()))
    assert done.returncode == 0
    for key, height_HW in heights_of(tmp_path).items():
        np.testing.assert_allclose(height_HW, cut(canopy(), key), atol=1e-3)


def test_the_band_that_is_chosen_gives_the_heights(tmp_path: Path) -> None:
    stack = write(tmp_path / "lidar.tif", np.stack([ground(), canopy()]), unit="m")
    done = ingest(tmp_path, "--heights", stack, "--height-band", "2")
    assert said(done) == (0, [])
    for key, height_HW in heights_of(tmp_path).items():
        np.testing.assert_array_equal(height_HW, cut(canopy(), key))


def test_another_quantity_than_height_may_have_any_unit_and_values(tmp_path: Path) -> None:
    biomass = write(tmp_path / "biomass.tif", 100 * canopy(), unit="t/ha")
    done = ingest(tmp_path, "--heights", biomass, "--label", "biomass", "--label-unit", "t/ha")
    assert said(done) == (0, [])


# --- grids ---


def _around(grid: Affine) -> Affine:
    """The same grid with a margin of 40 pixels on each side."""
    return grid @ Affine.translation(-40, -40)


def turned(degrees: float) -> Affine:
    """A grid of 2 m around the image's middle, turned."""
    middle = Affine.translation(500_128, 7_199_872)
    return middle @ Affine.rotation(degrees) @ Affine.scale(2, -2) @ Affine.translation(-160, -160)


def smooth_at(grid: Affine, side: int) -> Values:
    """Heights of 2 to 12 m that change slowly with the place, as pixels of a grid show them."""
    column_HW, row_HW = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    x_HW = grid.a * column_HW + grid.b * row_HW + grid.c
    y_HW = grid.d * column_HW + grid.e * row_HW + grid.f
    return np.asarray((7 + 3 * np.sin(x_HW / 40) + 2 * np.cos(y_HW / 30)).astype(np.float32))


SOUTH_UP = Affine(2, 0, 500_000, 0, 2, 7_200_000 - 2 * SIDE)
EAST_LEFT = Affine(-2, 0, 500_000 + 2 * SIDE, 0, -2, 7_200_000)
GRIDS = {
    "south up": _around(SOUTH_UP),
    "east on the left": _around(EAST_LEFT),
    **{f"turned by {degrees:g}": turned(degrees) for degrees in (30, 90, 180, -45)},
}


@pytest.mark.parametrize("row", GRIDS)
def test_heights_on_any_grid_land_on_the_same_ground(tmp_path: Path, row: str) -> None:
    heights = write(tmp_path / "lidar.tif", smooth_at(GRIDS[row], 320), GRIDS[row])
    done = ingest(tmp_path, "--heights", heights, "--height-resampling", "bilinear")
    assert said(done) == (0, [])
    found = heights_of(tmp_path)
    assert len(found) == 16
    for key, height_HW in found.items():
        np.testing.assert_allclose(height_HW, cut(smooth_at(NORTH_UP, SIDE), key), atol=0.15)


@pytest.mark.parametrize("row", GRIDS)
def test_masks_on_any_grid_cover_the_same_ground(tmp_path: Path, row: str) -> None:
    """A mask of the west half leaves the chips of the east half."""
    grid = GRIDS[row]
    column_HW, row_HW = np.meshgrid(np.arange(320) + 0.5, np.arange(320) + 0.5)
    is_west_HW = grid.a * column_HW + grid.b * row_HW + grid.c < 500_128
    mask = write(tmp_path / "mask.tif", is_west_HW.astype(np.uint8), grid)
    heights = write(tmp_path / "lidar.tif", canopy())
    done = ingest(tmp_path, "--heights", heights, "--mask", mask)
    assert done.returncode == 0
    lefts = {int(key.split("_")[-1]) for key in heights_of(tmp_path)}
    # A chip's edge on the border of a turned mask has pixels of both sides.
    assert {96} <= lefts <= {64, 96}
    assert row.startswith("turned by") or lefts == {64, 96}


@pytest.mark.parametrize("grid", [SOUTH_UP, EAST_LEFT], ids=["south up", "east on the left"])
def test_images_on_any_grid_get_the_heights_of_their_ground(tmp_path: Path, grid: Affine) -> None:
    heights = write(tmp_path / "lidar.tif", smooth_at(_around(NORTH_UP), SIDE + 80), _around(NORTH_UP))
    done = ingest(tmp_path, "--heights", heights, images=image(tmp_path, grid))
    assert said(done) == (0, [])
    for key, height_HW in heights_of(tmp_path).items():
        np.testing.assert_allclose(height_HW, cut(smooth_at(grid, SIDE), key), atol=1e-4)


def test_a_turned_image_is_noted_and_made_upright_on_demand(tmp_path: Path) -> None:
    grid = turned(30)
    place = _around(_around(_around(NORTH_UP)))
    heights = write(tmp_path / "lidar.tif", smooth_at(place, SIDE + 240), place)
    turned_image = image(tmp_path, grid, side=320)
    done = ingest(tmp_path, "--heights", heights, images=turned_image)
    assert done.returncode == 0
    assert (
        "the grid is turned by 30 degrees, and chips are, too; --pixel-size or --crs makes it" in done.stderr
    )
    dataset = open_dataset(str(tmp_path / "chips"))
    assert dataset.schema.pixel_size == pytest.approx(2)
    for key, height_HW in heights_of(tmp_path).items():
        is_known_HW = np.isfinite(height_HW)
        np.testing.assert_allclose(
            height_HW[is_known_HW], cut(smooth_at(grid, 320), key)[is_known_HW], atol=0.15
        )
    done = ingest(
        tmp_path, "--heights", heights, "--pixel-size", "2", "--out", "upright", images=turned_image
    )
    assert said(done) == (0, [])
    assert open_dataset(str(tmp_path / "upright")).schema.pixel_sides == (2, 2)


# --- noted ---


def test_coarse_heights_and_other_kinds_of_crs_are_said_once(tmp_path: Path) -> None:
    fine = Affine(1, 0, 500_000, 0, -1, 7_200_000)
    for number in range(5):
        name = f"lidar_{number}.tif"
        write(tmp_path / name, canopy(side=64), Affine(2, 0, 500_000, 0, -2, 7_200_000))
    done = ingest(tmp_path, "--heights", "lidar_*.tif", images=image(tmp_path, fine))
    assert done.returncode == 0
    assert len(said(done)[1]) == 1
    assert "5 rasters, such as " in done.stderr
    assert "has pixels of 2 x 2 m under pixels of 1 x 1 m, so that neighbours share a height" in done.stderr


def test_heights_in_degrees_under_an_image_in_metres_are_said(tmp_path: Path) -> None:
    degrees = Affine(4e-5, 0, -153.01, 0, -2e-5, 64.93)
    heights = write(tmp_path / "lidar.tif", canopy(side=1024), degrees, "EPSG:4326")
    done = ingest(tmp_path, "--heights", heights)
    assert done.returncode == 0
    assert "is in degrees and under pixels in projected coordinates" in done.stderr


@pytest.mark.parametrize("unit", ["ft", "m"])
def test_whoever_says_the_unit_of_a_grid_in_feet_is_believed(tmp_path: Path, unit: str) -> None:
    _, scene, *rasters = _in_feet_of_the_crs(tmp_path)
    done = ingest(tmp_path, *rasters, "--height-unit", unit, "--on-mismatch", "note", images=scene)
    assert done.returncode == 0
    assert "states no unit" not in done.stderr + done.stdout
    factor = 0.3048 if unit == "ft" else 1.0
    for key, height_HW in heights_of(tmp_path).items():
        np.testing.assert_allclose(height_HW, factor * in_feet(cut(canopy(), key)), atol=2e-3)


def test_metres_that_nobody_states_are_named_at_the_end_and_by_inspect(tmp_path: Path) -> None:
    """Feet of low trees cannot be told from metres: 12 m of trees come out as 39."""
    options = _above(in_feet(ground() + canopy(12)), in_feet(ground()), ("", ""))(tmp_path)
    done = ingest(tmp_path, *options)
    assert done.returncode == 0
    (last,) = [line for line in done.stdout.splitlines() if "taken as metres" in line]
    assert re.fullmatch(
        r"note: heights are taken as metres, since no raster says; one in 100 is above 3\d(\.\d)? m, and if "
        r"they are feet, above 1\d(\.\d)? m: then ingest again with --height-unit ft and another --out",
        last,
    )
    inspected = treeline("inspect", "chips", folder=tmp_path).stdout
    assert "height m, taken as metres: the rasters state no unit, see findings" in " ".join(inspected.split())
    silent = ingest(tmp_path, *options, "--on-mismatch", "ignore", "--out", "ignored")
    assert "taken as metres" not in silent.stdout + silent.stderr
    said_so = ingest(tmp_path, *options, "--height-unit", "ft", "--out", "said")
    assert "taken as metres" not in said_so.stdout + said_so.stderr
    assert "taken as" not in treeline("inspect", "said", folder=tmp_path).stdout


@pytest.mark.parametrize("there", [None, "ft"])
def test_heights_of_another_unit_are_not_added(tmp_path: Path, there: str | None) -> None:
    """They would be converted, and those of before would stay; what a raster states is certain."""
    tall = 100 * canopy(18) / 30 if there else canopy(30)
    heights = write(tmp_path / "lidar.tif", tall, unit="")
    said_so = ("--height-unit", there) if there else ()
    assert ingest(tmp_path, "--heights", heights, *said_so).returncode == 0
    before = (tmp_path / "chips" / MANIFEST).read_bytes()
    generator = np.random.default_rng(1)
    other = write(tmp_path / "other.tif", generator.integers(100, 2000, (4, SIDE, SIDE)).astype(np.int16))
    options = "--heights", heights
    again = ingest(tmp_path, *options, "--height-unit", "m" if there else "ft")
    assert "(--height-unit); choose another --out, or delete it" in again.stderr
    if there:
        refused = ingest(tmp_path, *options, "--append", images=other)
        assert "were read with --height-unit ft, and the new ones would be taken as metres" in refused.stderr
    else:
        refused = ingest(tmp_path, *options, "--height-unit", "ft", "--append", images=other)
        assert "its heights were taken as metres, since nobody said their unit, and" in refused.stderr
        assert "ingest all again with --height-unit ft and another --out; if only" in refused.stderr
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert (tmp_path / "chips" / MANIFEST).read_bytes() == before
    stated = write(tmp_path / "stated.tif", tall, unit="ft")
    assert ingest(tmp_path, "--heights", stated, "--append", images=other).returncode == 0
    third = write(tmp_path / "third.tif", generator.integers(100, 2000, (4, SIDE, SIDE)).astype(np.int16))
    added = ingest(tmp_path, *options, *said_so, "--append", images=third)
    assert added.returncode == 0, added.stderr
    late = ingest(tmp_path, *options, "--height-unit", "dm", "--append", images=third)
    assert late.returncode == 2
    assert "is for the new ones alone" in late.stderr


def test_oblong_pixels_are_said(tmp_path: Path) -> None:
    oblong = Affine(2, 0, 500_000, 0, -4, 7_200_000)
    heights = write(tmp_path / "lidar.tif", canopy(), oblong)
    done = ingest(tmp_path, "--heights", heights, images=image(tmp_path, oblong))
    assert done.returncode == 0
    assert "pixels are oblong, 2 x 4 m; --pixel-size makes them square" in done.stderr


def test_whole_numbers_that_may_be_decimetres_are_noted(tmp_path: Path) -> None:
    heights = "--heights", write(tmp_path / "lidar.tif", canopy(60).clip(0).astype(np.uint8), unit="")
    done = ingest(tmp_path, *heights)
    assert done.returncode == 0
    assert "whole numbers taken as metres" in done.stderr
    assert said(ingest(tmp_path, *heights, "--height-unit", "m", "--out", "answered")) == (0, [])


def test_a_mask_of_several_bands_is_noted(tmp_path: Path) -> None:
    mask = write(tmp_path / "udm2.tif", np.zeros((8, SIDE, SIDE), np.uint8))
    heights = write(tmp_path / "lidar.tif", canopy())
    done = ingest(tmp_path, "--heights", heights, "--mask", mask)
    assert done.returncode == 0
    assert "udm2.tif: has 8 bands, of which the first is the mask" in done.stderr


# --- honest ---


HONEST: dict[str, Values] = {
    "boreal trees with noise below the ground": canopy() - 0.9 * (canopy(seed=2) < 3),
    "a forest of 90 m": canopy(90),
    "tundra": canopy(2),
    "bare ground": np.zeros((SIDE, SIDE), np.float32),
    "whole metres": canopy(35).clip(0).astype(np.uint8),
    "doubles": canopy().astype(np.float64),
    "a few towers": np.where(
        np.arange(SIDE) == 3, np.where(np.arange(SIDE)[:, None] < 9, 300, 1), canopy()
    ).astype(np.float32),
    "one value that is declared": holed(canopy(), -9999),
}


@pytest.mark.parametrize("row", HONEST)
def test_honest_heights_pass_without_a_word(tmp_path: Path, row: str) -> None:
    heights = write(tmp_path / "lidar.tif", HONEST[row])
    done = ingest(tmp_path, "--heights", heights, "--min-height", "None")
    assert said(done) == (0, [])
    for key, height_HW in heights_of(tmp_path).items():
        np.testing.assert_array_equal(height_HW, cut(HONEST[row], key).astype(np.float32))


def test_no_honest_canopy_of_forty_is_refused(tmp_path: Path) -> None:
    """Trees of 0.5 to 90 m over 5 to 95 % of the ground, with noise of up to 0.5 m."""
    with open_raster(write(tmp_path / "lidar.tif", canopy())) as raster:
        header = HeightHeader.read("lidar.tif", raster)
    noted = 0
    for number in range(40):
        generator = np.random.default_rng(number)
        tallest, cover = 0.5 * 180 ** generator.random(), generator.uniform(0.05, 0.95)
        height_N = tallest * generator.beta(4, 2, 20_000) * (generator.random(20_000) < cover)
        height_N += generator.normal(0, generator.uniform(0, 0.5), 20_000)
        found = height_findings(height_N.astype(np.float32), header)
        assert not any(finding.is_gross for finding in found), (number, found)
        noted += len(found)
    assert noted <= 2


def test_a_mark_that_the_windows_missed_is_said_at_the_end(tmp_path: Path) -> None:
    """A pixel of 9999, not declared, far from being common."""
    height_HW = canopy(side=1024)
    height_HW[700, 700] = 9999
    heights = write(tmp_path / "lidar.tif", height_HW)
    done = ingest(tmp_path, "--heights", heights, images=image(tmp_path, side=1024))
    assert said(done) == (0, [])
    assert "note: some heights are above 328 m: do they mean no data that no raster declares?" in done.stdout
    dataset = open_dataset(str(tmp_path / "chips"))
    assert dataset.chips("train", where="height_max < 328").size == dataset.chips("train").size - 1


# --- what was begun before ---


def test_a_dataset_of_the_first_of_several_bands_is_known_again(tmp_path: Path) -> None:
    """Before there was --height-band, the first band was taken without a word."""
    heights = "--heights", write(tmp_path / "lidar.tif", np.stack([canopy(), ground()]))
    assert ingest(tmp_path, *heights, "--height-band", "1").returncode == 0
    manifest = read_manifest(str(tmp_path / "chips"))
    younger = ("height_band", "height_unit", "on_mismatch")
    options = {name: value for name, value in manifest.made_by["config"].items() if name not in younger}
    before = replace(manifest, made_by={**manifest.made_by, "config": options})
    publish_change(str(tmp_path / "chips"), before, {})
    again = ingest(tmp_path, *heights)
    assert (again.returncode, "is complete already" in again.stdout) == (0, True)
    assert ingest(tmp_path, *heights, "--out", "new").returncode == 2


def test_an_ingest_is_examined_once_and_then_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that began before there were checks is not refused in the middle."""
    surface = "--heights", write(tmp_path / "surface.tif", ground() + canopy())
    from ingest.work import run

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run, "_do_what_is_missing", stopped)
        assert ingest(tmp_path, *surface, "--on-mismatch", "ignore").returncode != 0
    assert (tmp_path / "chips" / ".ingest").exists()
    done = ingest(tmp_path, *surface)
    assert done.returncode == 0
    assert "surface model" not in done.stderr


@pytest.mark.parametrize(
    ("crs", "grid", "recorded"),
    [
        (UTM, Affine(2, 0, 500_000, 0, -4, 7_200_000), "2 x 4 m"),
        (FEET_GRID, Affine(2, 0, 6_000_000, 0, -2, 2_000_000), "2 x 2 US survey foot (0.6096 x 0.6096 m)"),
        ("EPSG:4326", Affine(4e-5, 0, -153.01, 0, -2e-5, 64.93), "4e-05 x 2e-05 degree (1.892 x 2.23 m)"),
    ],
)
def test_the_size_of_pixels_goes_with_the_dataset(
    tmp_path: Path, crs: str, grid: Affine, recorded: str
) -> None:
    """Into inspect and copies, and --append compares it; a dataset of before, which has less, takes more."""
    heights = "--heights", write(tmp_path / "lidar.tif", canopy(), grid, crs), "--height-unit", "m"
    own = image(tmp_path, grid, crs)
    assert ingest(tmp_path, *heights, images=own).returncode == 0
    assert f"int16, {recorded}, nodata" in treeline("inspect", "chips", folder=tmp_path).stdout
    schema = open_dataset(str(tmp_path / "chips")).schema
    assert treeline("convert", "chips", "--to", "zarr", "--out", "zarr", folder=tmp_path).returncode == 0
    assert open_dataset(str(tmp_path / "zarr")).schema == schema
    attributes = json.loads((tmp_path / "zarr" / "train.zarr" / "zarr.json").read_text())["attributes"]
    assert attributes["pixel_metres"] == list(schema.pixel_metres)
    assert attributes["pixel_height"] == schema.pixel_height

    again = ingest(tmp_path, *heights, images=own)
    assert (again.returncode, "is complete already" in again.stdout) == (0, True)
    manifest = read_manifest(str(tmp_path / "chips"))
    bare = replace(schema, pixel_height=0.0, pixel_unit="", pixel_metres=())
    publish_change(str(tmp_path / "chips"), replace(manifest, schema=bare), {})
    again = ingest(tmp_path, *heights, images=own)
    assert (again.returncode, "is complete already" in again.stdout) == (0, True)
    values_CHW = np.random.default_rng(0).integers(100, 2000, (4, SIDE, SIDE)).astype(np.int16)
    other = write(tmp_path / "other.tif", values_CHW, grid, crs)
    added = ingest(tmp_path, *heights, "--append", images=other)
    assert added.returncode == 0, added.stderr
    assert open_dataset(str(tmp_path / "chips")).schema == bare
    larger = write(tmp_path / "larger.tif", np.ones((4, SIDE, SIDE), np.int16), grid @ Affine.scale(1.5), crs)
    refused = ingest(tmp_path, *heights, "--append", images=larger)
    assert refused.returncode == 2
    assert "its chips are" in refused.stderr


def test_sides_of_pixels_are_those_of_the_ground(tmp_path: Path) -> None:
    for grid in (NORTH_UP, SOUTH_UP, EAST_LEFT, turned(30), turned(90)):
        assert Grid(None, grid, SIDE, SIDE).sides == pytest.approx((2, 2))
        left, bottom, right, top = Grid(None, grid, SIDE, SIDE).bounds
        assert left < right
        assert bottom < top


def test_heights_without_a_unit_are_taken_as_metres_and_that_is_said_once(tmp_path: Path) -> None:
    """A question about the unit takes the place of the note."""
    for number in range(2):
        write(tmp_path / f"lidar_{number}.tif", canopy(), unit="")
    taken = "; ".join(TAKEN_AS_METRES)
    done = ingest(tmp_path, "--heights", "lidar_*.tif")
    assert said(done) == (0, [f"note: 2 rasters, such as {tmp_path}/lidar_0.tif: {taken}"])
    surface = write(tmp_path / "surface.tif", ground() + canopy(), unit="")
    options = "--heights", surface, "--ground", write(tmp_path / "ground.tif", ground(), unit="")
    done = ingest(tmp_path, *options, "--out", "above")
    assert said(done) == (0, [f"note: 2 rasters, such as {surface}: {taken}"])
    whole = write(tmp_path / "whole.tif", canopy(60).clip(0).astype(np.uint8), unit="")
    done = ingest(tmp_path, "--heights", whole, "--out", "whole")
    assert len(said(done)[1]) == 1
    assert "whole numbers taken as metres" in done.stderr


# --- names of bands ---


def coloured(folder: Path, name: str, colors: tuple[ColorInterp, ...]) -> str:
    values_CHW = np.random.default_rng(0).integers(100, 2000, (4, SIDE, SIDE)).astype(np.int16)
    return write(folder / name, values_CHW, names=(None,) * 4, colors=colors)


RED_FIRST = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined)


def test_unnamed_bands_are_named_by_their_colours_and_what_is_assumed_is_said(tmp_path: Path) -> None:
    heights = "--heights", write(tmp_path / "lidar.tif", canopy())
    red_first = coloured(tmp_path, "red_first.tif", RED_FIRST)
    done = ingest(tmp_path, *heights, images=red_first)
    line = "bands have no names; taken as {} {}; if they are others, give --bands"
    by_colours = line.format("red green blue nir", "by their colours")
    assert said(done) == (0, [f"note: {red_first}: {by_colours}"])
    dataset = open_dataset(str(tmp_path / "chips"))
    assert dataset.schema.bands == ("red", "green", "blue", "nir")
    assert dataset.manifest.made_by["findings"] == {"bands": [f"{red_first}: {by_colours}"]}
    for number in range(2):
        coloured(tmp_path, f"grey_{number}.tif", (ColorInterp.undefined,) * 4)
    done = ingest(tmp_path, *heights, "--out", "grey", images="grey_*.tif")
    assumed = line.format("blue green red nir", "in this order")
    assert said(done) == (0, [f"note: 2 rasters, such as {tmp_path}/grey_0.tif: {assumed}"])
    done = ingest(tmp_path, *heights, "--bands", "a", "b", "c", "d", "--out", "named", images=red_first)
    assert said(done) == (0, [])


# --- undeclared zeros ---

ZEROS = (
    r"note: .*{}.*: {} % of pixels are 0 in all bands; is 0 nodata\? if so, give --nodata 0 and another --out"
)


def filled_image(folder: Path, kind: str) -> str:
    """An image of which the left third is 0, or a wedge of a thirtieth at its lower edge."""
    values_CHW = np.random.default_rng(0).integers(100, 2000, (4, SIDE, SIDE)).astype(np.int16)
    row_HW, column_HW = np.indices((SIDE, SIDE))
    is_zero_HW = column_HW < SIDE / 3 if kind == "third" else SIDE - row_HW < column_HW / 16
    values_CHW[:, is_zero_HW] = 0
    return write(folder / "scene.tif", values_CHW)


@pytest.mark.parametrize(("kind", "share"), [("third", "3[0-9]"), ("wedge", "[2-5]")])
def test_zeros_that_nobody_declares_are_asked_about(tmp_path: Path, kind: str, share: str) -> None:
    """At the beginning, in the summary, in the manifest, and by inspect; not once they are declared."""
    scene, heights = filled_image(tmp_path, kind), ("--heights", write(tmp_path / "lidar.tif", canopy()))
    done = ingest(tmp_path, *heights, images=scene)
    asked = re.compile(ZEROS.format("scene.tif", share))
    assert done.returncode == 0
    assert [bool(asked.fullmatch(line)) for line in said(done)[1]] == [True]
    assert asked.fullmatch(done.stdout.splitlines()[-2])
    (line,) = open_dataset(str(tmp_path / "chips")).manifest.made_by["findings"]["filled"]
    assert f"note: {line}" == done.stdout.splitlines()[-2]
    assert f"{'findings':12}{line}" in treeline("inspect", "chips", folder=tmp_path).stdout.splitlines()
    ignored = ingest(tmp_path, *heights, "--on-mismatch", "ignore", "--out", "ignored", images=scene)
    assert "is 0 nodata" not in ignored.stdout + ignored.stderr
    assert "is 0 nodata" in treeline("inspect", "ignored", folder=tmp_path).stdout
    done = ingest(tmp_path, *heights, "--nodata", "0", "--out", "declared", images=scene)
    assert said(done) == (0, [])
    assert kind == "wedge" or "incomplete (--min-valid)" in done.stdout
    assert "findings" not in treeline("inspect", "declared", folder=tmp_path).stdout


@pytest.mark.parametrize("value", [0, 7])
def test_an_image_of_one_value_is_not_learned_from(tmp_path: Path, value: int) -> None:
    scene = write(tmp_path / "scene.tif", np.full((4, SIDE, SIDE), value, np.int16))
    heights = "--heights", write(tmp_path / "lidar.tif", canopy())
    done = ingest(tmp_path, *heights, images=scene)
    asked = f"scene.tif: 100 % of pixels are {value} in all bands; is the image empty? if so, leave it out"
    assert done.returncode == 2
    assert asked in done.stderr
    assert f"give --nodata {value}, or give --on-mismatch note" in done.stderr
    assert not (tmp_path / "chips").exists()
    assert ingest(tmp_path, *heights, "--on-mismatch", "note", images=scene).returncode == 0


def test_zeros_in_pairs_of_chips_are_asked_about(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for folder in ("images", "heights"):
        (tmp_path / folder).mkdir()
    for number in range(20):
        image_CHW = generator.integers(100, 2000, (4, 64, 64)).astype(np.int16)
        image_CHW[:, :, : 4 * number] = 0
        np.save(tmp_path / "images" / f"{number}.npy", image_CHW)
        np.save(tmp_path / "heights" / f"{number}.npy", canopy(side=64))

    def pairs(*options: str) -> Any:
        folders = "--images", "images", "--heights", "heights", "--shares", "1"
        return treeline("ingest", "pairs", *folders, *options, folder=tmp_path)

    done = pairs("--out", "chips")
    asked = re.compile(ZEROS.format("images", "5[0-9]"))
    assert [bool(asked.fullmatch(line)) for line in said(done)[1]] == [True]
    assert asked.fullmatch(done.stdout.splitlines()[-2])
    assert "findings" in treeline("inspect", "chips", folder=tmp_path).stdout
    assert said(pairs("--out", "declared", "--nodata", "0")) == (0, [])
    for path in (tmp_path / "images").iterdir():
        np.save(path, np.zeros((4, 64, 64), np.int16))
    refused = pairs("--out", "empty")
    assert refused.returncode == 2
    assert "100 % of pixels are 0 in all bands; is the image empty? if so" in refused.stderr
    assert "on-mismatch" not in refused.stderr
    assert "findings" not in treeline("inspect", "declared", folder=tmp_path).stdout


def test_zeros_in_a_dataset_that_was_made_without_a_word_are_found_by_inspect(tmp_path: Path) -> None:
    heights = "--heights", write(tmp_path / "lidar.tif", canopy())
    ingest(tmp_path, *heights, images=filled_image(tmp_path, "third"))
    manifest = read_manifest(str(tmp_path / "chips"))
    silent = {name: value for name, value in manifest.made_by.items() if name != "findings"}
    publish_change(str(tmp_path / "chips"), replace(manifest, made_by=silent), {})
    said_by = treeline("inspect", "chips", folder=tmp_path).stdout
    assert re.search(
        r"findings +3\d % of pixels are 0 in all bands; is 0 nodata\? if so, ingest again with --nodata 0",
        said_by,
    )


@pytest.mark.parametrize("when", ["planned", "done"])
def test_findings_are_kept_by_an_ingest_that_is_resumed(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes, whenever it stops."""
    scene, heights = filled_image(tmp_path, "third"), write(tmp_path / "lidar.tif", canopy())
    config = ScenesConfig(
        images=(scene,), heights=(heights,), out=str(tmp_path / "chips"), chip_size=32, shares=(1.0,)
    )
    ingest_at(ScenesSource(config), config)
    expected = (tmp_path / "chips" / MANIFEST).read_bytes()
    again = replace(config, out=str(tmp_path / "again"))

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run, "_do_what_is_missing" if when == "planned" else "_assemble", stop)
        with pytest.raises(KeyboardInterrupt):
            ingest_at(ScenesSource(again), again)
    ingest_at(ScenesSource(again), again)
    assert (tmp_path / "again" / MANIFEST).read_bytes() == expected
