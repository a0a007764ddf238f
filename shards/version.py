"""The version and commit of the code: every result records them, and nothing compares them."""

import os
import re
from functools import cache
from pathlib import Path

import shards

COMMIT = "TREELINE_COMMIT"
"""Environment variable that names the commit where there is no checkout; `treeline submit` sets it."""
UNKNOWN = "unknown"
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def made_by_code() -> dict[str, str]:
    """Return Treeline's version and commit, as results record them."""
    return {"treeline": shards.__version__, "commit": commit()}


def commit() -> str:
    """Return the git commit of the running code, or "unknown"."""
    return os.environ.get(COMMIT) or commit_of(Path(shards.__file__).parent.parent)


@cache  # a commit made while the process runs is not the code that it runs
def commit_of(checkout: Path) -> str:
    """Return the commit that is checked out in a folder, or "unknown". Reads git's files.

    Uncommitted changes are not detected.
    """
    try:
        folder = checkout / ".git"
        if folder.is_file():  # in a worktree or a submodule
            folder = checkout / folder.read_text().removeprefix("gitdir:").strip()
        head = (folder / "HEAD").read_text().strip()
        if head.startswith("ref:"):
            head = _commit_of_branch(folder, head.removeprefix("ref:").strip())
    except (OSError, UnicodeDecodeError):
        return UNKNOWN
    return head if _HASH.fullmatch(head) else UNKNOWN


def _commit_of_branch(folder: Path, branch: str) -> str:
    common = folder / "commondir"  # a worktree shares its branches with the others
    shared = folder / common.read_text().strip() if common.exists() else folder
    if (shared / branch).exists():
        return (shared / branch).read_text().strip()
    for line in (shared / "packed-refs").read_text().splitlines():
        found, _, name = line.partition(" ")
        if name == branch:
            return found
    return UNKNOWN
