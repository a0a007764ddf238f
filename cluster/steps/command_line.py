"""A step as a command to paste into a shell."""

import shlex
from collections.abc import Iterator
from typing import Any

import tyro

from cluster.steps.steps_file import Step
from shards.nested import Option, options_of
from shards.roles import flag_of


def command_line(step: Step) -> str:
    """Write a step as the command that does the same."""
    return shlex.join(["treeline", *words_of(step)])


def words_of(step: Step) -> list[str]:
    """Return the words of a step's command, without `treeline`; those without a flag come first."""
    known = options_of(type(step.config))
    first, flags = list[str](), list[str]()
    for name, value in step.named.items():
        if tyro.conf.Positional in known[name].marks:
            first += _words(value)
        else:
            flags += _flag(name, known[name], value)
    return [*step.command.split(), *first, *flags]


def _flag(name: str, option: Option, value: Any) -> Iterator[str]:
    """Yield an option's flag and its values."""
    other = (getattr(mark, "name", None) for mark in option.marks if type(mark).__module__.startswith("tyro"))
    flag = flag_of(next((said for said in other if isinstance(said, str)), name))
    if isinstance(value, bool):
        yield flag if value else f"--no-{flag[2:]}"
        return
    yield flag
    yield from _words(value)


def _words(value: Any) -> list[str]:
    return [str(word) for word in value] if isinstance(value, tuple | list) else [str(value)]
