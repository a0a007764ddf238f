"""What both demos have in common: an empty folder, and steps one after another."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from markupsafe import Markup

from shards.draw.html import Numeral, table
from shards.errors import InputError
from shards.said import say
from shards.storage.objects import check_writable, is_local, local_path

Result = TypeVar("Result")


@dataclass
class Steps:
    """Runner of steps, one after another."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each step took, by name."""

    def do(self, name: str, work: Callable[[], Result]) -> Result:
        """Announce the step, do its work, and note the time it took."""
        say(f"[{len(self.seconds) + 1}] {name}", of="")
        start = time.monotonic()
        result = work()
        self.seconds[name] = time.monotonic() - start
        return result

    @property
    def total(self) -> float:
        """Seconds of all steps."""
        return sum(self.seconds.values())

    def table(self) -> Markup:
        """Return the seconds as a table."""
        rows = {**self.seconds, "in all": self.total}
        return table(("step", "seconds"), [(name, Numeral(f"{value:.1f}")) for name, value in rows.items()])


def empty_folder(url: str) -> Path:
    """Return the demo's folder.

    Raises:
        InputError: it is not an empty or new local folder.
    """
    if not is_local(url):
        raise InputError(f"{url}: the demo writes to a local folder")
    folder = local_path(url)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{url}: is not empty; choose another folder, or delete it first")
    check_writable(url)
    return folder
