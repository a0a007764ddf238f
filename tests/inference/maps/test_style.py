"""The style beside a map: QGIS finds it by its name, and colours what is there as the pictures do."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin

from inference.maps.class_colours import coloured_classes
from inference.maps.map_file import CLASSES_TAG, HEIGHT, NODATA, MapBand, map_writer
from inference.maps.style import write_style
from inference.tiling.windows import Block, Span
from shards.draw.colours import height_scale, hexadecimal
from shards.raster.grid import Grid

GRID = Grid(CRS.from_epsg(3338), from_origin(200_000, 1_700_000, 2, 2), 1300, 700)
CLASSES = coloured_classes(((3, "shrub & <tundra>"), (7, "water")))


def write(path: Path, stored_HW: np.ndarray, band: MapBand = HEIGHT) -> str:
    tags = {CLASSES_TAG: '{"3": "shrub & <tundra>", "7": "water"}'} if band.classes else {}
    with map_writer(str(path), GRID, (band,), tags) as write_block:
        write_block(Block(Span(0, GRID.height), Span(0, GRID.width)), stored_HW[None])
    return str(path)


def heights() -> np.ndarray:
    """Decimetres; a half, and each second column of the rest, is nodata."""
    stored_HW = np.random.default_rng(0).integers(0, 149, (GRID.height, GRID.width)).astype(np.int16)
    stored_HW[:640] = NODATA
    stored_HW[:, ::2] = NODATA
    return stored_HW


def renderer_of(url: str) -> ElementTree.Element:
    root = ElementTree.parse(url).getroot()
    assert root.tag == "qgis"
    found = root.find("pipe/rasterrenderer")
    assert found is not None
    return found


def test_it_has_the_colours_of_the_pictures_and_leaves_the_map_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.chm.tif"
    before = Path(write(path, heights())).read_bytes()
    url = write_style(str(path))
    assert url == str(tmp_path / "a.chm.qml")
    assert path.read_bytes() == before
    shader = renderer_of(url).find("rastershader/colorrampshader")
    assert shader is not None
    assert shader.attrib["maximumValue"] == "15"
    scale = height_scale(np.array([15.0]))
    for item in shader:
        assert item.attrib["color"] == hexadecimal(scale.colour(float(item.attrib["value"])))
    assert [shader[place].attrib["value"] for place in (0, -1)] == ["0", "15"]


def test_the_notebook_s_classes_end_where_they_should(tmp_path: Path) -> None:
    url = write_style(write(tmp_path / "a.chm.tif", heights()), "notebook")
    items = renderer_of(url).findall("rastershader/colorrampshader/item")
    notebook = height_scale(np.zeros(1), "notebook")
    for decimetres in range(0, 400):
        metres = decimetres * 0.1
        shown = next(item for item in items if metres <= float(item.attrib["value"]))  # as QGIS chooses
        assert shown.attrib["color"] == hexadecimal(notebook.colour(round(metres, 3)))


def test_classes_keep_their_names_and_colours(tmp_path: Path) -> None:
    number_HW = np.random.default_rng(0).choice([3, 7], (GRID.height, GRID.width)).astype(np.uint8)
    band = MapBand("class", dtype="uint8", nodata=0, classes=CLASSES)
    renderer = renderer_of(write_style(write(tmp_path / "a.classes.tif", number_HW, band)))
    assert renderer.attrib["type"] == "paletted"
    entries = [entry.attrib for entry in renderer.findall("colorPalette/paletteEntry")]
    assert [(int(entry["value"]), entry["label"], entry["color"]) for entry in entries] == [
        (one.number, one.name, hexadecimal(one.colour)) for one in CLASSES
    ]


@pytest.mark.parametrize("kind", ["heights", "classes"])
def test_overviews_have_no_value_where_the_map_has_none(tmp_path: Path, kind: str) -> None:
    if kind == "heights":
        stored_HW = heights()
        url = write(tmp_path / "a.tif", stored_HW)
    else:
        stored_HW = np.where(heights() == NODATA, 0, 7).astype(np.uint8)
        stored_HW[700:, :300] = 3
        band = MapBand("class", dtype="uint8", nodata=0, classes=CLASSES)
        url = write(tmp_path / "a.tif", stored_HW, band)
    with rasterio.open(url) as raster:
        factors = raster.overviews(1)
        nodata = raster.nodata
    assert factors == [2, 4]
    low, high = stored_HW[stored_HW != nodata].min(), stored_HW[stored_HW != nodata].max()
    for level, factor in enumerate(factors):
        with rasterio.open(url, overview_level=level) as raster:
            small_HW = raster.read(1)
        known_HW = small_HW != nodata
        assert not known_HW[: 640 // factor].any()
        assert known_HW[-(600 // factor) :].all(), "a column in two has a value, so each mean has one"
        assert low <= small_HW[known_HW].min()
        assert small_HW[known_HW].max() <= high
