"""Maps in a page without a server, in a real browser: what is said is what is there, by mouse and by keys."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import needs_browser
from open_page import NEAR, opened, running_chromium
from policies import assert_forbidding
from rasterio.transform import from_bounds, rowcol
from rasterio.warp import transform_bounds

from inference.maps.class_colours import coloured_classes
from inference.view.page import head_in_page, script_source
from inference.view.panel import Layer, panel, panel_page
from shards.draw.html import page
from shards.errors import InputError

pytestmark = [pytest.mark.browser, needs_browser]

CRS = "EPSG:3338"
BOUNDS = (200_000.0, 1_699_600.0, 200_600.0, 1_700_000.0)
SHAPE = (80, 120)
"""Pixels of 5 m."""
CLASSES = ((4, "shrub"), (9, "</script>"))


def layers() -> list[Layer]:
    rng = np.random.default_rng(0)
    rows, columns = np.indices(SHAPE)
    height_HW = (rows // 8 + columns // 12 + rng.uniform(0, 0.4, SHAPE)).astype(np.float32)
    measured_HW = np.clip(height_HW + rng.normal(0, 1.5, SHAPE), 0, None)
    valid_HW = np.ones(SHAPE, np.bool_)
    valid_HW[:20, :30] = False
    partly_HW = valid_HW & (columns < 100)
    rgb_HW3 = np.stack([255 - 2 * columns, 3 * rows, 0 * rows + 40], -1).astype(np.uint8)
    number_HW = np.where(rows < 40, 4, 9)
    return [
        Layer("scene", "image", rgb_HW3, valid_HW, BOUNDS),
        Layer("map", "height", height_HW, valid_HW, BOUNDS),
        Layer("measured", "height", measured_HW, partly_HW, BOUNDS),
        Layer("difference", "difference", height_HW - measured_HW, partly_HW, BOUNDS),
        Layer("cover", "classes", number_HW, valid_HW, BOUNDS, coloured_classes(CLASSES)),
    ]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def url(tmp_path: Path) -> str:
    path = tmp_path / "panel.html"
    path.write_text(panel_page("a <map>", layers(), CRS))
    assert_forbidding(path.read_text())
    return path.as_uri()


def test_what_is_said_is_what_is_there(chromium: Any, url: str) -> None:
    of_name = {layer.name: layer for layer in layers()}
    transform = from_bounds(*BOUNDS, SHAPE[1], SHAPE[0])
    with opened(chromium, url) as shown:
        for x, y in ((0.56, 0.5), (0.31, 0.77), (0.22, 0.12), (0.9, 0.3)):
            said = shown.point(x, y)
            row, column = rowcol(transform, *shown.place(CRS))
            for name in ("map", "measured", "difference"):
                layer = of_name[name]
                if not layer.valid_HW[row, column]:
                    assert said[name] == "no value"
                else:
                    assert float(said[name].removesuffix(" m")) == pytest.approx(
                        float(layer.values[row, column]), abs=0.0051
                    )
            if of_name["cover"].valid_HW[row, column]:
                assert said["cover"] == ("shrub" if row < 40 else "</script>")
            assert "scene" not in said, "a picture measures nothing"
        shown.page.locator(".in").click()
        shown.page.mouse.move(500, 300)
        shown.page.mouse.down()
        shown.page.mouse.move(430, 360, steps=3)
        shown.page.mouse.up()
        said = shown.point(0.3, 0.6)
        row, column = rowcol(transform, *shown.place(CRS))
        assert float(said["map"].removesuffix(" m")) == pytest.approx(
            float(of_name["map"].values[row, column]), abs=0.0051
        )
        assert shown.said == []
        assert [one for one in shown.asked if not one.startswith(("file://", "data:"))] == []


def test_the_border_moves_between_two_layers(chromium: Any, url: str, tmp_path: Path) -> None:
    with opened(chromium, url) as shown:
        handle = shown.page.locator(".handle")
        box = shown.page.locator(".stage").bounding_box()
        pictures = {}
        for name in ("scene", "map"):
            shown.choose("left", name)
            shown.choose("right", name)
            pictures[name] = shown.picture(tmp_path)
        shown.choose("left", "scene")
        for share in (0.5, 0.25, 0.7):
            grip = handle.bounding_box()
            shown.page.mouse.move(grip["x"] + grip["width"] / 2, box["y"] + 50)
            shown.page.mouse.down()
            shown.page.mouse.move(box["x"] + share * box["width"], box["y"] + 50, steps=4)
            shown.page.mouse.up()
            shown.settle()
            assert handle.get_attribute("aria-valuenow") == str(round(100 * share))
            picture_HW3 = shown.picture(tmp_path)
            cut = round(share * picture_HW3.shape[1])
            np.testing.assert_allclose(
                picture_HW3[:-60, : cut - 2], pictures["scene"][:-60, : cut - 2], atol=NEAR
            )
            np.testing.assert_allclose(
                picture_HW3[:-60, cut + 2 :], pictures["map"][:-60, cut + 2 :], atol=NEAR
            )
        handle.focus()
        shown.page.keyboard.press("ArrowLeft")
        shown.settle()
        assert handle.get_attribute("aria-valuenow") == "68"
        assert shown.said == []


def test_opacity_shows_the_layer_below(chromium: Any, url: str, tmp_path: Path) -> None:
    with opened(chromium, url) as shown:
        shown.choose("left", "map")
        shown.choose("right", "map")
        shown.choose("below", "scene")
        shown.page.locator(".opacity").fill("0")
        shown.settle()
        below_HW3 = shown.picture(tmp_path)
        shown.page.locator(".opacity").fill("100")
        shown.choose("below", "nothing")
        shown.choose("left", "scene")
        shown.choose("right", "scene")
        np.testing.assert_array_equal(shown.picture(tmp_path)[:-60], below_HW3[:-60])


def test_keys_reach_everything(chromium: Any, url: str) -> None:
    with opened(chromium, url) as shown:
        reached = shown.tabbed(9)
        assert reached[:9] == ["left", "right", "below", "opacity", "out", "in", "whole", "map", "handle"]
        shown.page.keyboard.press("Shift+Tab")
        shown.settle()
        before = shown.place(CRS)
        shown.page.keyboard.press("ArrowRight")
        shown.page.keyboard.press("ArrowDown")
        shown.settle()
        x, y = shown.place(CRS)
        assert x > before[0]
        assert y < before[1], "down is south"
        bar = shown.page.locator(".bar")
        length = bar.inner_text()
        for _ in range(4):
            shown.page.keyboard.press("+")
        shown.settle()
        assert bar.inner_text() != length
        assert shown.place(CRS) == (x, y)
        assert shown.said == []


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_by_day_and_by_night(chromium: Any, url: str, dark: bool) -> None:
    with opened(chromium, url, 360, 740, dark) as shown:
        assert shown.page.evaluate("document.documentElement.scrollWidth") == 360
        ground, ink = shown.page.evaluate(
            "['background-color', 'color'].map((name) =>"
            " getComputedStyle(document.querySelector('.treeline-map')).getPropertyValue(name))"
        )
        by_night, by_day = (
            ("rgb(27, 27, 26)", "rgb(228, 228, 224)"),
            ("rgb(255, 255, 255)", "rgb(34, 34, 34)"),
        )
        assert (ground, ink) == (by_night if dark else by_day)
        shown.page.locator(".map").scroll_into_view_if_needed()
        assert shown.point(0.3, 0.6)["map"].endswith(" m")


def test_the_scale_bar_is_as_long_as_it_says_in_feet_and_in_degrees(chromium: Any, tmp_path: Path) -> None:
    """600 x 400 m on the ground, whatever the CRS."""
    for crs in ("EPSG:3338", "EPSG:4326", "EPSG:2264"):
        metres = (300_000.0, 3_900_000.0, 300_600.0, 3_900_400.0)  # UTM 17 N, where EPSG:2264 (feet) is used
        bounds = transform_bounds("EPSG:32617", crs, *metres) if crs != "EPSG:3338" else BOUNDS
        path = tmp_path / "panel.html"
        valid_HW = np.ones(SHAPE, np.bool_)
        path.write_text(panel_page("map", [Layer("map", "height", np.ones(SHAPE), valid_HW, bounds)], crs))
        with opened(chromium, path.as_uri()) as shown:
            bar = shown.page.locator(".bar")
            number, unit = bar.inner_text().split()
            said = float(number) * (1000 if unit == "km" else 1)
            wide = bar.bounding_box()["width"]
            extent = shown.page.evaluate("document.querySelector('.treeline-map').view.about.extent")
            scale = shown.page.evaluate("document.querySelector('.treeline-map').view.frame.scale")
            assert wide / scale == pytest.approx(said, rel=0.05)
            # Bounds of a turned rectangle are a little larger than it.
            assert extent[2] == pytest.approx(600, rel=0.05)
            assert extent[3] == pytest.approx(400, rel=0.05)


def test_several_in_a_report_s_page(chromium: Any, tmp_path: Path) -> None:
    elements = {name: panel(layers(), CRS, name) for name in ("one", "two")}
    path = tmp_path / "report.html"
    path.write_text(page("Report", elements, head=head_in_page(), script_source=script_source()))
    with opened(chromium, path.as_uri(), 360, 740) as shown:
        drawn = "[...document.querySelectorAll('.treeline-map')].map((one) => one.view.frame.width > 0)"
        assert shown.page.evaluate(drawn) == [True, True]
        assert shown.page.evaluate("document.documentElement.scrollWidth") == 360
        assert shown.said == []


def test_an_unknown_crs_is_named() -> None:
    with pytest.raises(InputError, match="no known CRS"):
        panel(layers(), "EPSG:0", "map")
