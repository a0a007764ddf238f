"""Progress of long work on standard error: a bar on a terminal, a plain line now and then elsewhere.

with progress("ingest", total, "chips") as advance:
    advance(1, "kept 10, rejected 2")
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]
"""advance(count, note=""): so much more is done; `note` says what there is to say at the moment."""

_LINE_SECONDS = 10.0


@contextmanager
def progress(what: str, total: int, unit: str, before: int = 0) -> Iterator[Advance]:
    """Show how much of `total` is done, at which rate per second, and how long it will still take.

    `before`: so much of it was done by an earlier process.
    """
    shower = _bar if sys.stderr.isatty() else _lines
    yield from shower(what, total, unit, before)


def _bar(what: str, total: int, unit: str, before: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} " + unit + "/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=before, rate="-", note="")
        done, start = 0, time.monotonic()

        def advance(count: int, note: str = "") -> None:
            nonlocal done
            done += count
            rate = f"{done / max(time.monotonic() - start, 1e-9):,.0f}"
            bar.update(task, advance=count, rate=rate, note=note)

        yield advance


def _lines(what: str, total: int, unit: str, before: int) -> Iterator[Advance]:
    done, start, note_now = 0, time.monotonic(), ""
    said = start

    def say() -> None:
        seconds = max(time.monotonic() - start, 1e-9)
        rate = done / seconds
        left = f", {(total - before - done) / rate:,.0f} s left" if 0 < done < total - before else ""
        line = f"{what}: {before + done:,} of {total:,} {unit}, {rate:,.0f} {unit}/s, {seconds:.0f} s{left}"
        print(line + (f", {note_now}" if note_now else ""), file=sys.stderr, flush=True)

    def advance(count: int, note: str = "") -> None:
        nonlocal done, note_now, said
        done, note_now = done + count, note
        if time.monotonic() - said >= _LINE_SECONDS:
            said = time.monotonic()
            say()

    yield advance
    say()
