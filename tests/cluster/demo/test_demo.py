"""`treeline demo` from scenes to report: one page that says what was scored, and shows it on any screen."""

import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from browser import NARROW, laid_out, needs_browser
from matplotlib.image import imread
from policies import assert_forbidding

from cluster.config import DemoConfig
from cluster.demo.run import run_demo
from shards.commands.inspect import describe
from shards.errors import InputError
from shards.read.dataset import open_dataset

pytestmark = pytest.mark.slow


class Texts(HTMLParser):
    """What a page says."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.said.append(data)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest demo."""
    out = tmp_path_factory.mktemp("demo") / "<b>out"
    run_demo(DemoConfig(str(out), train_scenes=3, unseen_scenes=2, scene_size=192, epochs=1))
    return out


def test_the_report_says_what_was_scored_and_run(demo: Path) -> None:
    said = Texts((demo / "report.html").read_text()).said
    evaluation = json.loads((demo / "evaluation" / "evaluation.json").read_text())
    assert any(text.lower().startswith(evaluation["verdict"].lower()) for text in said)
    for name, score in evaluation["scores"].items():
        assert said[said.index(name) + 1] == f"{score['all']['count']:,}"
    for height_map in (demo / "maps").glob("*.chm.tif"):
        assert height_map.name in said
    assert describe(open_dataset(str(demo / "chips"))) in said
    assert (demo / "run" / "config.yaml").read_text() in said
    assert {"Missing", "Chips", "Training", "Steps"} & set(said) == {
        "Chips",
        "Training",
        "Steps",
    }


def test_the_report_needs_nothing_else_and_is_escaped(demo: Path) -> None:
    page = (demo / "report.html").read_text()
    pictures = re.findall(r'<img alt="[^"]+" src="data:image/png;base64,([^"]*)">', page)
    assert len(pictures) == page.count("<img") == 8, "scores, three of chips, curves, bands, heights, sample"
    for picture in pictures:
        assert imread(BytesIO(b64decode(picture)))[..., :3].std() > 0.01
    assert page.count('"kind":"difference"') == 2, "a panel for each map, with measured heights"
    assert "<b>out" not in page
    assert_forbidding(page)


@needs_browser
def test_the_report_fits_a_small_screen(demo: Path, tmp_path: Path) -> None:
    layout = laid_out((demo / "report.html").read_text(), tmp_path, NARROW, dark=True)
    assert min(layout.picture_widths) > 100
    assert layout.page_width == NARROW
    assert layout.background == "rgb(27, 27, 26)"


def test_a_folder_that_is_not_empty_is_refused(demo: Path) -> None:
    with pytest.raises(InputError, match="is not empty; choose another folder"):
        run_demo(DemoConfig(str(demo)))
