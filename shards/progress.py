"""Progress of long work on standard error: a bar on a terminal, a plain line now and then elsewhere.

with progress("ingest", total, "chips") as advance:
    advance(1, "kept 10, rejected 2")
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shards.foreign_text import visible
from shards.said import say

Advance = Callable[..., None]
"""advance(count, note=""): report that `count` more is done; the latest `note` is shown."""

PIXELS = "pixels"
"""Unit that is shown in millions where there are many: a scene has too many pixels to read their number."""

_LINE_SECONDS = 10.0
_MEGA = 1e6
_FEW_PIXELS = 1e5
"""Number of pixels below which all are shown: 0.1 megapixels is the least that is not shown as 0.0."""


@contextmanager
def progress(what: str, total: int, unit: str, before: int = 0) -> Iterator[Advance]:
    """Show how much of `total` is done, the rate per second and the time left.

    Args:
        what: the work, e.g. "ingest".
        total: the amount of work, in `unit`.
        unit: what is counted; many PIXELS are shown in millions.
        before: the amount that an earlier process did.
    """
    shower = _bar if sys.stderr.isatty() else _lines
    yield from shower(what, total, unit, before)


def in_words(count: float, unit: str) -> str:
    """Write a count with its unit, as `progress` does."""
    return " ".join(_shown(count, unit, count))


def _shown(count: float, unit: str, of: float) -> tuple[str, str]:
    """Return a count as it is shown, and its unit, where `of` is the largest one that is shown beside it."""
    if unit == PIXELS and of >= _FEW_PIXELS:
        return f"{count / _MEGA:,.1f}", "megapixels"
    return f"{count:,.0f}", unit


def _bar(what: str, total: int, unit: str, before: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[done]}/" + _shown(total, unit, total)[0]),
        TextColumn("{task.fields[rate]}/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        shown = _shown(before, unit, total)[0]
        task = bar.add_task(what, total=total, completed=before, done=shown, rate=f"- {unit}", note="")
        done, start = 0, time.monotonic()

        def advance(count: int, note: str = "") -> None:
            nonlocal done
            done += count
            rate = in_words(done / max(time.monotonic() - start, 1e-9), unit)
            shown = _shown(before + done, unit, total)[0]
            bar.update(task, advance=count, done=shown, rate=rate, note=visible(note))

        yield advance


def _lines(what: str, total: int, unit: str, before: int) -> Iterator[Advance]:
    done, start, note_now = 0, time.monotonic(), ""
    said, said_of = start, -1

    def show() -> None:
        seconds = max(time.monotonic() - start, 1e-9)
        rate = done / seconds
        left = f", {(total - before - done) / rate:,.0f} s left" if 0 < done < total - before else ""
        of_all = f"{_shown(before + done, unit, total)[0]} of {in_words(total, unit)}"
        line = f"{what}: {of_all}, {in_words(rate, unit)}/s, {seconds:.0f} s{left}"
        say(line + (f", {note_now}" if note_now else ""), of="")

    def advance(count: int, note: str = "") -> None:
        nonlocal done, note_now, said, said_of
        done, note_now = done + count, note
        if time.monotonic() - said >= _LINE_SECONDS:
            said, said_of = time.monotonic(), done
            show()

    yield advance
    if said_of != done:  # the last line may have come just now
        show()
