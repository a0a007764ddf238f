"""Machines of a Ray cluster, as Ray sees them, started and killed on this one."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
from servers import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240
ADDRESS = "RAY_ADDRESS"
"""Variable that says where the cluster is."""


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


_others = dict[str, tuple[subprocess.Popen[bytes], ExitStack]]()
"""By the address of their cluster: the machine beside the first, and what ends it."""


def second_machine(env: dict[str, str]) -> subprocess.Popen[bytes]:
    """The further machine of the cluster, with one core; a new one where a test has killed the last."""
    address = env[ADDRESS]
    if address in _others and _others[address][0].poll() is None and len(machines_of(env)) == 2:
        return _others[address][0]
    remove_second_machine(address)
    wait_until(lambda: len(machines_of(env)) == 1)  # one that was killed may not be missed yet
    ending = ExitStack()
    machine = ending.enter_context(ray_node(_without_address(env), "--address", address))
    _others[address] = machine, ending
    wait_until(lambda: len(machines_of(env)) == 2 or machine.poll() is not None)
    assert machine.poll() is None, "the second machine did not start"
    return machine


def remove_second_machine(address: str) -> None:
    """Kill it, if there is one."""
    if address in _others:
        _others.pop(address)[1].close()


class Lookout:
    """A process that belongs to the cluster and says which machines there are: starting one takes seconds."""

    SCRIPT = """
import json, ray, sys, time
while not ray.is_initialized():
    try:
        ray.init(logging_level="CRITICAL", log_to_driver=False)
    except ConnectionError:
        time.sleep(0.1)  # the first machine has not joined its own cluster yet
for line in sys.stdin:
    nodes = {node["NodeID"]: sorted(node["Resources"]) for node in ray.nodes() if node["Alive"]}
    print("nodes", json.dumps(nodes), flush=True)
"""

    def __init__(self, env: dict[str, str]) -> None:
        command = [sys.executable, "-c", self.SCRIPT]
        self.process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def machines(self) -> dict[str, list[str]]:
        """The resources of each machine that the cluster takes for alive, by Ray's name for it."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("nodes "):  # Ray may say something besides
                machines: dict[str, list[str]] = json.loads(line.removeprefix("nodes "))
                return machines
        raise AssertionError("nobody looks out for the cluster's machines any more")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


_lookouts: dict[str, Lookout] = {}
"""By the address of their cluster."""


def machines_of(env: dict[str, str]) -> dict[str, list[str]]:
    """The resources of each machine that the cluster takes for alive, by Ray's name for it."""
    return _lookouts[env[ADDRESS]].machines()


def machine_to_lose(env: dict[str, str]) -> str:
    """Ray's name for the machine that is not the head."""
    (name,) = (name for name, has in machines_of(env).items() if "node:__internal_head__" not in has)
    return name


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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


def _without_address(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name != ADDRESS}


@contextmanager
def first_machine(env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The head of a cluster, with one core; `env` learns its address."""
    # Not below tmp_path: the path of a Unix socket has at most 107 bytes.
    scratch, port = tempfile.mkdtemp(prefix="treeline-ray-"), free_port()
    env[ADDRESS] = f"127.0.0.1:{port}"
    options = ("--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", scratch)
    with ray_node(_without_address(env), *options) as process:
        wait_until(lambda: _answers(port) or process.poll() is not None)
        assert process.poll() is None, "the first machine did not start"
        lookout = _lookouts[env[ADDRESS]] = Lookout(env)
        try:
            wait_until(lambda: len(lookout.machines()) == 1)
            yield process
        finally:
            remove_second_machine(env[ADDRESS])
            del _lookouts[env[ADDRESS]]
            lookout.end()
            shutil.rmtree(scratch, ignore_errors=True)
