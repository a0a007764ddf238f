"""Progress of long work on standard error: a bar on a terminal, a plain line now and then elsewhere.

with progress("ingest", total, "chips") as advance:
    advance(1, "kept 10, rejected 2")
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]
"""advance(count, note=""): report that `count` more is done; the latest `note` is shown."""

PIXELS = "pixels"
"""Unit that is shown in millions: a scene has too many pixels to read their number."""

_LINE_SECONDS = 10.0
_MEGA = 1e6


@contextmanager
def progress(what: str, total: int, unit: str, before: int = 0) -> Iterator[Advance]:
    """Show how much of `total` is done, the rate per second and the time left.

    Args:
        what: the work, e.g. "ingest".
        total: the amount of work, in `unit`.
        unit: what is counted; PIXELS are shown in millions.
        before: the amount that an earlier process did.
    """
    shower = _bar if sys.stderr.isatty() else _lines
    yield from shower(what, total, unit, before)


def _shown(count: float, unit: str) -> str:
    return f"{count / _MEGA:,.1f}" if unit == PIXELS else f"{count:,.0f}"


def _unit(unit: str) -> str:
    return "megapixels" if unit == PIXELS else unit


def _bar(what: str, total: int, unit: str, before: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}/" + _shown(total, unit)),
        TextColumn("{task.fields[rate]} " + _unit(unit) + "/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=before, done=_shown(before, unit), rate="-", note="")
        done, start = 0, time.monotonic()

        def advance(count: int, note: str = "") -> None:
            nonlocal done
            done += count
            rate = _shown(done / max(time.monotonic() - start, 1e-9), unit)
            bar.update(task, advance=count, done=_shown(before + done, unit), rate=rate, note=note)

        yield advance


def _lines(what: str, total: int, unit: str, before: int) -> Iterator[Advance]:
    done, start, note_now = 0, time.monotonic(), ""
    said = start

    def say() -> None:
        seconds = max(time.monotonic() - start, 1e-9)
        rate = done / seconds
        left = f", {(total - before - done) / rate:,.0f} s left" if 0 < done < total - before else ""
        of_all = f"{_shown(before + done, unit)} of {_shown(total, unit)} {_unit(unit)}"
        line = f"{what}: {of_all}, {_shown(rate, unit)} {_unit(unit)}/s, {seconds:.0f} s{left}"
        print(line + (f", {note_now}" if note_now else ""), file=sys.stderr, flush=True)

    def advance(count: int, note: str = "") -> None:
        nonlocal done, note_now, said
        done, note_now = done + count, note
        if time.monotonic() - said >= _LINE_SECONDS:
            said = time.monotonic()
            say()

    yield advance
    say()
