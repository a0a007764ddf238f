"""The commands in docs/ are run as they stand there, page by page, in their order, in an empty folder."""

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


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", ["splits", "training", "prediction", "sar-landscape", "pretraining"])
def test_the_commands_of_a_page(page: str, tmp_path: Path) -> None:
    """One process runs them all: starting one for each took longer than most commands do."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) > 4
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support", *sys.path)))
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input="\n".join(commands) + "\n",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
