"""What a command says with Ray workers: each line once, ours last, and none of the libraries' own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ray_machines import ROOT

from ingest.synthetic.landscape import write_scene

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPEAKER = re.compile(r"\x1b\[\d+m\(.*? pid=.*?\)\x1b\[0m ")
"""What Ray writes before the line of a worker."""
OF_RAY = re.compile(r"\[\d{4}-\d\d-\d\d [\d:,]+ E \d+ \d+\] core_worker\.cc")
"""What Ray's core says about Ray Train's own actors, and no option hides."""
STAGES = ("ingest", "train", "predict")
NOISE = ("concurrency=", "deprecat", "botocore", "credentials", "Failed to query", "resources: ", "Traceback")


def said(env: dict[str, str], folder: Path, *arguments: str) -> list[str]:
    """Both ends of a command with two workers, in the order in which they were said."""
    command = [sys.executable, "-m", "cluster.cli", *arguments, "--workers", "2"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=env | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    lines = [SPEAKER.sub("", line) for line in done.stdout.splitlines()]
    return [line for line in lines if not OF_RAY.match(line)]


def test_each_line_is_said_once_and_ours_is_last(ray_env: dict[str, str], tmp_path: Path) -> None:
    write_scene(tmp_path, 0, 7, (128, 128))
    (scene,) = tmp_path.glob("WV02*.tif")
    lines = dict[str, list[str]]()
    lines["ingest"] = said(
        *(ray_env, tmp_path, "ingest", "synthetic", "--chips", "40", "--shard-chips", "10"),
        *("--out", "chips", "--shares", "0.5", "0.5"),
    )
    training = ("--data", "chips", "--out", "run", "--epochs", "2", "--device", "cpu")
    lines["train"] = said(ray_env, tmp_path, "train", *training)
    mapping = (scene.name, "--checkpoint", "run", "--out", "maps", "--block", "64", "--device", "cpu")
    lines["predict"] = said(ray_env, tmp_path, "predict", *mapping, "--on-mismatch", "ignore")
    for stage, all_lines in lines.items():
        assert all_lines[-1].startswith("next: treeline "), stage
        twice = {line for line in all_lines if all_lines.count(line) > 1}
        assert not twice, stage
        assert not [line for line in all_lines for word in NOISE if word in line], stage
        assert any(line.startswith(f"{stage}") for line in all_lines), "progress is shown"
    epochs = [line for line in lines["train"] if line.startswith("epoch ")]
    assert [line[:7] for line in epochs] == ["epoch 1", "epoch 2"]
