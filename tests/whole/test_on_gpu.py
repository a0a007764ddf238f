"""`benchmarks/on_gpu.py` runs on a CPU, small, if asked to; goes on after a failure; names what it lacks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.bench import Bench, read_limits
from benchmarks.gpu.limits import limits
from benchmarks.on_gpu import main

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "on_gpu.py"
TINY = ("--device", "cpu", "--tiny")


def run(out: Path, *options: str, path: str = "") -> tuple[int, dict[str, dict[str, Any]]]:
    """Run the script; return its exit code and each check's result."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": path} if path else {})
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(out), *TINY, *options],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (out / "on_gpu.json").exists(), done.stderr
    results: dict[str, dict[str, Any]] = json.loads((out / "on_gpu.json").read_text())["checks"]
    return done.returncode, results


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_check_is_made_and_finds_what_it_should(tmp_path: Path) -> None:
    # The check of Ray starts a cluster; `test_what_is_missing_is_left_out` looks at the rest of it.
    listed = json.loads(subprocess.check_output([sys.executable, str(SCRIPT), "--list"], text=True))
    code, results = run(
        tmp_path, "--minutes", "20", "--only", *(one for one in listed if one != "ray_workers")
    )
    assert {result["state"] for result in results.values()} == {"done"}, results
    assert len(results) == len(listed) - 1
    for name, result in results.items():
        assert result["findings"], name
        assert [one["what"] for one in result["findings"] if one["passed"] is False] == [], name
    assert code == 0
    table = (tmp_path / "on_gpu.md").read_text()
    assert all(f"| {name} |" in table for name in results)


@pytest.mark.slow
def test_a_cpu_is_measured_only_where_it_is_asked_for(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path / "out")],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "--device cuda: torch " in done.stderr.splitlines()[-1]
    assert "give --device cpu --tiny" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    helped = subprocess.check_output([sys.executable, str(SCRIPT), "--help"], text=True)
    assert "folder of the results; default: on-gpu" in helped


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpu", "--device cuda: torch "),
        ("banana", "--device banana: is no device of the checks; give cuda, cuda:1, ..., or cpu"),
        ("mps", "--device mps: is no device of the checks; give cuda, cuda:1, ..., or cpu"),
    ],
)
def test_a_device_that_is_none_is_one_line_before_anything_is_written(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "--out", str(out), "--device", name])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"on_gpu.py: {says}")
    assert not out.exists()


def test_what_a_cpu_has_not_is_not_measured(tmp_path: Path) -> None:
    findings = list(limits(Bench(torch.device("cpu"), tmp_path, tiny=True)))
    told = " ".join(finding.what for finding in findings)
    assert "tf32" not in told
    assert "pinned" not in told
    assert "bf16" in told
    assert len(findings) == 5
    assert read_limits(tmp_path).keys() == {"float32", "bf16", "fp16", "copy", "launch"}


@pytest.mark.slow
def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    for package in ("ray", "rasterio"):
        folder = tmp_path / "without" / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f"raise ModuleNotFoundError('no {package}')")
    checks = ("ray_workers", "block_speed", "same_inputs")
    code, results = run(tmp_path / "out", "--only", *checks, path=str(tmp_path / "without"))
    assert [results[name]["state"] for name in checks] == ["left out", "left out", "done"]
    assert "ray" in results["ray_workers"]["reason"]
    assert "rasterio" in results["block_speed"]["reason"]
    assert code == 0


@pytest.mark.slow
def test_a_killed_check_is_named_and_the_others_are_made(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), *TINY, "--only", "limits", "same_inputs"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("limits"):
                break
        killed = [child for child in _children(process.pid) if b"--worker" in _command_of(child)]
        os.kill(killed[0], signal.SIGKILL)
        process.stderr.read()
        code = process.wait(60)
    results = json.loads((tmp_path / "on_gpu.json").read_text())["checks"]
    assert code == 1
    assert results["limits"]["state"] == "failed"
    assert "-9" in results["limits"]["reason"]
    assert results["same_inputs"]["state"] == "done"

    begun = results["same_inputs"]["began"]
    code, results = run(tmp_path, "--only", "limits", "same_inputs")
    assert code == 0
    assert results["limits"]["state"] == "done"
    assert results["same_inputs"]["began"] == begun < time.time()


def _children(parent: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _command_of(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()
