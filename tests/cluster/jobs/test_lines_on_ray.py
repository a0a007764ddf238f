"""What a command says with Ray workers: each line once, ours last, and none of the libraries' own."""

import subprocess
import sys
from pathlib import Path

import pytest
from ray_lines import assert_said_once
from ray_machines import ROOT

from ingest.synthetic.landscape import write_scene

pytestmark = [pytest.mark.ray, pytest.mark.long]


def said(env: dict[str, str], folder: Path, *arguments: str) -> str:
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
    return done.stdout


def test_each_line_is_said_once_and_ours_is_last(ray_env: dict[str, str], tmp_path: Path) -> None:
    write_scene(tmp_path, 0, 7, (128, 128))
    (scene,) = tmp_path.glob("WV02*.tif")
    making = ("--chips", "40", "--shard-chips", "10", "--out", "chips", "--shares", "0.5", "0.5")
    assert_said_once(said(ray_env, tmp_path, "ingest", "synthetic", *making), "ingest")
    training = ("--data", "chips", "--out", "run", "--epochs", "2", "--device", "cpu")
    lines = assert_said_once(said(ray_env, tmp_path, "train", *training), "train")
    assert [line[:7] for line in lines if line.startswith("epoch ")] == ["epoch 1", "epoch 2"]
    mapping = (scene.name, "--checkpoint", "run", "--out", "maps", "--block", "64", "--device", "cpu")
    assert_said_once(said(ray_env, tmp_path, "predict", *mapping, "--on-mismatch", "ignore"), "predict")
