"""One command at a time writes into a folder, whichever storage it is on and however the first one ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from servers import S3Server, environment_of

from shards.commands.verify import verify
from shards.config import VerifyConfig
from shards.errors import InputError
from shards.read.dataset import open_dataset
from shards.storage import lease
from shards.storage.lease import Holder
from shards.storage.objects import find_files, join, publish, read_bytes, remove_folder
from shards.storage.one_writer import HELD, one_writer

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from shards.storage.one_writer import one_writer
with one_writer(sys.argv[1], of=sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""
FORKED = """
import os, sys, time
from shards.storage.one_writer import one_writer
with one_writer(sys.argv[1]):
    begun, begins = os.pipe()
    if os.fork() == 0:
        os.write(begins, b"1")
        time.sleep(60)
    os.read(begun, 1)
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(url: str, of: str = "", program: str = HOLD) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the folder until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, url, of],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        with suppress(ProcessLookupError):  # the test has killed it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(params=["local", "rclone", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder that does not exist yet: on a disk, on a server without conditional writes, on one with."""
    if request.param == "local":
        yield str(tmp_path / "not" / "there yet")
        return
    with environment_of(request.getfixturevalue(request.param)):
        url = f"s3://bucket/one-writer-{time.monotonic_ns()}"
        yield url
        remove_folder(url)


def test_a_second_is_refused_while_the_first_lives_and_nothing_is_left(place: str) -> None:
    with one_writer(place):
        with pytest.raises(InputError, match=f"another command writes here .process {os.getpid()} on "):
            one_writer(place).__enter__()
        assert find_files(place) == [HELD]
    assert find_files(place) == []
    with one_writer(place):
        publish(join(place, "map"), b"a")
    assert find_files(place) == ["map"]


def test_what_a_killed_command_leaves_is_no_damage(
    chip_folders: Callable[..., Any], write_dataset: Callable[..., Any], tmp_path: Path
) -> None:
    written = write_dataset(tmp_path / "dataset", list(chip_folders(8).chips.values()))
    with holder(written.url) as process:
        process.kill()
        process.wait()
    assert HELD in find_files(written.url)
    assert verify(VerifyConfig(data=written.url)) == []
    assert len(open_dataset(written.url).chips("train")) > 0


def test_a_folder_without_content_is_removed_again(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no map"), one_writer(str(tmp_path / "a" / "b")):
        raise InputError("no map")
    assert not (tmp_path / "a").exists()


def test_another_process_is_refused_and_goes_on_at_once_after_a_kill(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with holder(place) as process:
        with pytest.raises(InputError, match=f"process {process.pid} on "):
            one_writer(place).__enter__()
        process.kill()
        process.wait()
        with one_writer(place):
            assert find_files(place) == [HELD]
    assert find_files(place) == []
    assert "waiting" not in capsys.readouterr().err


def test_a_forked_child_does_not_keep_the_folder(tmp_path: Path) -> None:
    with holder(str(tmp_path), program=FORKED) as process:
        process.kill()
        process.wait()
        with one_writer(str(tmp_path)):
            pass


def test_files_of_one_folder_are_held_apart(place: str) -> None:
    with one_writer(place, of="a.tif"), one_writer(place, of="b.tif"):
        with pytest.raises(InputError, match="another command writes here"):
            one_writer(place, of="a.tif").__enter__()
        assert not any(name.endswith(".tif") for name in find_files(place))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life come often, and holds end soon."""
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.5)
    monkeypatch.setattr(lease, "ENDS_AFTER", 3.0)
    monkeypatch.setattr(lease, "SETTLED_AFTER", 0.3)


@pytest.fixture(params=["rclone", "moto"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    server: S3Server = request.getfixturevalue(request.param)
    with environment_of(server):
        url = f"s3://bucket/lease-{time.monotonic_ns()}"
        yield url
        remove_folder(url)


def elsewhere(url: str) -> None:
    """A lease as a process of another machine writes it, of which nobody here knows whether it lives."""
    data = json.dumps({**vars(Holder.here()), "host": "node7", "process": 41, "machine": "another"}).encode()
    publish(join(url, HELD), data)


@pytest.mark.usefixtures("quick")
def test_a_hold_of_a_dead_machine_ends(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere(bucket)
    with one_writer(bucket):
        assert Holder.of(read_bytes(join(bucket, HELD))).process == os.getpid()
    said = capsys.readouterr().err
    assert f"{bucket}: process 41 on node7 held this place" in said
    assert "waiting for up to 3 s" in said
    assert find_files(bucket) == []


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_holder_on_another_machine_is_seen_to_live(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Holder, "lives", lambda self: None)  # as of a process on another machine
    with one_writer(bucket):
        with pytest.raises(InputError, match="last heard of ") as refused:
            one_writer(bucket).__enter__()
        assert "if it was killed, its hold ends at " in str(refused.value)
        assert join(bucket, HELD) in str(refused.value)
        time.sleep(3.5)  # renewed, so still held
        with pytest.raises(InputError, match="another command writes here"):
            one_writer(bucket).__enter__()


@pytest.mark.usefixtures("quick")
def test_who_has_lost_its_hold_stops(bucket: str) -> None:
    def work() -> None:
        with one_writer(bucket):
            elsewhere(bucket)
            time.sleep(20)
            pytest.fail("it was not stopped")

    with pytest.raises(OSError, match="process 41 on node7 took it over, since nothing was heard"):
        work()
    assert Holder.of(read_bytes(join(bucket, HELD))).host == "node7", "the lease of the other stays"


def test_of_several_that_begin_at_once_one_goes_on(bucket: str) -> None:
    together = threading.Barrier(4)

    def contend(_: int) -> str:
        together.wait()
        try:
            with one_writer(bucket):
                together.wait()
                return "held"
        except InputError as refused:
            together.wait()
            return str(refused)

    with ThreadPoolExecutor(4) as threads:
        said = sorted(threads.map(contend, range(4)))
    assert sum(word == "held" for word in said) == 1
    assert sum("another command writes here" in word for word in said) == 3
    # A server without conditions may write a loser's lease after the winner has removed its own; this process
    # is known to hold nothing, so the next command takes over at once.
    with one_writer(bucket):
        pass
    assert find_files(bucket) == []
