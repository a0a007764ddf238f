"""A kill before a chosen step: whatever named functions write, copy or remove is a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import pytest


class Stopped(Exception):
    """What stands for a kill."""


@contextmanager
def stopped_before(
    stop_at: int | None, functions: Iterable[tuple[ModuleType, str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """Yield the steps that were taken; the `with` block ends before the step of number `stop_at`.

    Args:
        stop_at: number of the step, from 0; None lets the block run to its end.
        functions: modules and names of the functions whose calls are steps.
        monkeypatch: replaces them while the block runs.
    """
    steps: list[str] = []

    def counted(name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            if len(steps) == stop_at:
                raise Stopped
            steps.append(f"{name} {arguments[0]}")
            return do(*arguments)

        return step

    with monkeypatch.context() as patch:
        for module, name in functions:
            patch.setattr(module, name, counted(name, getattr(module, name)))
        with suppress(Stopped):
            yield steps
