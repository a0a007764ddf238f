"""The picture of a map: its pixels in the project's colours, at the size shown, from overviews alone."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from matplotlib.image import imread
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine, from_origin

from inference.maps.map_file import HEIGHT, NODATA, SPREAD, map_writer
from inference.maps.quick_look import LEGEND_PIXELS, MOST_PIXELS, pixel_metres, quick_look, small_heights
from inference.tiling.windows import Block, Span
from shards.draw.colours import NO_VALUE, height_scale
from shards.raster.grid import Grid
from shards.raster.opening import open_raster

ALASKA = CRS.from_epsg(3338)
PLACE = from_origin(200_000, 1_700_000, 2, 2)


def write_map(path: Path, *stored_HW: NDArray[np.int16], crs: CRS = ALASKA, place: Affine = PLACE) -> str:
    rows, columns = stored_HW[0].shape
    bands = (HEIGHT, SPREAD)[: len(stored_HW)]
    with map_writer(str(path), Grid(crs, place, rows, columns), bands, {}) as write:
        write(Block(Span(0, rows), Span(0, columns)), np.stack(stored_HW))
    return str(path)


def decimetres(rows: int, columns: int, seed: int = 0) -> NDArray[np.int16]:
    """Of all classes, a tenth of them nodata."""
    generator = np.random.default_rng(seed)
    stored_HW = np.round(np.exp(generator.uniform(-1, 6, (rows, columns)))).astype(np.int16)
    stored_HW[generator.random(stored_HW.shape) < 0.1] = NODATA
    return stored_HW


def decoded(png: bytes) -> NDArray[np.uint8]:
    """rgb_HW3, opaque."""
    rgba_HW4 = np.rint(imread(io.BytesIO(png), format="png") * 255).astype(np.uint8)
    assert (rgba_HW4[..., 3] == 255).all()
    return rgba_HW4[..., :3]


def within(rgb_HW3: NDArray[np.uint8], whole_HW3: NDArray[np.uint8]) -> bool:
    """Whether a picture is in another, pixel by pixel; but for its outermost two, which the frame covers."""
    part_HW3 = rgb_HW3[2:-2, 2:-2]
    rows, columns = part_HW3.shape[:2]
    spare_rows, spare_columns = (a - b for a, b in zip(whole_HW3.shape[:2], (rows, columns), strict=True))
    return any(
        np.array_equal(whole_HW3[row : row + rows, column : column + columns], part_HW3)
        for row in range(spare_rows + 1)
        for column in range(spare_columns + 1)
        if (whole_HW3[row, column : column + columns] == part_HW3[0]).all()
    )


@pytest.mark.parametrize("shape", [(613, 201), (100, 1000), (600, 31)])
def test_each_pixel_of_the_map_is_one_of_the_picture(tmp_path: Path, shape: tuple[int, int]) -> None:
    stored_HW = decimetres(*shape)
    metres_HW = np.where(stored_HW == NODATA, np.nan, stored_HW * np.float32(0.1))
    picture_HW3 = decoded(quick_look(write_map(tmp_path / "a.chm.tif", stored_HW, decimetres(*shape, 1))))
    assert within(height_scale(metres_HW).rgb(metres_HW), picture_HW3)


def test_pixels_of_a_small_map_are_squares(tmp_path: Path) -> None:
    stored_HW = decimetres(80, 47)
    metres_HW = np.where(stored_HW == NODATA, np.nan, stored_HW * np.float32(0.1))
    picture_HW3 = decoded(quick_look(write_map(tmp_path / "a.chm.tif", stored_HW)))
    assert within(height_scale(metres_HW).rgb(metres_HW).repeat(6, 0).repeat(6, 1), picture_HW3)


@pytest.mark.parametrize("shape", [(2500, 300), (300, 2500), (1025, 200), (1, 1)])
def test_it_is_as_large_as_promised(tmp_path: Path, shape: tuple[int, int]) -> None:
    rows, columns, _ = decoded(quick_look(write_map(tmp_path / "a.chm.tif", decimetres(*shape)))).shape
    assert LEGEND_PIXELS <= columns <= MOST_PIXELS + 100
    assert rows <= MOST_PIXELS + 100


def test_only_overviews_are_read(tmp_path: Path) -> None:
    """Of a raster whose overviews were made before it was overwritten, the picture is that of before."""
    profile = {
        "driver": "GTiff",
        "dtype": "int16",
        "count": 1,
        "nodata": NODATA,
        "tiled": True,
        "crs": ALASKA,
    }
    path = tmp_path / "a.chm.tif"
    with rasterio.open(path, "w", width=300, height=2100, transform=PLACE, **profile) as raster:
        raster.write(decimetres(2100, 300), 1)
        raster.scales = (0.1,)
        raster.build_overviews([2, 4], rasterio.enums.Resampling.average)
    before = quick_look(str(path))
    with rasterio.open(path, "r+") as raster:
        raster.write(np.zeros((2100, 300), np.int16), 1)
        assert raster.read(1).max() == 0
    assert quick_look(str(path)) == before


def test_a_pixel_of_the_picture_is_the_mean_of_its_valid_ones(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    stored_HW = generator.integers(0, 200, (1024, 768)).astype(np.int16)
    stored_HW[np.kron(generator.random((256, 192)) < 0.1, np.ones((4, 4), bool))] = NODATA
    stored_HW[::4] = NODATA
    with open_raster(write_map(tmp_path / "a.chm.tif", stored_HW)) as raster:
        small_HW = small_heights(raster, 256)
    metres_HW = np.where(stored_HW == NODATA, np.nan, stored_HW * 0.1)
    halved_HW = _means_of_four(metres_HW)
    # Each halving is rounded to decimetres.
    np.testing.assert_allclose(small_HW, _means_of_four(halved_HW), atol=0.101)
    assert np.isnan(small_HW).any()


def _means_of_four(metres_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H / 2, W / 2) means of the pixels of each square that are not NaN; NaN where all four are."""
    rows, columns = (side // 2 for side in metres_HW.shape)
    squares = metres_HW.reshape(rows, 2, columns, 2)
    number = (~np.isnan(squares)).sum((1, 3))
    total = np.nansum(squares, (1, 3))
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


def test_the_same_map_gives_the_same_bytes_and_nothing_gives_grey(tmp_path: Path) -> None:
    url = write_map(tmp_path / "a $^$.chm.tif", np.full((100, 200), NODATA, np.int16))
    picture = quick_look(url)
    assert quick_look(url) == picture
    rgb_HW3 = decoded(picture)
    assert (rgb_HW3[40:-70, 70:-70] == NO_VALUE).all()


@pytest.mark.parametrize(
    ("crs", "place", "metres"),
    [
        ("EPSG:3338", PLACE, 2.0),
        ("EPSG:3338", Affine.rotation(30) @ Affine.scale(3, -3), 3.0),
        ("EPSG:2263", from_origin(0, 0, 10, 10), 10 * 1200 / 3937),  # US survey feet
        ("EPSG:4326", from_origin(-150, 60.5, 0.01, 0.01), 1112 * math.cos(math.radians(60))),
    ],
)
def test_metres_of_a_pixel(tmp_path: Path, crs: str, place: Affine, metres: float) -> None:
    url = write_map(tmp_path / "a.chm.tif", decimetres(100, 10), crs=CRS.from_user_input(crs), place=place)
    with open_raster(url) as raster:
        assert pixel_metres(raster) == pytest.approx(metres, rel=1e-3)


def test_the_scale_bar_is_as_long_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("inference.maps.quick_look.png", lambda figure: drawn.append(figure) or b"")
    quick_look(write_map(tmp_path / "a.chm.tif", decimetres(1000, 50)))
    *_, scale = drawn[0].axes
    (bar,), texts = scale.patches, [label.get_text() for label in scale.get_xticklabels()]
    bar_pixels = bar.get_window_extent().width / drawn[0].dpi * 110
    assert texts == ["0", "200 m"]
    assert bar_pixels == pytest.approx(200 / 2, abs=1)
