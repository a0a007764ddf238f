"""The commands in docs/ are run as they stand there, page by page, in their order, in an empty folder.

The page about Python prints what it shows.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import shlex, sys
from in_process import treeline
for command in sys.stdin:
    program, *arguments = shlex.split(command)
    assert program == "treeline"
    done = treeline(*arguments)
    if done.returncode:
        sys.exit(f"{command}{done.stdout}{done.stderr}")
"""
RUN_PYTHON = """
import contextlib, io, json, sys
names, said = {}, []
for block in json.load(sys.stdin):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(block, names)
    said.append(out.getvalue())
print(json.dumps(said))
"""
MEASURED = re.compile(r"-?\d+\.\d+")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page", ["splits", "training", "prediction", "sar-landscape", "pretraining", "report"]
)
def test_the_commands_of_a_page(page: str, tmp_path: Path) -> None:
    """One process runs them all: starting one for each took longer than most commands do."""
    commands = [line for block in blocks_of(page, "sh") for line in block.splitlines()]
    assert len(commands) > 4
    run_alone(RUN, "\n".join(commands) + "\n", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_about_python_prints_what_it_shows(tmp_path: Path) -> None:
    """Numbers with a point may be a fifth off: a training on another processor ends in other heights."""
    run_alone(RUN, "".join(blocks_of("python", "sh")), tmp_path)
    blocks = blocks_of("python", "python")
    printed = json.loads(run_alone(RUN_PYTHON, json.dumps(blocks), tmp_path).splitlines()[-1])
    shown = blocks_of("python", "text")
    assert len(blocks) == len(shown) > 5
    for said, expected in zip(printed, shown, strict=True):
        assert MEASURED.sub("#", said).split() == MEASURED.sub("#", expected).split()
        measured = [[float(number) for number in MEASURED.findall(text)] for text in (said, expected)]
        assert measured[0] == pytest.approx(measured[1], rel=0.2, abs=0.2)


def blocks_of(page: str, language: str) -> list[str]:
    """The blocks of a page in this language, in their order."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def run_alone(code: str, given: str, folder: Path) -> str:
    """What a process of its own prints, which runs code in `folder` and reads what is given."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support", *sys.path)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=given,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
