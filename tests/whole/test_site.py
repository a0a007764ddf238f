"""The site of the documentation: built without a warning, complete without a network, and searchable.

mkdocs makes a page that `nav` lacks, a link to nothing and a missing heading a warning, and --strict makes a
warning an error.
"""

import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import DOCS, PAGES, ROOT

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
QUIET += ["--disable-background-networking", "--disable-component-update"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the built site."""
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    for page in set(PAGES) - {"README", "CONTRIBUTING"}:
        name = "index.html" if page == "index" else f"{page}/index.html"
        assert (site / name).is_file(), page


def test_the_navigation_names_every_page_once() -> None:
    """mkdocs would say so, too; this test says it at once, without building."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = list(_pages_of(nav))
    assert sorted(named) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def _pages_of(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        yield from _pages_of(list(nav.values()))
    else:
        for one in nav:
            yield from _pages_of(one)


def test_names_that_stay_are_in_the_reference(site: Path) -> None:
    import shards
    import treeline

    for module in (treeline, shards):
        text = (site / "api" / module.__name__ / "index.html").read_text()
        headings = set(re.findall(r'<h2 id="[^"]*"[^>]*>(.*?)</h2>', text, re.S))
        named = {re.sub(r"<[^>]+>", "", heading).split()[0] for heading in headings}
        known = {name for name in module.__all__ if name not in ("InputError", "DatasetError")}
        assert {f"{module.__name__}.{name}" for name in known} <= named


class Loaded(HTMLParser):
    """Addresses that a browser asks for by itself when it opens a page."""

    BY_ITSELF = (
        *(("script", "src"), ("img", "src"), ("img", "srcset"), ("iframe", "src"), ("source", "src")),
        *(("source", "srcset"), ("video", "src"), ("audio", "src"), ("embed", "src"), ("object", "data")),
    )
    LINKS_THAT_LOAD = frozenset(
        ("stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "manifest")
    )

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.addresses += [values[name] for kind, name in self.BY_ITSELF if tag == kind and name in values]
        if tag == "link" and self.LINKS_THAT_LOAD & set(values.get("rel", "").split()):
            self.addresses.append(values.get("href", ""))
        self.addresses += re.findall(r"url\(([^)]*)\)", values.get("style", ""))


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """Neither by pages nor by style sheets; what scripts fetch, the browser's test sees."""
    pages, sheets = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > 20
    assert sheets
    for path in (*pages, *sheets):
        text = path.read_text()
        loaded = Loaded()
        if path.suffix == ".html":
            loaded.feed(text)
            assert loaded.addresses
        styles = text if path.suffix == ".css" else " ".join(re.findall(r"<style.*?</style>", text, re.S))
        loaded.addresses += re.findall(r"(?:url\(|@import )([^);]*)", styles)
        far = [one for one in map(str, loaded.addresses) if re.match(r"(url\()?['\" ]*(https?:)?//", one)]
        assert not far, f"{path.name}: {far}"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where a server on this machine has the site."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Any]:
    """A tab of a browser; it notes every request, and everything that goes wrong."""
    if BROWSER is None:
        pytest.skip("needs chromium on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=QUIET)
        tab = browser.new_page()
        tab.requested, tab.wrong = [], []
        tab.on("request", lambda request: tab.requested.append(request.url))
        tab.on("console", lambda said: tab.wrong.append(said.text) if said.type == "error" else None)
        tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
        yield tab
        browser.close()


@pytest.mark.browser
def test_searching_finds_a_page(page: Any, address: str) -> None:
    page.goto(address)
    page.keyboard.press("/")  # the keyboard reaches the search
    page.keyboard.type("halo", delay=30)
    found = page.locator(".md-search-result__item a").first
    found.wait_for(timeout=60_000)
    page.goto(found.get_attribute("href"))
    assert "halo" in page.locator("article").inner_text()
    assert not page.wrong


@pytest.mark.browser
def test_pages_ask_nobody_else_and_are_readable_in_the_dark_and_on_a_telephone(
    page: Any, address: str
) -> None:
    for name in ("", "tutorials/own-scenes/", "prediction/", "api/treeline/"):
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 360, "height": 800})
        page.goto(f"{address}/{name}")
        page.wait_for_load_state("networkidle")
        assert page.locator("body").get_attribute("data-md-color-scheme") == "slate"
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
    assert page.requested
    assert [url for url in page.requested if not url.startswith((address, "data:", "blob:"))] == []
    assert not page.wrong
