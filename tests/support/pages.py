"""Pages of the documentation, the blocks in them, and a process that runs these.

<!-- not run: a GPU -->      a comment right above a block: why the tests do not run it
```yaml title="a.yaml"       a block that is the content of a file
"""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = {"README": ROOT / "README.md", "CONTRIBUTING": ROOT / "CONTRIBUTING.md"} | {
    path.relative_to(DOCS).with_suffix("").as_posix(): path for path in sorted(DOCS.rglob("*.md"))
}
"""Every page by its name: its path below docs/, without the ending."""
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?(?P<indent> *)```(?P<language>\w*)"
    r'(?: title="(?P<title>[\w.-]+)")?\n(?P<text>.*?)^(?P=indent)```$',
    re.S | re.M,
)
_SETTING = re.compile(r"[A-Z][A-Z0-9_]*=")


class Block(NamedTuple):
    """One block of a page, between fences."""

    language: str
    text: str
    line: int
    """Line of the page on which it begins."""
    reason: str
    """Why it is not run; "" if it is."""
    title: str = ""
    """Name of the file that it is the content of; "" if none."""

    @property
    def runs(self) -> bool:
        """Whether the tests run it."""
        return self.language in ("sh", "python") and not self.reason and not self.title


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page, in their order."""
    text = PAGES[page].read_text()
    return [
        Block(
            found["language"],
            textwrap.dedent(found["text"]),
            text.count("\n", 0, found.start("language")) + 1,
            found["reason"] or "",
            found["title"] or "",
        )
        for found in _BLOCK.finditer(text)
    ]


def lines_of(text: str) -> list[str]:
    """The commands of a block of `sh`, each on one line."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def words_of(line: str) -> list[str]:
    """A command as a program gets it: without comments, and without variables that are set for it."""
    words = shlex.split(line, comments=True)
    while words and _SETTING.match(words[0]):
        words = words[1:]
    return words


RUN = """
import contextlib, io, json, os, shlex, subprocess, sys
from in_process import treeline
names = {}

def run(language, text):
    if language == "python":
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(text, names)
        return out.getvalue()
    said = ""
    for line in text.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if program == "treeline":
            done = treeline(*arguments)
        else:
            done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
        said += done.stdout + done.stderr
        if done.returncode:
            raise RuntimeError(f"{line}: exit code {done.returncode}\\n{said}")
    return said

for request in sys.stdin:
    folder, language, text, is_first = json.loads(request)
    os.chdir(folder)
    if is_first:
        names.clear()
    try:
        answer = {"said": run(language, text)}
    except Exception as error:
        answer = {"failed": f"{type(error).__name__}: {error}"}
    print("answer " + json.dumps(answer), flush=True)
"""


@contextmanager
def running_blocks() -> Iterator["subprocess.Popen[str]"]:
    """A process that runs blocks, one after another: starting one for each page took longer than most do."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support", *sys.path)))
    process = subprocess.Popen(
        [sys.executable, "-c", RUN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
