"""What workers cannot do twice is not tried twenty times, and GPUs that are too few or unusable are refused.

One real cluster with two GPUs, as Ray counts them: nothing computes on those.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray_machines import PATIENCE_SECONDS, ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def failing_trainings(folder: Path, *options: str) -> dict[str, Any]:
    """What came of all trainings and decisions."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    support = ROOT / "tests" / "support"
    done = subprocess.run(
        [sys.executable, str(support / "failing_trainings.py"), *options],
        env=mine | {"PYTHONPATH": f"{ROOT}:{support}", "HF_HUB_OFFLINE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"said": done.stderr}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return failing_trainings(tmp_path_factory.mktemp("failing"))


def test_too_little_memory_is_one_attempt_and_one_line(told: dict[str, Any]) -> None:
    ended = told["memory"]
    assert (ended["kind"], ended["attempts"], ended["left"]) == ("OutOfMemoryError", 1, [])
    assert ended["text"].startswith(
        "cpu has too little memory (4503599627370496 bytes more were wanted) for 8"
    )
    assert "\n" not in ended["text"]
    assert ended["notes"] == ["in epoch 1, step 3"]


def test_the_same_failure_at_the_same_step_twice_in_a_row_is_the_end(told: dict[str, Any]) -> None:
    ended = told["again"]
    assert (ended["kind"], ended["attempts"], ended["left"]) == ("RuntimeError", 2, [])
    assert ended["text"] == "ValueError: the cat sat on the keyboard"
    assert ended["notes"] == ["in epoch 1, step 3", "it failed so twice in a row, so that is the end"]


@pytest.mark.long
def test_a_failure_elsewhere_may_be_bad_luck(tmp_path: Path) -> None:
    """At step 3, then at 4, then at 4 again."""
    ended = failing_trainings(tmp_path, "--bad-luck-first")["again"]
    assert (ended["kind"], ended["attempts"], ended["left"]) == ("RuntimeError", 3, [])
    assert ended["text"] == "ValueError: the cat sat on the keyboard"
    assert ended["notes"] == ["in epoch 2, step 4", "it failed so twice in a row, so that is the end"]


def test_workers_without_room_on_the_gpus_are_refused_before_anything_is_written(
    told: dict[str, Any],
) -> None:
    short = "the cluster has 2 GPUs, room for 2 workers; give --workers 2, or --device cpu"
    assert told["too few"] == f"--workers 3: {short}"
    assert told["shares"] == f"--workers 3 --gpus-per-worker 0.6: {short}"
    assert (told["too-few-run"]["kind"], told["too-few-run"]["text"]) == ("InputError", told["too few"])
    assert told["too-few-run"]["attempts"] == 0


def test_gpus_that_torch_cannot_use_are_found_on_their_machine(told: dict[str, Any]) -> None:
    """Ray counts GPUs here, and this torch has no CUDA."""
    assert ", but Ray counts a GPU there; pip install" in told["unusable"]
    assert told["unusable"].endswith(", or give --device cpu")


def test_cpus_are_used_where_they_are_asked_for_and_that_is_said(told: dict[str, Any]) -> None:
    remark = "computes on CPUs (--device cpu), although the cluster has 2 GPUs"
    assert told["cpu"] == ["cpu", 0.0, remark]
    assert told["no share"][:2] == ["cpu", 0.0]
    assert f"treeline: {remark}\n" in told["said"]
