"""A page in a browser that is asked questions: what it says, what it fetches, what it complains of."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from browser import BROWSER, QUIET
from matplotlib.image import imread
from numpy.typing import NDArray

NEAR = 0.02
"""Difference between colours, 0..1, that clipping makes where pixels are smoothed."""


IS_QUIET = """[...document.querySelectorAll(".treeline-map")].every(({ view }) => view && !view.waiting
  && !view.isAsking && view.layers.every((layer) => layer.tiles
    ? [...layer.tiles.values()].every((tile) => tile.complete) : layer.drawable && layer.drawable.width))"""
"""Whether all maps of a page have drawn and said what they have to."""


@dataclass
class OpenPage:
    """A page of maps."""

    page: Any
    """Page of playwright."""
    said: list[str] = field(default_factory=list)
    """Lines of its console, and its errors."""
    asked: list[str] = field(default_factory=list)
    """URLs that it asked for."""

    def settle(self) -> None:
        """Wait until nothing is drawn or asked for any more: twice, since an event may be on its way."""
        quiet = 0
        for _ in range(600):
            self.page.wait_for_timeout(50)
            quiet = quiet + 1 if self.page.evaluate(IS_QUIET) else 0
            if quiet == 2:
                return
        raise TimeoutError(f"the page is never quiet; it said {self.said}")

    def point(self, x: float, y: float) -> dict[str, str]:
        """Point at a place of the map, in shares of its width and height; what is said, by name."""
        box = self.page.locator(".map").bounding_box()
        self.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        self.settle()
        return self.values()

    def values(self) -> dict[str, str]:
        both = "[pair.firstChild, pair.lastChild].map((part) => part.textContent.trim())"
        return dict(
            self.page.evaluate(f"[...document.querySelectorAll('.values > span')].map((pair) => {both})")
        )

    def place(self, crs: str) -> tuple[float, float]:
        """Where the pointer is."""
        x, y = self.values()[crs].split(", ")
        return float(x), float(y)

    def choose(self, side: str, layer: str) -> None:
        self.page.locator(f"select.{side}").select_option(label=layer)
        self.settle()

    def picture(self, folder: Path) -> NDArray[np.float64]:
        """What the map shows, without the handle: (H, W, 3), 0..1."""
        path = folder / "map.png"
        show = "(handle, opacity) => { handle.style.opacity = opacity }"
        self.page.locator(".handle").evaluate(show, 0)
        self.page.locator(".stage").screenshot(path=path)
        self.page.locator(".handle").evaluate(show, 1)
        return np.asarray(imread(path)[..., :3])

    def tabbed(self, most: int = 20) -> list[str]:
        """Classes of the elements that the Tab key reaches, in their order."""
        reached = []
        for _ in range(most):
            self.page.keyboard.press("Tab")
            reached.append(self.page.evaluate("document.activeElement.className"))
        return reached


@contextmanager
def running_chromium() -> Iterator[Any]:
    """A browser of playwright's; starting one takes longer than most tests."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=[*QUIET])
        yield browser
        browser.close()


@contextmanager
def opened(
    chromium: Any, url: str, width: int = 1000, height: int = 760, dark: bool = False
) -> Iterator[OpenPage]:
    """Open a page in a window of its own."""
    scheme = "dark" if dark else "light"
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    open_page = OpenPage(context.new_page())
    open_page.page.on("console", lambda message: open_page.said.append(message.text))
    open_page.page.on("pageerror", lambda error: open_page.said.append(str(error)))
    open_page.page.on("request", lambda request: open_page.asked.append(request.url))
    open_page.page.goto(url)
    open_page.settle()
    try:
        yield open_page
    finally:
        context.close()
