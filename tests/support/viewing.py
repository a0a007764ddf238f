"""`treeline view` as a user runs it: a process, the address that it prints, Ctrl-C at the end."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class Answer:
    """Answer of a server."""

    status: int
    body: bytes
    headers: dict[str, str]


def ask(url: str, **headers: str) -> Answer:
    """Ask a server, with these headers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return Answer(answer.status, answer.read(), dict(answer.headers))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read(), dict(error.headers))


@contextmanager
def viewing(*arguments: str) -> Iterator[str]:
    """Run `treeline view ARGUMENTS`; yields the address that it prints, and ends it by Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", "view", *arguments, "--no-browser"],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.communicate(timeout=60)
        yield address
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
        assert (process.returncode, out.splitlines()[-1], said) == (0, "stopped", "")
    finally:
        process.kill()
        process.wait()
