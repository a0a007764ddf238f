"""Commands in processes that are killed at a moment of their work, forked from one that has imported all.

with Killer() as killer:
    killer.treeline(["run", "steps.yaml"], folder, seconds=0.7)   # killed after 0.7 s: -9; or its exit code

The process that forks computes nothing, so that its children may use all threads.
"""

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from shards.version import COMMIT, commit

ROOT = Path(__file__).parents[2]
IMPORTED = (
    "cluster.commands",
    "cluster.steps.run",
    "inference.mosaic.run",
    "inference.predict.in_process",
    "inference.predict.run",
    "inference.score.score_maps",
    "ingest.synthetic.synthetic_source",
    "ingest.work.run",
    "shards.commands.resplit",
    "trainer.evaluate.run",
    "trainer.commands.last_lines",
    "trainer.commands.train_on_ray",
)
"""Modules that are imported before the clock starts, so that the moment falls into the work."""


class Killer:
    """A process that runs each command in a child of its own."""

    def __enter__(self) -> "Killer":
        path = os.pathsep.join(map(str, (ROOT, *sys.path)))
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            # Each child would read anew what is checked out.
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", COMMIT: commit()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def treeline(
        self, arguments: list[str], folder: Path, seconds: float = 0, said: str = ""
    ) -> tuple[int, float, str]:
        """Run a command; return its exit code, the seconds it took and what it said.

        Args:
            arguments: its words, without `treeline`.
            folder: the folder it runs in.
            seconds: when it is killed, after its beginning; 0: never.
            said: count these seconds from the moment on at which the command has said this.
        """
        assert self._process.stdin
        assert self._process.stdout
        asked = {"arguments": arguments, "folder": str(folder), "seconds": seconds, "said": said}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        done = json.loads(self._process.stdout.readline())
        return int(done["code"]), float(done["seconds"]), (folder / "said.txt").read_text()


def _child(asked: dict[str, Any]) -> None:
    """Run a command in this process, and end it."""
    from cluster.cli import main

    os.chdir(asked["folder"])
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv = ["treeline", *asked["arguments"]]
    code = 1
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException as error:  # noqa: BLE001 - as Python ends a process
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        os._exit(code)


def _ended(child: int, seconds: float, said: str, file: Path) -> int:
    """Wait for a child, or kill it some seconds (0: never) after its file has a text; return its status."""
    descriptor = os.pidfd_open(child)
    while said and not select.select([descriptor], [], [], 0.01)[0]:
        if file.exists() and said in file.read_text():
            break
    if seconds and not select.select([descriptor], [], [], seconds)[0]:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    os.close(descriptor)
    return os.waitpid(child, 0)[1]


def _serve() -> None:
    """Run commands, one a line, until there are no more."""
    for module in IMPORTED:
        importlib.import_module(module)
    for line in sys.stdin:
        asked = json.loads(line)
        file = Path(asked["folder"]) / "said.txt"
        file.unlink(missing_ok=True)  # what an earlier command said
        start, child = time.monotonic(), os.fork()
        if not child:
            _child(asked)
        status = _ended(child, asked["seconds"], asked["said"], file)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"code": code, "seconds": time.monotonic() - start}), flush=True)


if __name__ == "__main__":
    _serve()
