"""The item beside a map: valid STAC, and it says what the map is, where, of when and what made it.

- It is valid by the specification's own schema, whatever the map's CRS, name, bands and place.
- Its footprint holds every valid pixel and little else, also across the 180th meridian.
- What it says of the grid, the bands and the making is what the map says.
- The same map gives the same bytes; and a list of such items names the maps.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pystac.validation
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform
from servers import S3Server, environment_of
from shapely import contains_xy
from shapely.geometry import shape

from inference.maps.height_map import ACQUIRED
from inference.maps.map_file import HEIGHT, NODATA, SPREAD, MapBand, map_writer
from inference.maps.quick_look import quick_look_url, write_quick_look
from inference.maps.stac_item import item_url, stac_item, write_stac_item
from inference.scenes.scene_list import find_scenes
from inference.tiling.windows import Block, Span
from shards.raster.grid import Grid
from shards.storage.objects import exists, read_bytes, remove_file

SCENE = "WV02_20200722_M1BS_10300100AB1FD100-sr-02m"
TAGS = {"TREELINE_VERSION": "1.2.3", "TREELINE_DATASET": "0123456789abcdef", "TREELINE_WINDOW": "64"}
ALASKA, UTM, UTM_180 = "EPSG:3338", "EPSG:32608", "EPSG:32601"
SHAPE = (620, 450)
PLACES = {
    ALASKA: Affine(2, 0, 200_000, 0, -2, 1_700_000),
    UTM: Affine(30, 0, 500_000, 0, -30, 7_600_000),
    UTM_180: Affine(30, 0, 370_000, 0, -30, 7_600_000),  # longitude 180 is at about 377,000
    "EPSG:4326": Affine(3e-5, 0, -150, 0, -1e-5, 68),
}


def heights(seed: int = 0) -> NDArray[np.int16]:
    """Decimetres of a strip at an angle in a frame of nodata, with a lake."""
    stored_HW = np.random.default_rng(seed).integers(0, 200, SHAPE).astype(np.int16)
    row_HW, column_HW = np.indices(SHAPE)
    beside = abs(column_HW - 100 - 0.4 * row_HW) > 90
    lake = (row_HW - 300) ** 2 + (column_HW - 220) ** 2 < 900
    stored_HW[beside | lake] = NODATA
    return stored_HW


def write_map(
    folder: str | Path,
    crs: Any = ALASKA,
    stored_CHW: NDArray[np.int16] | None = None,
    name: str = SCENE,
    place: Affine = PLACES[ALASKA],
) -> str:
    """A map as it is written of a scene; its URL."""
    stored_CHW = heights()[None] if stored_CHW is None else stored_CHW
    bands: tuple[MapBand, ...] = (HEIGHT, SPREAD)[: len(stored_CHW)]
    url = f"{folder}/{name}.chm.tif"
    rows, columns = stored_CHW.shape[1:]
    grid = Grid(CRS.from_user_input(crs), place, rows, columns)
    with map_writer(url, grid, bands, TAGS) as write:
        write(Block(Span(0, rows), Span(0, columns)), stored_CHW)
    return url


def valid(item: dict[str, Any]) -> dict[str, Any]:
    """The item as it is read again; by the specification's schema, which needs no network."""
    item = json.loads(json.dumps(item, allow_nan=False))
    assert item["stac_version"] == "1.1.0"
    pystac.validation.validate_dict(item, extensions=[])
    return item


def degrees_of_valid_pixels(stored_HW: NDArray[np.int16], crs: str, place: Affine) -> NDArray[np.float64]:
    """(valid pixels, 2) longitudes and latitudes of their middles."""
    row_N, column_N = np.nonzero(stored_HW != NODATA)
    return np.array(transform(crs, "EPSG:4326", *(place @ (column_N + 0.5, row_N + 0.5)))).T


@pytest.mark.parametrize("crs", PLACES)
def test_the_footprint_holds_the_valid_pixels_and_little_else(tmp_path: Path, crs: str) -> None:
    stored_HW, place = heights(), PLACES[crs]
    item = valid(stac_item(write_map(tmp_path, crs, stored_HW[None], place=place)))
    footprint = shape(item["geometry"])
    assert footprint.is_valid
    degrees_N2 = degrees_of_valid_pixels(stored_HW, crs, place)
    assert contains_xy(footprint, *degrees_N2.T).all()
    corners = np.array([place @ at for at in ((0, 0), (0, SHAPE[0]), SHAPE[::-1], (SHAPE[1], 0))])
    east, north = np.array(transform(crs, "EPSG:4326", *corners.T))
    frame = shape(
        {"type": "Polygon", "coordinates": [list(zip(np.unwrap(east, period=360), north, strict=True))]}
    )
    share = (stored_HW != NODATA).mean()
    assert footprint.area < 1.1 * share * frame.area  # the lake, and two pixels at each side
    west, south, east, north = item["bbox"]
    assert -180 <= west <= 180
    assert -180 <= east <= 180
    assert south < north
    if crs == UTM_180:
        assert item["geometry"]["type"] == "MultiPolygon"
        assert west > 179 > -179 > east
    else:
        assert item["geometry"]["type"] == "Polygon"
        np.testing.assert_allclose(item["bbox"], footprint.bounds)
    rings = [part.exterior for part in getattr(footprint, "geoms", [footprint])]
    assert all(ring.is_ccw for ring in rings)


def test_a_map_of_nothing_has_the_outline_of_its_raster(tmp_path: Path) -> None:
    nothing = np.full((1, *SHAPE), NODATA, np.int16)
    everything = np.zeros((1, *SHAPE), np.int16)
    empty, full = (stac_item(write_map(tmp_path, stored_CHW=stored)) for stored in (nothing, everything))
    assert valid(empty) == valid(full)


def test_longitudes_may_go_from_0_to_360(tmp_path: Path) -> None:
    place = PLACES["EPSG:4326"]
    turned = Affine(place.a, 0, place.c + 360, 0, place.e, place.f)
    here, there = (
        valid(stac_item(write_map(tmp_path, "EPSG:4326", place=where))) for where in (place, turned)
    )
    np.testing.assert_allclose(there["bbox"], here["bbox"], atol=1e-6)
    np.testing.assert_allclose(shape(there["geometry"]).bounds, shape(here["geometry"]).bounds, atol=1e-6)


@pytest.mark.parametrize(
    ("crs", "place"),
    [
        ("EPSG:3413", Affine(300, 0, -60_000, 0, -300, 90_000)),
        (UTM, Affine(30, 0, 1e15, 0, -30, 1e15)),
    ],
    ids=["over the pole", "beyond the Earth"],
)
def test_what_has_no_outline_in_degrees_has_no_geometry(tmp_path: Path, crs: str, place: Affine) -> None:
    item = valid(stac_item(write_map(tmp_path, crs, place=place)))
    assert item["geometry"] is None
    assert "bbox" not in item


def test_it_says_what_the_map_says(tmp_path: Path) -> None:
    url = write_map(tmp_path, stored_CHW=np.stack([heights(), heights(1)]))
    item = valid(stac_item(url))
    assert item["id"] == f"{SCENE}.chm"
    data = item["assets"]["data"]
    assert data["type"] == "image/tiff; application=geotiff; profile=cloud-optimized"
    with rasterio.open(url) as raster:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert CRS.from_user_input(data["proj:code"]) == raster.crs
        assert tuple(data["proj:shape"]) == raster.shape
        assert Affine(*data["proj:transform"]) == raster.transform
        assert tuple(data["proj:bbox"]) == raster.bounds
        assert [band["name"] for band in data["bands"]] == list(raster.descriptions)
        for name, said in (
            ("data_type", raster.dtypes),
            ("nodata", raster.nodatavals),
            ("unit", raster.units),
            ("raster:scale", raster.scales),
        ):
            assert [band[name] for band in data["bands"]] == list(said)
    properties = item["properties"]
    assert properties["processing:software"] == {"treeline": "1.2.3"}
    assert (properties["treeline:dataset"], properties["treeline:window"]) == ("0123456789abcdef", "64")
    assert properties["datetime"] == properties["start_datetime"] == "2020-07-22T00:00:00Z"
    assert properties["end_datetime"] == "2020-07-22T23:59:59Z"
    assert properties["platform"] == "wv02"


def test_a_map_without_a_day_has_no_moment_and_a_tag_can_say_it(tmp_path: Path) -> None:
    url = write_map(tmp_path, name="a scene")
    properties = valid(stac_item(url))["properties"]
    assert properties["datetime"] is None
    assert properties["start_datetime"] < properties["end_datetime"]
    with rasterio.open(url, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.update_tags(**{ACQUIRED: "2023-06-10"})
    assert valid(stac_item(url))["properties"]["datetime"] == "2023-06-10T00:00:00Z"


def test_a_crs_without_a_code_is_written_out(tmp_path: Path) -> None:
    own = "+proj=aea +lat_1=55 +lat_2=65 +lat_0=50 +lon_0=-150 +datum=WGS84 +units=m"
    item = valid(stac_item(write_map(tmp_path, own)))
    data = item["assets"]["data"]
    assert data["proj:code"] is None
    assert CRS.from_wkt(data["proj:wkt2"]) == CRS.from_user_input(own)
    plane = 'LOCAL_CS["a plane",UNIT["metre",1]]'
    item = valid(stac_item(write_map(tmp_path, plane)))
    assert item["geometry"] is None
    assert "bbox" not in item


def test_it_is_written_beside_the_map(tmp_path: Path, moto: S3Server) -> None:
    with environment_of(moto):
        for folder in (str(tmp_path), "s3://bucket/maps"):
            url = write_map(folder)
            picture = write_quick_look(url)
            written = write_stac_item(url, quick_look=True)
            assert written == item_url(url) == f"{folder}/{SCENE}.chm.json"
            assert picture == quick_look_url(url) == f"{folder}/{SCENE}.chm.png"
            first = read_bytes(written)
            item = valid(json.loads(first))
            for asset in item["assets"].values():
                assert exists(f"{folder}/{asset['href'].removeprefix('./')}")
            assert set(item["assets"]) == {"data", "overview"}
            assert find_scenes((written,)).urls == [url]
            assert read_bytes(write_stac_item(url, quick_look=True)) == first
            for file in (url, picture, written):
                remove_file(file)
