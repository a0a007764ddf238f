"""A report in a real browser: nothing is fetched, nothing complains, and every screen has room."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import needs_browser
from open_page import opened, running_chromium
from report_runs import Run

from inference.config import ReportConfig
from inference.report.run import report

pytestmark = [pytest.mark.browser, needs_browser]

PHONE = 360
"""Width of a small phone, in pixels."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def url(made: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "page.html"
    beside = {"image": (str(made.scene),), "heights": (str(made.heights),)}
    report(ReportConfig(str(made.run), (str(made.map),), out=str(path), **beside))
    return path.as_uri()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, 1200])
def test_a_page_fits_any_screen_and_asks_for_nothing(chromium: Any, url: str, width: int, dark: bool) -> None:
    with opened(chromium, url, width=width, dark=dark) as shown:
        assert shown.page.evaluate("document.documentElement.scrollWidth") == width
        ground = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(27, 27, 26)" if dark else "rgb(255, 255, 255)")
        sizes = shown.page.evaluate("[...document.images].map(one => one.naturalWidth)")
        assert len(sizes) == 5, "scores, worst, median and best chips, curves"
        assert min(sizes) > 100
        assert shown.said == []
        assert [one for one in shown.asked if not one.startswith("data:")] == [url]


@pytest.mark.parametrize("width", [PHONE, 1200])
def test_a_link_in_the_contents_shows_its_section(chromium: Any, url: str, width: int) -> None:
    with opened(chromium, url, width=width, height=700) as shown:
        contents = shown.page.locator(".contents")
        contents.get_by_text("Training").click()
        head = shown.page.locator("h2", has_text="Training")
        top, stays = head.bounding_box()["y"], contents.bounding_box()
        assert 0 <= top < 150
        is_sticky = width > PHONE
        assert (stays["y"] == 0) == is_sticky
        assert not is_sticky or stays["height"] < top, "the heading is not below the contents"
        assert shown.said == []


def test_a_map_in_the_page_says_its_values(chromium: Any, url: str) -> None:
    with opened(chromium, url, width=1200, height=900) as shown:
        shown.page.locator(".map").scroll_into_view_if_needed()
        said = shown.point(0.45, 0.5)
        metres = {name: float(said[name].removesuffix(" m")) for name in ("map", "measured", "difference")}
        assert metres["difference"] == pytest.approx(-1, abs=0.011)
        assert metres["map"] - metres["measured"] == pytest.approx(metres["difference"], abs=0.011)
        assert shown.said == []


def test_all_options_are_folded_and_open_without_a_script(chromium: Any, url: str) -> None:
    with opened(chromium, url) as shown:
        options = shown.page.locator("details pre")
        assert not options.is_visible()
        shown.page.locator("summary").click()
        assert options.is_visible()
