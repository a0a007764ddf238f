"""`treeline ARGUMENTS` in this process: as a program of its own, but for the seconds that one takes to start.

done = treeline("inspect", "chips", folder=tmp_path)
assert done.returncode == 0, done.stderr
"""

import contextlib
import io
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from cluster import cli


class _Ending:
    """What Python makes of how a program ends."""

    code = 0

    def __enter__(self) -> "_Ending":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, SystemExit):
            self.code = int(error.code or 0)
        elif kind and error:
            sys.excepthook(kind, error, trace)
            self.code = 1
        return True


def treeline(*arguments: str, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command in `folder`; returns its exit code and what it said, as a process of its own would."""
    out, said = io.StringIO(), io.StringIO()
    before = sys.argv, sys.excepthook, signal.getsignal(signal.SIGTERM)
    where = contextlib.chdir(folder) if folder else contextlib.nullcontext()
    sys.argv = ["treeline", *arguments]
    try:
        with where, contextlib.redirect_stdout(out), contextlib.redirect_stderr(said), _Ending() as ending:
            cli.main()
    finally:
        sys.argv, sys.excepthook = before[:2]
        signal.signal(signal.SIGTERM, before[2])
    return subprocess.CompletedProcess(["treeline", *arguments], ending.code, out.getvalue(), said.getvalue())
