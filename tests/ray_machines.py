"""Machines of a Ray cluster, as Ray sees them, started and killed on this one."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from servers import free_port

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 120


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


@contextmanager
def second_machine(env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A further machine of the cluster, with one core."""
    wait_until(lambda: nodes_alive(env) == 1)  # one that was killed before may not be missed yet
    without_address = {name: value for name, value in env.items() if name != "RAY_ADDRESS"}
    with ray_node(without_address, "--address", env["RAY_ADDRESS"]) as process:
        wait_until(lambda: nodes_alive(env) == 2)
        yield process


def nodes_alive(env: dict[str, str]) -> int:
    """Machines that the cluster knows of."""
    script = (
        "import ray; ray.init(logging_level='ERROR'); print('alive', sum(n['Alive'] for n in ray.nodes()))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout.rpartition("alive ")[2].split()  # Ray may say something after it
    return int(said[0]) if done.returncode == 0 and said else 0


def processes_of(machine: "subprocess.Popen[bytes]", kind: str) -> list[psutil.Process]:
    """Those on a machine that Ray calls `kind`."""
    found = []
    for process in psutil.Process(machine.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if kind in " ".join(process.cmdline()):
                found.append(process)
    return found


def wait_until(is_so: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Until it is so; fails after a while."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


@contextmanager
def running(env: dict[str, str], *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """`treeline ARGUMENTS` in a process of its own, which is gone at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", *arguments],
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


def cluster_environment(home: Path) -> dict[str, str]:
    """Of everybody who belongs to a cluster of its own; `home` is for its token."""
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("a-token-for-this-test-alone-0123456789")
    mine = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    # A machine that was lost is to be missed within seconds here, not within half a minute.
    impatient = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
    return mine | impatient | {"HOME": str(home), "PATH": f"{BIN}:{mine['PATH']}", "RAY_AUTH_MODE": "token"}


@contextmanager
def first_machine(env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The head of a cluster, with one core; `env` learns its address."""
    # Not below tmp_path: the path of a Unix socket has at most 107 bytes.
    scratch, port = tempfile.mkdtemp(prefix="treeline-ray-"), free_port()
    env["RAY_ADDRESS"] = f"127.0.0.1:{port}"
    options = ("--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", scratch)
    without_address = {name: value for name, value in env.items() if name != "RAY_ADDRESS"}
    with ray_node(without_address, *options) as process:
        wait_until(lambda: nodes_alive(env) == 1)
        yield process
    shutil.rmtree(scratch, ignore_errors=True)
