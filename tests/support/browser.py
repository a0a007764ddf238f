"""A headless browser, where there is one: how it lays a page out."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium on the PATH")

NARROW = 500
"""Width of a small screen, in pixels; headless Chromium makes no narrower window."""

QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
QUIET += ("--disable-background-networking", "--disable-component-update")
_ASKING = """<script>addEventListener('load', () => { document.body.innerHTML = 'found ' + JSON.stringify({
  picture_widths: [...document.images].map(i => i.naturalWidth),
  page_width: document.documentElement.scrollWidth,
  background: getComputedStyle(document.body).backgroundColor}) + ' end' })</script>"""


@dataclass(frozen=True)
class Layout:
    """What a browser makes of a page; widths in pixels."""

    picture_widths: list[int]
    """Own width of each picture; 0 if it is not shown."""
    page_width: int
    """More than the window's if a reader has to scroll sideways."""
    background: str


def dom(page: str, folder: Path, *options: str) -> str:
    """The page as the browser has it once loaded."""
    copy = folder / "copy.html"
    copy.write_text(page)
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [str(BROWSER), *QUIET, profile, *options, "--dump-dom", copy.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def laid_out(page: str, folder: Path, width: int = 1200, dark: bool = False) -> Layout:
    """Ask the browser by a script; the page forbids scripts, so they are allowed in a copy."""
    allowing = page.replace("default-src &#39;none&#39;", "script-src 'unsafe-inline'")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    window = f"--window-size={width},900"
    said = dom(allowing.replace("</head>", f"{_ASKING}</head>"), folder, scheme, window, "--hide-scrollbars")
    found = re.search(r"found (.*) end", said)
    assert found, said
    return Layout(**json.loads(found[1]))
