"""Pages: any text stays text, numbers are aligned, a browser runs nothing, and every screen has room."""

import html
import re
import tomllib
from collections.abc import Callable
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import NARROW, dom, laid_out, needs_browser
from markupsafe import Markup

from shards.draw.html import Numeral, figure, folded, heading, listing, page, sentence, statement, table
from shards.draw.picture import new_figure, png

ROOT = Path(__file__).parents[3]
NASTY = "</td><script>alert(\"1\")</script> & {{ 1 + 1 }} 'ü' 树"
PIECES = {
    "head": lambda text: table((text, "b"), [("a", "b")]),
    "cell": lambda text: table(("a", "b"), [(text, 1)]),
    "figure": lambda text: figure(b"", text),
    "heading": heading,
    "sentence": sentence,
    "listing": listing,
    "statement": statement,
    "folded": lambda text: folded(text, heading("a")),
    "a string added": lambda text: heading("a") + text,
}


class Reader(HTMLParser):
    """Collects the tags, the texts and the alternative texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.said: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.said += [value or "" for name, value in attrs if name == "alt"]

    def handle_data(self, data: str) -> None:
        self.said.append(data)


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES.keys())
def test_any_text_stays_text(piece: Callable[[str], Markup]) -> None:
    said, plain = Reader(piece(NASTY)), Reader(piece("plain"))
    assert said.tags == plain.tags
    assert [text.replace(NASTY, "plain") for text in said.said] == plain.said
    assert "plain" in "".join(plain.said)


def test_titles_headings_and_whole_sections_stay_text() -> None:
    said = Reader(page(NASTY, {NASTY: NASTY}, NASTY, NASTY))
    assert "".join(said.said).count(NASTY) == 6, "title, h1, lead, h2, section, footer"
    assert "script" not in said.tags


def test_a_long_page_begins_with_links_to_its_sections_and_a_short_one_has_none() -> None:
    names = ["Scores", NASTY, "Maps & more", "Versions"]
    text = page("a", dict.fromkeys(names, heading("b")))
    contents = text.partition("<nav")[2].partition("</nav>")[0]
    links = re.findall(r'<a href="#([^"]+)">(.*?)</a>', contents)
    assert [html.unescape(name) for _, name in links] == names
    heads = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', text)
    assert heads == links
    assert "<nav" not in page("a", dict.fromkeys(names[:3], heading("b")))


def test_numbers_are_aligned_and_text_that_looks_like_one_is_not() -> None:
    rows = [("50%", 1234, 0.012345, Numeral("50%"), None), ("2012", 5, 12345.6, Numeral("0 to 4"), "text")]
    cells = re.findall(r"<(t[hd])( class=number)?>([^<]*)", table(("name", *"abcd"), rows))
    assert [(text, bool(mark)) for tag, mark, text in cells if tag == "td"] == [
        *(("50%", False), ("1,234", True), ("0.01235", True), ("50%", True), ("", False)),
        *(("2012", False), ("5", True), ("12,346", True), ("0 to 4", True), ("text", False)),
    ]
    assert [bool(mark) for tag, mark, _ in cells if tag == "th"] == [False, True, True, True, False]


def test_everything_beside_the_modules_is_shipped() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["*"]
    packages = ("shards", "ingest", "trainer", "inference", "cluster")
    beside = [
        path.name
        for package in packages
        for path in (ROOT / package).rglob("*.*")
        if path.suffix != ".py" and path.parent.name != "__pycache__"
    ]
    assert "page.html.j2" in beside
    assert not [name for name in beside if not any(fnmatch(name, pattern) for pattern in patterns)]


@needs_browser
def test_a_browser_runs_no_script_that_got_through(tmp_path: Path) -> None:
    script = Markup("<script>document.title = 'it ran'</script>")
    assert "<title>quiet</title>" in dom(page("quiet", {"a": script}), tmp_path)


@needs_browser
def test_wide_content_scrolls_by_itself_and_dark_is_dark(tmp_path: Path) -> None:
    wide = table([f"column {n}" for n in range(40)], [range(40)]) + listing("x" * 500) + heading("x" * 500)
    text = page("x" * 200, {"wide": wide + figure(png(new_figure(13, 2)), "nothing")}, "x" * 500)
    for width in (NARROW, 1200):
        layout = laid_out(text, tmp_path, width)
        assert layout.page_width == width
        assert layout.picture_widths == [1430]
    assert layout.background == "rgb(255, 255, 255)"
    assert laid_out(text, tmp_path, dark=True).background == "rgb(27, 27, 26)"
