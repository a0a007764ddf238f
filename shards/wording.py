"""Numbers and options in words for people, in messages, tables and pages alike.

cure = Words("if so, give ", Option("nodata", 0), OnlyInCommands(" and another --out"))
cure                                           # "if so, give --nodata 0 and another --out"
in_python(cure)                                # "if so, give nodata=0"
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from shards.errors import InputError


def counted(count: int, thing: str) -> str:
    """Write how many things there are: 1 chip, 1,200 chips."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def said_splits(counts: Mapping[str, int]) -> str:
    """Write how many chips each split has: 80 train, 20 val, 12 buffer (left out, between the others)."""
    notes = {"buffer": " (left out, between the others)"}
    return ", ".join(f"{count:,} {split}{notes.get(split, '')}" for split, count in counts.items())


def number(value: float) -> str:
    """Write four digits, or all before the point: 0.01234, 12.34, 12,340."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@dataclass(frozen=True)
class Option:
    """An option that a message names, and the value that it should have."""

    name: str
    """Name as an argument: "on_mismatch"."""
    value: str | float | tuple[str, ...] | None = None
    """None: the message leaves it open."""

    def __str__(self) -> str:
        """Write it as on a command line."""
        name = "--" + self.name.replace("_", "-")
        if self.value is None:
            return name
        return " ".join([name, *(self.value if isinstance(self.value, tuple) else [_text(self.value)])])

    @property
    def argument(self) -> str:
        """Write it as an argument in Python."""
        if self.value is None:
            return self.name
        if isinstance(self.value, tuple):
            return f"{self.name}=[{', '.join(map(json.dumps, self.value))}]"
        return f"{self.name}={json.dumps(self.value) if isinstance(self.value, str) else _text(self.value)}"


def _text(value: str | float) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)


class OnlyInCommands(str):
    """Part of a message that makes no sense in Python."""


class Words(str):
    """Text as a command line says it, which knows the options in it, so that Python can name arguments."""

    parts: tuple[str | Option, ...]

    def __new__(cls, *parts: "str | Option") -> "Words":
        """Join texts, options and other words."""
        words = super().__new__(cls, "".join(map(str, parts)))
        words.parts = tuple(
            one for part in parts for one in (part.parts if isinstance(part, Words) else (part,))
        )
        return words


def in_python(text: str) -> str:
    """Say a text with its options as arguments."""
    if not isinstance(text, Words):
        return text
    said = (part.argument if isinstance(part, Option) else part for part in text.parts)
    return "".join(part for part in said if not isinstance(part, OnlyInCommands))


@contextmanager
def arguments_named() -> Iterator[None]:
    """Let errors name options as arguments; a decorator of what Python calls, too."""
    try:
        yield
    except InputError as error:
        error.args = (in_python(error.line),)
        raise
