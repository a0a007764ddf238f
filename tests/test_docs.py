"""The commands in docs/training.md are run as they stand there, in their order, in an empty folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "training.md").read_text(), re.S | re.M)
    for line in block.splitlines()
]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_of_the_page_on_training(tmp_path: Path) -> None:
    assert len(COMMANDS) > 8
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        assert program == "treeline"
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli", *arguments],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
