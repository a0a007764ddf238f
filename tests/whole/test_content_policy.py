"""Every page forbids what it does not need: nothing is fetched from elsewhere, no text becomes a script.

Pages of matrices and demos take long to make; their own tests hold them to the same policy.
"""

import re
from pathlib import Path

import pytest
from in_process import treeline
from make_sound import make_all
from policies import assert_forbidding, directives
from regressors import scene_to_map
from sound_things import REGIONS
from viewing import ask, viewing

ROOT = Path(__file__).parents[2]
PACKAGES = ("shards", "ingest", "trainer", "inference", "cluster")
TEMPLATES = {"shards/draw/page.html.j2", "inference/view/map_view.html.j2"}
"""Files that hold the beginning of a page."""
WITH_PAGES = {
    "inspect chips --chips 2 --out page": "page/index.html",
    "report run --data chips --out page.html": "page.html",
    "report run --data chips --maps maps/scene.chm.tif --out page.html": "page.html",
    "report pretrained --out page.html": "page.html",
    "attention --data chips --checkpoint pretrained --limit 2 --out page": "page/index.html",
    f"distances embedded {REGIONS} --out page": "page/index.html",
}
"""Commands, and the page that each writes."""


def sources() -> dict[str, str]:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(errors="replace")
        for path in files
        if path.suffix in (".py", ".j2", ".js", ".html", ".css")
    }


def test_pages_begin_in_two_templates_alone_each_with_its_policy() -> None:
    begin = {name for name, text in sources().items() if re.search(r"<html\b|<!doctype html", text, re.I)}
    assert begin == TEMPLATES
    for name in TEMPLATES:
        assert '<meta http-equiv="Content-Security-Policy" content="{{ policy }}">' in sources()[name]
    assert {name for name, text in sources().items() if "default-src" in text} == {
        "shards/draw/content_policy.py"
    }
    served = {name for name, text in sources().items() if re.search(r"HTMLResponse\(|text/html", text)}
    assert served == {"inference/view/server.py"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_all(tmp_path_factory.mktemp("pages"))


@pytest.mark.slow
@pytest.mark.parametrize("command", WITH_PAGES)
def test_every_page_that_a_command_writes_forbids_the_rest(command: str, folder: Path) -> None:
    done = treeline(*command.split(), folder=folder)
    assert done.returncode == 0, done.stderr
    page = folder / WITH_PAGES[command]
    assert_forbidding(page.read_text())
    page.unlink()
    for path in folder.rglob("*.html"):
        raise AssertionError(f"{path}: another page")
    if page.parent != folder:
        for path in page.parent.iterdir():
            path.unlink()


def test_the_page_that_view_serves_forbids_the_rest(tmp_path: Path) -> None:
    scene = scene_to_map(tmp_path)
    done = treeline(
        *("predict", scene, "--checkpoint", "c", "--out", "maps", "--on-mismatch", "ignore"), folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    with viewing(str(tmp_path / "maps" / "scene.chm.tif")) as address:
        answer = ask(address)
    header = directives(answer.headers["content-security-policy"])
    assert header == {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
