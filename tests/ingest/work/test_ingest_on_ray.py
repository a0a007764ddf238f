"""Ray workers make the dataset that one process makes, byte for byte, also when they, their machine or the
driver are killed while they work. Real clusters, started here, of two machines as Ray sees it.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray_machines import PATIENCE_SECONDS, kill_all, processes_of, running, wait_until

from ingest.config import SyntheticConfig
from ingest.synthetic.synthetic_source import SyntheticSource
from ingest.work.run import ingest
from shards.storage.objects import find_files, join, read_bytes

CHIPS, SHARD_CHIPS = 8_192, 512
"""Four tasks of five shards."""

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def contents(url: Path) -> dict[str, bytes]:
    return {name: read_bytes(join(str(url), name)) for name in find_files(str(url))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the dataset that this process makes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    config = SyntheticConfig(chips=CHIPS, shard_chips=SHARD_CHIPS, out=str(out))
    ingest(SyntheticSource(config), config)
    return contents(out)


@contextmanager
def started(env: dict[str, str], out: Path) -> Iterator[subprocess.Popen[str]]:
    """`treeline ingest synthetic --workers 2` in a process of its own."""
    options = ("--chips", str(CHIPS), "--shard-chips", str(SHARD_CHIPS), "--workers", "2")
    with running(env, "ingest", "synthetic", *options, "--out", str(out)) as process:
        yield process


def parts_of(out: Path) -> int:
    folder = out / ".ingest" / "parts"
    return len(list(folder.glob("*.zip"))) if folder.exists() else 0


def finish(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said


@pytest.mark.long
def test_workers_give_the_bytes_of_one_process(
    ray_env: dict[str, str],
    ray_second: subprocess.Popen[bytes],
    whole: dict[str, bytes],
    tmp_path: Path,
) -> None:
    with started(ray_env, tmp_path / "out") as process:
        finish(process)
    assert contents(tmp_path / "out") == whole


def test_workers_that_are_killed_are_replaced(
    ray_env: dict[str, str],
    ray_head: subprocess.Popen[bytes],
    ray_second: subprocess.Popen[bytes],
    whole: dict[str, bytes],
    tmp_path: Path,
) -> None:
    out, machines = tmp_path / "out", (ray_head, ray_second)
    with started(ray_env, out) as process:
        killed = 0
        for parts in (1, 4, 8):
            wait_until(lambda parts=parts: parts_of(out) >= parts)
            for worker in (found for machine in machines for found in processes_of(machine, "_do")):
                if "ray::" in " ".join(worker.cmdline()):
                    worker.send_signal(signal.SIGKILL)
                    killed += 1
        finish(process)
    assert killed >= 3
    assert contents(out) == whole


@pytest.mark.long
def test_the_work_of_a_machine_that_is_lost_is_done_by_another(
    ray_env: dict[str, str],
    ray_second: subprocess.Popen[bytes],
    whole: dict[str, bytes],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    with started(ray_env, out) as process:
        wait_until(lambda: parts_of(out) >= 2)
        kill_all(ray_second)
        finish(process)
    assert contents(out) == whole


@pytest.mark.long
def test_a_driver_that_was_killed_goes_on_where_it_was(
    ray_env: dict[str, str], ray_head: subprocess.Popen[bytes], whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for parts in (1, 9):
        with started(ray_env, out) as process:
            wait_until(lambda parts=parts: parts_of(out) >= parts)
            process.kill()
    written = {path.name: path.stat().st_mtime_ns for path in (out / ".ingest" / "parts").iterdir()}
    config = SyntheticConfig(chips=CHIPS, shard_chips=SHARD_CHIPS, out=str(out))
    ingest(SyntheticSource(config), config)
    assert len(written) >= 9
    assert contents(out) == whole
