"""What a cluster of one's own leaves on the machine is nobody else's."""

import ast
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ray_machines import ROOT

from cluster.jobs.connection import LOCAL_TOKEN, keep_token_private
from shards.errors import InputError

WHO_LISTENS = """
import os
from pathlib import Path
from cluster.jobs.connection import connected

def listening(mine):
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and rest[5] in mine:
                found.add(local.split(":")[0])
    return found

def sockets(session):
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text() + (process / "environ").read_text(errors="replace")
            if session in words:
                opened = [os.readlink(one) for one in (process / "fd").iterdir()]
                found |= {one[8:-1] for one in opened if one.startswith("socket:")}
        except OSError:
            pass
    return found

with connected(1):
    import ray
    session = ray._private.worker._global_node.get_session_dir_path()
    print(sorted(listening(sockets(session))))
"""
"""Prints the addresses, as /proc/net writes them, on which processes of a new cluster listen."""
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_token_is_made_that_only_its_user_reads(home: Path) -> None:
    before = os.umask(0)
    try:
        keep_token_private()
    finally:
        os.umask(before)
    token = home / LOCAL_TOKEN
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    text = token.read_text()
    keep_token_private()
    assert token.read_text() == text


def test_a_token_that_others_can_read_is_closed_to_them(home: Path) -> None:
    token = home / LOCAL_TOKEN
    token.parent.mkdir()
    token.write_text("a" * 64)
    token.chmod(0o644)
    keep_token_private()
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() == "a" * 64


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_token_of_the_environment_is_left_alone(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "x")
    keep_token_private()
    assert not (home / LOCAL_TOKEN).exists()


def test_a_token_that_cannot_be_written_is_said(home: Path) -> None:
    (home / LOCAL_TOKEN).parent.write_text("a file where the folder should be")
    with pytest.raises(InputError, match="RAY_AUTH_TOKEN_PATH"):
        keep_token_private()


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_a_cluster_of_our_own_listens_on_loopback_alone(home: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="treeline-") as folder:  # sockets have short names
        env |= {"HOME": str(home), "TMPDIR": folder, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", WHO_LISTENS], env=env, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    found = set(ast.literal_eval(done.stdout.splitlines()[-1]))
    assert found, "at least its own server listens"
    assert found <= LOOPBACK
    assert (home / LOCAL_TOKEN).stat().st_mode & 0o777 == 0o600
