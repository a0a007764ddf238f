"""What stands in blocks of README.md and docs/ is true.

- Blocks of commands and of Python run as they stand, page by page, in their order, in a folder of the page's
  own; what a page shows as their output is what they print.
- Blocks that cannot run here say why; their commands and options exist.
- Figures of README.md stand in docs/benchmarks.md, and docs/commands.md names every command.
"""

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from in_process import treeline
from page_files import FILES
from pages import PAGES, ROOT, Block, blocks_of, lines_of, running_blocks, words_of

from cluster import cli
from cluster.options import FILE

DEMO = "treeline demo demo --train-scenes 3 --unseen-scenes 2 --scene-size 256 --epochs 1"
"""First command of many pages; made once."""
ON_RAY = ("cluster",)
"""Pages whose commands start Ray workers."""
NOT_RUN = {
    "S3": 1,
    "a GPU": 1,
    "a browser": 1,
    "a cluster": 4,
    "a network": 4,
    "a server": 1,
    "days of computing": 2,
    "gated weights": 2,
    "the whole demo, in minutes": 1,
}
"""Number of blocks that are not run, by reason."""
PROGRAMS = ("treeline", "python", "ray", "pip", "make")
MEASURED = re.compile(r"[-+]?\d+\.\d+")
RUNS = [page for page in PAGES if any(block.runs for block in blocks_of(page))]


def as_parameter(page: str) -> object:
    if page in ON_RAY:
        return pytest.param(page, id=f"{page}-on_ray", marks=pytest.mark.ray)
    return pytest.param(page)


@pytest.fixture(scope="module")
def process() -> Iterator["subprocess.Popen[str]"]:
    with running_blocks() as process:
        yield process


def run(process: "subprocess.Popen[str]", folder: Path, block: Block, is_first: bool) -> str:
    """What the block prints."""
    assert process.stdin
    assert process.stdout
    text = "\n".join(lines_of(block.text)) if block.language == "sh" else block.text
    process.stdin.write(json.dumps([str(folder), block.language, text, is_first]) + "\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("answer "):
            answer = json.loads(line.removeprefix("answer "))
            assert "failed" not in answer, f"line {block.line}: {answer['failed']}"
            said: str = answer["said"]
            return said
    pytest.fail(f"line {block.line}: the process ended")


@pytest.fixture(scope="module")
def demo(process: "subprocess.Popen[str]", tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of what DEMO leaves, and what it prints."""
    folder = tmp_path_factory.mktemp("made")
    return folder / "demo", run(process, folder, Block("sh", DEMO, 0, ""), True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [as_parameter(page) for page in RUNS])
def test_a_page_runs_and_prints_what_it_shows(
    page: str, process: "subprocess.Popen[str]", tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    blocks = blocks_of(page)
    if page in FILES or any(DEMO in block.text for block in blocks):
        demo, printed = request.getfixturevalue("demo")
    if page in FILES:
        FILES[page](tmp_path, demo)
    before, is_first = None, True
    for block in blocks:
        if block.language == "text":
            if before:
                assert_shows(block, *before)
            continue
        before = None
        if block.title:
            (tmp_path / block.title).write_text(block.text)
        if not block.runs:
            continue
        said, given = "", block
        if block.language == "sh" and DEMO in block.text:
            shutil.copytree(demo, tmp_path / "demo")
            said, given = printed, block._replace(text=block.text.replace(DEMO, ""))
        before = block.language, said + run(process, tmp_path, given, is_first)
        is_first = False


def assert_shows(block: Block, language: str, said: str) -> None:
    """A page shows what was printed: all of it after Python, some lines after commands.

    Numbers with a point may be a fifth off: a training on another processor ends in other heights.
    """
    expected = [" ".join(line.split()) for line in block.text.splitlines()]
    lines = [" ".join(line.split()) for line in said.splitlines()]
    if language == "python":
        assert [MEASURED.sub("#", line) for line in lines] == [MEASURED.sub("#", line) for line in expected]
        pairs = list(zip(lines, expected, strict=True))
    else:
        by_form = {without_speed(line): line for line in lines}
        for line in expected:
            assert without_speed(line) in by_form, f"line {block.line}: {line!r} is not in\n{said}"
        pairs = [(by_form[without_speed(line)], line) for line in expected]
    for found, shown in pairs:
        if "/s" not in shown:
            numbers = [[float(number) for number in MEASURED.findall(text)] for text in (found, shown)]
            assert numbers[0] == pytest.approx(numbers[1], rel=0.2, abs=0.2)


def without_speed(line: str) -> str:
    """A line without figures that another machine, or another training, may change."""
    return re.sub(r"[-+]?[\d,.]+ (?=\w*/s)", "# ", MEASURED.sub("#", line))


def test_blocks_that_are_not_run_say_why_and_are_counted() -> None:
    reasons = Counter(
        block.reason for page in PAGES for block in blocks_of(page) if block.language in ("sh", "python")
    )
    del reasons[""]
    assert dict(sorted(reasons.items())) == NOT_RUN


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_blocks_that_are_tested(page: str) -> None:
    """Not between fences without a language, where nothing would look at them."""
    for block in blocks_of(page):
        assert block.language in ("sh", "python", "text", "yaml", ""), f"line {block.line}: {block.language}"
        if block.language in ("", "yaml"):
            first = {line.split()[0] for line in block.text.splitlines() if line.strip()}
            assert first.isdisjoint(PROGRAMS), f"line {block.line}: mark it as sh"


def not_run() -> Iterator[object]:
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "sh" and block.reason:
                for line in lines_of(block.text):
                    yield pytest.param(line, id=f"{page}:{block.line} {line[:50]}")


@pytest.mark.parametrize("line", [*not_run()])
def test_options_of_a_command_that_is_not_run_exist(line: str) -> None:
    assert_exists(words_of(line))


def assert_exists(words: list[str]) -> None:
    """A command and its options are ones that there are."""
    match words:
        case ["treeline", *arguments] | ["python", "-m", "cluster.cli", *arguments]:
            assert_parses(arguments)
        case ["ray", "job", "submit", *arguments]:
            from ray.dashboard.modules.job.cli import submit

            flags, job = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
            known = {name for option in submit.params for name in option.opts}
            assert {flag for flag in flags if flag.startswith("-")} <= known
            assert_exists(job)
        case ["pip", "install", *arguments]:
            extras = [extra for word in arguments for extra in re.findall(r"^\.\[(\w+)\]$", word)]
            assert all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras)
            assert all((ROOT / word).is_file() for word in arguments if word.endswith(".txt"))
        case ["python", script, *arguments]:
            folder = "".join(path.read_text() for path in (ROOT / "benchmarks").rglob("*.py"))
            assert (ROOT / script).is_file()
            assert all(f'"{word}"' in folder for word in arguments if word.startswith("--"))
        case ["make", target]:
            assert f"\n{target}:" in (ROOT / "Makefile").read_text()
        case ["export", *settings]:
            assert all("=" in setting for setting in settings)
        case _:
            pytest.fail(f"{words}: what is this?")


def assert_parses(arguments: list[str]) -> None:
    """The parser takes these arguments; beside a file of options, which is not here, it knows the flags."""
    name, rest = cli.split_command(arguments)
    assert name in cli.COMMANDS, name
    if name == "submit":
        assert_parses(rest[rest.index("--") + 1 :])
        rest = rest[: rest.index("--")]
    if f"--{FILE}" in rest:
        assert {word for word in rest if word.startswith("--")} <= flags_of(name)
    else:
        cli.parse(name, [word for word in rest if word != "..."])


@cache
def flags_of(name: str) -> set[str]:
    """All flags of a command, as its help shows them."""
    return set(re.findall(r"--[a-z][a-z-]*", treeline(*name.split(), "--help-all").stdout))


# --- single facts ---


def test_every_command_stands_in_the_page_on_commands() -> None:
    named = re.findall(r"^\| `treeline ((?:ingest )?[a-z]+)", PAGES["commands"].read_text(), re.M)
    assert set(named) == set(cli.COMMANDS)


def test_options_in_the_page_on_commands_exist() -> None:
    for row in re.findall(r"^\| `(treeline [a-z][^`]*)`", PAGES["commands"].read_text(), re.M):
        name, rest = cli.split_command(row.split()[1:])
        assert set(re.findall(r"--[a-z][a-z-]*", " ".join(rest))) <= flags_of(name), row


def test_figures_of_the_readme_stand_among_the_benchmarks() -> None:
    readme, benchmarks = PAGES["README"].read_text(), PAGES["benchmarks"].read_text()
    table = readme.partition("## Hardware and time\n")[2].partition("\n## ")[0]
    cells = [row.split("|")[2] for row in table.splitlines() if row.startswith("| ")][1:]
    figures = {figure for cell in cells for figure in re.findall(r"\d[\d,.]*", cell)}
    assert len(figures) > 6
    assert {figure for figure in figures if not re.search(rf"(?<![\d.,]){figure}", benchmarks)} == set()


@pytest.mark.parametrize("page", ["README", "CONTRIBUTING"])
def test_links_of_a_page_beside_the_code_lead_somewhere(page: str) -> None:
    """The build of the site checks the links of all other pages."""
    text = PAGES[page].read_text()
    for link, heading in re.findall(r"\]\(([^)#:]+)(?:#([^)]*))?\)", text):
        assert (ROOT / link).is_file(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", (ROOT / link).read_text(), re.M)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, (
                heading
            )


def test_the_readme_is_short() -> None:
    assert len(PAGES["README"].read_text().splitlines()) <= 200


def test_the_citation_is_that_of_this_version() -> None:
    import yaml

    from shards import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] in (ROOT / "pyproject.toml").read_text()
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
