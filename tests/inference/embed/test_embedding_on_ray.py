"""Ray workers embed as one process does, byte for byte, also where the command is killed while they work."""

import signal
import subprocess
from pathlib import Path

import pytest
from encoders import write_untrained
from in_process import treeline
from ray_machines import PATIENCE_SECONDS, running, wait_until
from regressors import write_dataset

pytestmark = [pytest.mark.ray, pytest.mark.slow]
TILES = 80


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_on_two_workers_and_resumed_on_one(
    ray_env: dict[str, str],
    ray_head: "subprocess.Popen[bytes]",
    ray_second: "subprocess.Popen[bytes]",
    tmp_path: Path,
) -> None:
    dataset = write_dataset(tmp_path / "tiles", TILES)
    run = write_untrained(tmp_path / "run", dataset)
    options = ["embed", dataset.url, "--checkpoint", run, "--batch-size", "2", "--tiles-per-part", "2"]
    done = treeline(*options, "--out", str(tmp_path / "here"))
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    command = [*options, "--out", str(out), "--workers"]
    with running(ray_env, *command, "2") as process:
        wait_until(lambda: len(list(out.glob("part-*"))) >= 3)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE_SECONDS)
    assert "embeddings.json" not in contents(out), "killed while it worked"
    with running(ray_env, *command, "1") as process:
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert contents(out) == contents(tmp_path / "here")
