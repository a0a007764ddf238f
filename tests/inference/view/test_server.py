"""Maps on a server: tiles and values are those of the rasters, and nobody else gets or gives anything."""

import http.server
import io
import json
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import rasterio
from browser import needs_browser
from in_process import treeline
from matplotlib.image import imread
from numpy.typing import NDArray
from open_page import NEAR, opened, running_chromium
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.transform import from_origin, rowcol
from servers import S3Server, environment_of, moto_server
from viewing import ask, viewing

from inference.config import ViewConfig
from inference.maps.class_colours import coloured_classes
from inference.maps.map_file import CLASSES_TAG, HEIGHT, NODATA, MapBand, map_writer
from inference.tiling.windows import Block, Span
from inference.view.layers import Place
from inference.view.overview import overview, smaller
from inference.view.plan import plan
from inference.view.tiles import tile_grid
from shards.draw.colours import height_scale
from shards.errors import InputError
from shards.raster.grid import Grid
from shards.raster.opening import OpenRasters

EPSG = "EPSG:3338"
ROWS, COLUMNS = 700, 900
PLACE = from_origin(200_000, 1_700_000, 2, 2)
TILE = 256


@dataclass(frozen=True)
class Files:
    """A map, its image and heights of 1 m, as files and as arrays; NaN and nodata where there is nothing."""

    map: Path
    image: Path
    heights: Path
    stored_HW: NDArray[np.int16]
    image_CHW: NDArray[np.int16]
    measured_HW: NDArray[np.float32]

    @property
    def arguments(self) -> list[str]:
        return [str(self.map), "--image", str(self.image), "--heights", str(self.heights)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("maps")
    rng = np.random.default_rng(0)
    rows, columns = np.indices((ROWS, COLUMNS))
    stored_HW = (rows // 10 + columns // 15 + rng.integers(0, 20, rows.shape)).astype(np.int16)
    stored_HW[:200, :300] = NODATA
    grid = Grid(CRS.from_string(EPSG), PLACE, ROWS, COLUMNS)
    found = Files(
        folder / "scene.chm.tif",
        folder / "scene.tif",
        folder / "lidar.tif",
        stored_HW,
        rng.integers(100, 3000, (4, ROWS, COLUMNS)).astype(np.int16),
        rng.uniform(0, 12, (2 * ROWS, 2 * COLUMNS)).astype(np.float32),
    )
    found.image_CHW[:, :200, :300] = NODATA
    found.measured_HW[:, 1500:] = NODATA
    with map_writer(str(found.map), grid, (HEIGHT,), {}) as write:
        write(Block(Span(0, ROWS), Span(0, COLUMNS)), stored_HW[None])
    profile = {"driver": "COG", "crs": EPSG, "nodata": NODATA}
    shape = {"count": 4, "height": ROWS, "width": COLUMNS, "dtype": "int16", "transform": PLACE}
    with rasterio.open(found.image, "w", **profile, **shape) as raster:
        raster.write(found.image_CHW)
        raster.descriptions = ("blue", "green", "red", "nir")
    finer = from_origin(200_000, 1_700_000, 1, 1)
    shape = {"count": 1, "height": 2 * ROWS, "width": 2 * COLUMNS, "dtype": "float32", "transform": finer}
    with rasterio.open(found.heights, "w", **profile, **shape) as raster:
        raster.write(found.measured_HW, 1)
    return found


@pytest.fixture(scope="module")
def address(files: Files) -> Iterator[str]:
    with viewing(*files.arguments) as printed:
        yield printed


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    with moto_server() as server:
        yield server


def tile(address: str, layer: int, level: int, column: int, row: int) -> NDArray[np.uint8]:
    """(H, W, 4) of a tile."""
    answer = ask(f"{address}tiles/{layer}/{level}/{column}/{row}.png")
    assert answer.status == 200, answer.body
    return np.rint(imread(io.BytesIO(answer.body), format="png") * 255).astype(np.uint8)


def values(address: str, row: float, column: float) -> list[str]:
    """What is said of the middle of the map's pixel at this row and column."""
    answer = ask(f"{address}values?x={2 * column + 1}&y={2 * row + 1}")
    texts: list[str] = json.loads(answer.body)["texts"]
    return texts


def test_tiles_at_full_resolution_are_the_map(files: Files, address: str) -> None:
    """Each pixel once, in its colour; where the map has no height, they are transparent."""
    down, across = -(-ROWS // TILE), -(-COLUMNS // TILE)
    whole_HW4 = np.concatenate(
        [np.concatenate([tile(address, 1, 0, x, y) for x in range(across)], axis=1) for y in range(down)]
    )
    missing_HW = files.stored_HW == NODATA
    inside_HW4 = whole_HW4[:ROWS, :COLUMNS]
    np.testing.assert_array_equal(inside_HW4[..., 3] == 0, missing_HW)
    metres_HW = np.where(missing_HW, np.nan, files.stored_HW * 0.1)
    expected_HW3 = height_scale(np.append(metres_HW.ravel(), 12.0)).rgb(metres_HW)
    np.testing.assert_array_equal(inside_HW4[~missing_HW, :3], expected_HW3[~missing_HW])
    assert not whole_HW4[ROWS:, :, 3].any()
    assert not whole_HW4[:, COLUMNS:, 3].any()


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("layer", range(4), ids=["image", "map", "measured", "difference"])
def test_coarser_tiles_are_transparent_where_nothing_is(
    files: Files, address: str, layer: int, level: int
) -> None:
    share = 2**level
    rgba_HW4 = tile(address, layer, level, 0, 0)
    opaque_HW = rgba_HW4[..., 3] == 255
    assert set(np.unique(rgba_HW4[..., 3])) <= {0, 255}
    rows, columns = min(TILE, ROWS // share), min(TILE, COLUMNS // share)
    # Measured heights end at column 750 of the map, and it begins with a hole; images and maps fill the rest.
    if layer in (0, 1, 3):
        assert not opaque_HW[: 200 // share - 1, : 300 // share - 1].any()
    if layer in (2, 3):
        assert not opaque_HW[:, -(-750 // share) :].any()
        columns = min(columns, 750 // share)
    assert opaque_HW[200 // share + 1 : rows - 1, : columns - 1].all()


def test_values_are_those_of_the_pixel(files: Files, address: str) -> None:
    rng = np.random.default_rng(1)
    for row, column in rng.integers(0, (ROWS, COLUMNS), (40, 2)).tolist():
        image, height, measured, difference = values(address, row, column)
        stored = files.stored_HW[row, column]
        of_pixel_22 = files.measured_HW[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].astype(np.float64)
        at_pointer = of_pixel_22[1, 1]  # the middle of the map's pixel is a corner of four of 1 m
        if stored == NODATA:
            assert (image, height, difference) == ("no value",) * 3
        else:
            assert float(height.removesuffix(" m")) == pytest.approx(stored * 0.1, abs=1e-9)
            bands = dict(pair.split() for pair in image.split(", "))
            assert [int(bands[name]) for name in ("blue", "green", "red", "nir")] == (
                files.image_CHW[:, row, column].tolist()
            )
        if at_pointer == NODATA:
            assert (measured, difference) == ("no value",) * 2
            continue
        assert float(measured.removesuffix(" m")) == pytest.approx(at_pointer, rel=1e-5)
        if stored != NODATA:
            expected = stored * 0.1 - of_pixel_22.mean()
            assert float(difference.removesuffix(" m")) == pytest.approx(expected, abs=0.0051)
    assert values(address, -1, 5) == ["no value"] * 4


def test_only_who_knows_the_token_and_names_this_machine_is_answered(address: str) -> None:
    root = address.rsplit("/", 2)[0]
    port = root.rsplit(":", 1)[1]
    assert ask(address).status == 200
    for path in ("/", "/values?x=1&y=1", "/tiles/0/0/0/0.png", f"/{'x' * 22}/", "/favicon.ico"):
        assert ask(root + path).status == 403
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1.evil.example:{port}"):
        assert ask(address, Host=host).status == 403
    assert ask(address, Host=f"localhost:{port}").status == 200
    wrong = "tiles/9/0/0/0.png", "tiles/0/0/0/x.png", "tiles/0/999/0/0.png", "values?x=1", "values?x=a&y=1"
    far = "tiles/0/0/99999999999999999999/0.png", "tiles/0/40/9999999/-9999999.png"
    for path in (*wrong, *far, "values?x=nan&y=1", "values?x=1&y=inf"):
        assert ask(address + path).status == 404
    forbidding = ask(address).headers["content-security-policy"]
    assert forbidding.startswith("default-src 'none'; script-src 'self';")
    assert "http" not in forbidding
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", int(port)), 1)


@pytest.mark.browser
@needs_browser
def test_in_a_browser_values_are_those_of_the_map(files: Files, address: str, chromium: Any) -> None:
    with opened(chromium, address) as shown:
        shown.page.locator(".in").click()
        for x, y in ((0.6, 0.5), (0.4, 0.7), (0.75, 0.2)):
            said = shown.point(x, y)
            row, column = rowcol(PLACE, *shown.place(EPSG))
            stored = files.stored_HW[row, column]
            assert float(said["map"].removesuffix(" m")) == pytest.approx(stored * 0.1)
            assert said.keys() == {"image", "map", "measured", "difference", EPSG}
        assert shown.said == []
        assert {one.split("/")[2] for one in shown.asked if not one.startswith("data:")} == {
            address.split("/")[2]
        }


@pytest.mark.browser
@needs_browser
def test_in_a_browser_the_border_moves_by_keys(
    files: Files, address: str, chromium: Any, tmp_path: Path
) -> None:
    with opened(chromium, address) as shown:
        reached = shown.tabbed(9)
        assert reached == ["left", "right", "below", "opacity", "out", "in", "whole", "map", "handle"]
        pictures = []
        for key in ("Home", "End"):
            shown.page.keyboard.press(key)
            shown.settle()
            pictures.append(shown.picture(tmp_path)[:-60])
        right_HW3, left_HW3 = pictures
        assert (right_HW3 != left_HW3).any()
        for _ in range(20):
            shown.page.keyboard.press("ArrowLeft")
        shown.settle()
        cut = round(0.6 * left_HW3.shape[1])
        both_HW3 = shown.picture(tmp_path)[:-60]
        np.testing.assert_allclose(both_HW3[:, : cut - 2], left_HW3[:, : cut - 2], atol=NEAR)
        np.testing.assert_allclose(both_HW3[:, cut + 2 :], right_HW3[:, cut + 2 :], atol=NEAR)
        assert shown.said == []


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser_it_fits_a_phone_by_day_and_by_night(address: str, chromium: Any, dark: bool) -> None:
    with opened(chromium, address, 360, 740, dark) as shown:
        assert shown.page.evaluate("document.documentElement.scrollWidth") == 360
        ground = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(27, 27, 26)" if dark else "rgb(255, 255, 255)")
        assert shown.point(0.3, 0.6)["map"].endswith(" m")


class _Background(http.server.BaseHTTPRequestHandler):
    """Tiles of a background; it notes what is asked."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.mark.slow
@pytest.mark.browser
@needs_browser
def test_a_background_is_asked_only_where_the_user_names_it(files: Files, chromium: Any) -> None:
    """The frame is then that of web tiles, in which values stay those of the map."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Background) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        with viewing(*files.arguments, "--background", f"http://{host}/{{z}}/{{x}}/{{y}}.png") as address:
            assert f"img-src 'self' data: http://{host};" in ask(address).headers["content-security-policy"]
            with opened(chromium, address) as shown:
                for x, y in ((0.6, 0.5), (0.45, 0.65)):
                    said = shown.point(x, y)
                    row, column = rowcol(PLACE, *shown.place(EPSG))
                    metres = files.stored_HW[row, column] * 0.1
                    assert float(said["map"].removesuffix(" m")) == pytest.approx(metres)
                hosts = {one.split("/")[2] for one in shown.asked if not one.startswith("data:")}
                assert hosts == {host, address.split("/")[2]}
                assert shown.page.locator(".bar").inner_text() in ("200 m", "500 m")
        server.shutdown()
    zoom, x, y = (int(part) for part in _Background.asked[0].removesuffix(".png").split("/")[1:])
    # EPSG:3338's place of the map, in degrees, as the web's tiles are counted.
    degrees = rasterio.warp.transform(EPSG, "EPSG:4326", [200_900], [1_699_300])
    across = (degrees[0][0] + 180) / 360 * 2**zoom
    down = (1 - np.arcsinh(np.tan(np.radians(degrees[1][0]))) / np.pi) / 2 * 2**zoom
    assert abs(across - x) < 4
    assert abs(down - y) < 4


@pytest.mark.slow
def test_a_map_on_s3_is_the_map(files: Files, moto: S3Server) -> None:
    with environment_of(moto):
        import fsspec

        for path in (files.map, files.heights):
            fsspec.filesystem("s3").put_file(str(path), f"bucket/view/{path.name}")
        maps = "s3://bucket/view/scene.chm.tif", "--heights", "s3://bucket/view/lidar.tif"
        with viewing(*maps) as address:
            rgba_HW4 = tile(address, 0, 0, 2, 1)
            part_HW = files.stored_HW[TILE : 2 * TILE, 2 * TILE : 3 * TILE] * 0.1
            scale = height_scale(np.append((files.stored_HW * 0.1).ravel(), 12.0))
            np.testing.assert_array_equal(rgba_HW4[..., :3], scale.rgb(part_HW))
            stored = files.stored_HW[300, 400]
            assert float(values(address, 300, 400)[0].removesuffix(" m")) == pytest.approx(stored * 0.1)


def test_what_cannot_be_viewed_is_refused_in_one_line(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "a.tif"
    text.write_text("no raster")
    bare, far = tmp_path / "bare.tif", tmp_path / "far.tif"
    shape = {"driver": "GTiff", "count": 1, "height": 8, "width": 8, "dtype": "int16"}
    with rasterio.open(bare, "w", transform=PLACE, **shape) as raster:
        raster.write(np.ones((1, 8, 8), np.int16))
    with rasterio.open(far, "w", transform=from_origin(900_000, 900_000, 2, 2), crs=EPSG, **shape) as raster:
        raster.write(np.ones((1, 8, 8), np.int16))
    here = str(files.map)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for arguments, said in {
            (str(text),): f"{text}: cannot be read as a raster",
            (str(tmp_path / "none.tif"),): "none.tif",
            (str(bare),): f"{bare}: has no CRS, so its place is unknown; assign one (gdal_edit.py -a_srs",
            (here, "--heights", str(far)): f"{far}: does not overlap {here}",
            (here, "--image", str(far)): f"{far}: does not overlap {here}",
            (here, "--image", str(bare)): f"{bare}: has no CRS",
            (here, "--background", "ftp://x/{z}"): "--background ftp://x/{z}: give the address of web tiles",
            (here, "--port", "99999"): "--port 99999: give 1 to 65535",
            (here, "--port", str(taken.getsockname()[1])): "cannot be used (Address already in use)",
        }.items():
            done = treeline("view", *arguments, "--no-browser")
            assert (done.returncode, done.stdout) == (2, ""), arguments
            assert len(done.stderr.splitlines()) == 1
            assert said in done.stderr
    monkeypatch.setitem(sys.modules, "rio_tiler.utils", None)
    done = treeline("view", here, "--no-browser")
    assert done.returncode == 2
    assert "pip install 'treeline[view]'" in done.stderr


def test_classes_and_labels_of_tiles_are_said_by_name_and_unit(tmp_path: Path) -> None:
    """Each class has its own colour; pixels without a class are transparent."""
    grid = Grid(CRS.from_string(EPSG), PLACE, 300, 300)
    block = Block(Span(0, 300), Span(0, 300))
    number_HW = np.where(np.indices((300, 300))[1] < 100, 3, 7).astype(np.uint8)
    number_HW[:50] = 0
    cover_HW = np.random.default_rng(0).uniform(20, 60, (300, 300)).astype(np.float32)
    cover_HW[:50] = NODATA
    classes = coloured_classes(((3, "shrub"), (7, "water")))
    tags = {CLASSES_TAG: json.dumps({3: "shrub", 7: "water"}), "TREELINE_VERSION": "0.1.0"}
    bands = {
        "a.classes.tif": MapBand("cover", dtype="uint8", nodata=0, classes=classes),
        "a.tiles.tif": MapBand("tree cover", "%", dtype="float32"),
    }
    for (name, band), stored_HW in zip(bands.items(), (number_HW, cover_HW), strict=True):
        own = tags if band.classes else {"TREELINE_VERSION": "0.1.0"}
        with map_writer(str(tmp_path / name), grid, (band,), own) as write:
            write(block, stored_HW[None])
    planned = plan(ViewConfig(tuple(str(tmp_path / name) for name in bands)))
    rasters = OpenRasters()
    texts = {layer.name: layer.text(rasters, Place(200_250, 1_699_750, grid.crs)) for layer in planned.layers}
    assert texts == {"a.classes": "water", "a.tiles": f"{cover_HW[125, 125]:.6g} %"}
    at = tile_grid(planned.frame.grid, 0, 0, 0)
    (rgba_4HW,) = (layer.rgba(rasters, at) for layer in planned.layers if layer.kind == "classes")
    assert not rgba_4HW[3, :50].any()
    assert (rgba_4HW[3, 50:] == 255).all()
    for one, columns in zip(classes, (slice(100), slice(100, 256)), strict=True):
        assert (rgba_4HW[:3, 50:, columns] == np.array(one.colour)[:, None, None]).all()
    (about,) = (one for one in planned.about()["layers"] if one["name"] == "a.tiles")
    assert about["title"] == "tree cover (%)"
    assert 20 < about["scale"]["low"] < 21
    rasters.close()


def test_layers_of_a_panel_are_means_of_the_files(files: Files) -> None:
    config = ViewConfig((str(files.map),), str(files.image), (str(files.heights),))
    layers, crs = overview(config, COLUMNS // 2)
    assert crs == EPSG
    assert [(layer.name, layer.kind) for layer in layers] == [
        ("image", "image"),
        ("map", "height"),
        ("measured", "height"),
        ("difference", "difference"),
    ]
    _, height, measured, difference = layers
    assert height.bounds == (200_000, 1_700_000 - 2 * ROWS, 200_000 + 2 * COLUMNS, 1_700_000)
    four_HW22 = files.stored_HW.reshape(ROWS // 2, 2, COLUMNS // 2, 2).swapaxes(1, 2)
    known_HW = (four_HW22 != NODATA).all((2, 3))
    np.testing.assert_array_equal(height.valid_HW, known_HW)
    means_HW = 0.1 * four_HW22.mean((2, 3))
    np.testing.assert_allclose(height.values[known_HW], means_HW[known_HW], atol=0.051)  # decimetres
    with_both_HW = height.valid_HW & measured.valid_HW
    assert (difference.valid_HW <= with_both_HW).all()
    assert difference.valid_HW.sum() > 0.9 * with_both_HW.sum()


def test_a_turned_map_is_shown_in_its_own_grid(tmp_path: Path) -> None:
    turned = Affine.translation(200_000, 1_700_000) @ Affine.rotation(30) @ Affine.scale(2, -2)
    stored_HW = np.random.default_rng(0).integers(0, 99, (90, 120)).astype(np.int16)
    path = tmp_path / "turned.chm.tif"
    with map_writer(str(path), Grid(CRS.from_string(EPSG), turned, 90, 120), (HEIGHT,), {}) as write:
        write(Block(Span(0, 90), Span(0, 120)), stored_HW[None])
    planned = plan(ViewConfig((str(path),)))
    (about,) = planned.about()["layers"]
    assert about["rect"] == pytest.approx([0, 0, 240, 180], abs=1e-3)
    (layer,), rasters = planned.layers, OpenRasters()
    rgba_4HW = layer.rgba(rasters, tile_grid(planned.frame.grid, 0, 0, 0))
    scale = height_scale(stored_HW * 0.1)
    np.testing.assert_array_equal(np.moveaxis(rgba_4HW[:3, :90, :120], 0, -1), scale.rgb(stored_HW * 0.1))
    a, b, c, d, e, f = planned.about()["to_crs"]
    place = Place(a * 61 + b * 41 + c, d * 61 + e * 41 + f, planned.frame.grid.crs)
    assert layer.text(rasters, place) == f"{stored_HW[20, 30] * 0.1:.6g} m"
    rasters.close()


def test_turned_and_south_up_maps_lie_as_on_the_ground() -> None:
    """Places of an overview's pixels in the map's own grid: rows go south and columns east."""
    for transform in (Affine(2, 0, 0, 0, 2, 0), Affine.rotation(30) @ Affine.scale(3, -3), PLACE):
        grid = smaller(Grid(CRS.from_string(EPSG), transform, 300, 200), 100)
        assert grid.transform.a > 0 > grid.transform.e
        assert max(grid.height, grid.width) == 100


def test_a_job_on_a_cluster_cannot_show_maps() -> None:
    from cluster.jobs.submit import job_of

    with pytest.raises(InputError, match="run it here"):
        job_of(["view", "s3://bucket/a.chm.tif"])
