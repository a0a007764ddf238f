"""Ray workers make the dataset that one process makes, byte for byte, also when they, their machine or the
driver are killed while they work. Real clusters, started here, of two machines as Ray sees it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from servers import free_port

from ingest.config import SyntheticConfig
from ingest.run import ingest
from ingest.synthetic import SyntheticSource
from shards.storage import find_files, join, read_bytes

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
CHIPS = 16_384
"""Four tasks of five shards."""
PATIENCE_SECONDS = 120

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def contents(url: Path) -> dict[str, bytes]:
    return {name: read_bytes(join(str(url), name)) for name in find_files(str(url))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the dataset that this process makes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    config = SyntheticConfig(chips=CHIPS, out=str(out))
    ingest(SyntheticSource(config), config)
    return contents(out)


@contextmanager
def ray_node(env: dict[str, str], *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`ray start --block`; it and all that it started are gone at the end."""
    command = [str(BIN / "ray"), "start", "--block", "--node-ip-address", "127.0.0.1", "--num-cpus", "1"]
    command += ["--object-store-memory", "100000000", "--disable-usage-stats", *options]
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        kill_all(process)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a node and everything below it, at once."""
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        for member in [psutil.Process(process.pid), *family]:
            with suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait(30)


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of everybody who belongs to the cluster."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("a-token-for-this-test-alone-0123456789")
    mine = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    # A machine that was lost is to be missed within seconds here, not within half a minute.
    impatient = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
    return mine | impatient | {"HOME": str(home), "PATH": f"{BIN}:{mine['PATH']}", "RAY_AUTH_MODE": "token"}


@pytest.fixture(scope="module")
def head(env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The first machine, with one core."""
    # Not below tmp_path: the path of a Unix socket has at most 107 bytes.
    scratch, port = tempfile.mkdtemp(prefix="treeline-ray-"), free_port()
    env["RAY_ADDRESS"] = f"127.0.0.1:{port}"
    options = ("--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", scratch)
    without_address = {name: value for name, value in env.items() if name != "RAY_ADDRESS"}
    with ray_node(without_address, *options) as process:
        wait_until(lambda: nodes_alive(env) == 1)
        yield process
    shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def second_machine(env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    before = nodes_alive(env)
    without_address = {name: value for name, value in env.items() if name != "RAY_ADDRESS"}
    with ray_node(without_address, "--address", env["RAY_ADDRESS"]) as process:
        wait_until(lambda: nodes_alive(env) == before + 1)
        yield process


def nodes_alive(env: dict[str, str]) -> int:
    """Machines that the cluster knows of."""
    script = (
        "import ray; ray.init(logging_level='ERROR'); print('alive', sum(n['Alive'] for n in ray.nodes()))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    return int(done.stdout.rpartition("alive ")[2] or 0) if done.returncode == 0 else 0


def wait_until(is_so: object) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


@contextmanager
def started(env: dict[str, str], out: Path) -> Iterator[subprocess.Popen[str]]:
    """`treeline ingest synthetic --workers 2` in a process of its own."""
    command = [sys.executable, "-m", "cluster.cli", "ingest", "synthetic", "--chips", str(CHIPS)]
    process = subprocess.Popen(
        [*command, "--workers", "2", "--out", str(out)],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def parts_of(out: Path) -> int:
    folder = out / ".ingest" / "parts"
    return len(list(folder.glob("*.zip"))) if folder.exists() else 0


def finish(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said


def test_workers_give_the_bytes_of_one_process(
    env: dict[str, str], head: subprocess.Popen[bytes], whole: dict[str, bytes], tmp_path: Path
) -> None:
    with second_machine(env), started(env, tmp_path / "out") as process:
        finish(process)
    assert contents(tmp_path / "out") == whole


def test_workers_that_are_killed_are_replaced(
    env: dict[str, str], head: subprocess.Popen[bytes], whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with started(env, out) as process:
        killed = 0
        for parts in (1, 4, 8):
            wait_until(lambda parts=parts: parts_of(out) >= parts)
            for worker in psutil.Process(head.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if "ray::" in " ".join(worker.cmdline()) and "_do" in " ".join(worker.cmdline()):
                        worker.send_signal(signal.SIGKILL)
                        killed += 1
        finish(process)
    assert killed >= 3
    assert contents(out) == whole


def test_the_work_of_a_machine_that_is_lost_is_done_by_another(
    env: dict[str, str], head: subprocess.Popen[bytes], whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with second_machine(env) as machine, started(env, out) as process:
        wait_until(lambda: parts_of(out) >= 2)
        kill_all(machine)
        finish(process)
    assert contents(out) == whole


def test_a_driver_that_was_killed_goes_on_where_it_was(
    env: dict[str, str], head: subprocess.Popen[bytes], whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for parts in (1, 9):
        with started(env, out) as process:
            wait_until(lambda parts=parts: parts_of(out) >= parts)
            process.kill()
    written = {path.name: path.stat().st_mtime_ns for path in (out / ".ingest" / "parts").iterdir()}
    config = SyntheticConfig(chips=CHIPS, out=str(out))
    ingest(SyntheticSource(config), config)
    assert len(written) >= 9
    assert contents(out) == whole
