"""A mistake in a command's flags, in one line; tyro draws a box of many."""

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from shards.errors import InputError
from shards.nested import Option
from shards.roles import flag_of

_RULE = re.compile(r"[\s\-─╭╮╰╯]*")
_NAME = re.compile(r"^ {5,}(--[\w-]+|[A-Z][A-Z_.|\[\]]*)(?= |$)", re.MULTILINE)
_NUMBER = re.compile(r"-\.?\d")


class WrongFlags(InputError):
    """A mistake in the flags of a command, which the line names instead of the program alone."""

    def __init__(self, text: str, program: str) -> None:
        super().__init__(text)
        self.program = program


def wrong_flags(box: str, arguments: Sequence[str], known: Mapping[str, Option], program: str) -> WrongFlags:
    """Say what is wrong with the arguments that tyro refuses.

    Args:
        box: what tyro says.
        arguments: the command's arguments.
        known: its options.
        program: its name, with "treeline" before it.
    """
    said = _unknown(arguments, known) or _by_box(box, arguments, known)
    return WrongFlags(f"{said} ({program} --help)", program)


def _unknown(arguments: Sequence[str], known: Mapping[str, Option]) -> str:
    """Name the first flag that is none; "" if there is none."""
    flags = {flag: option for name, option in known.items() for flag in _flags_of(name, option)}
    flags |= {f"--no-{flag[2:]}": option for flag, option in flags.items() if option.kind is bool}
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if not flag.startswith("-") or flag in flags or _NUMBER.match(flag):
            continue
        near = difflib.get_close_matches(flag, flags, 1)
        return f"no option {argument.partition('=')[0]}" + (f"; did you mean {near[0]}?" if near else "")
    return ""


def _flags_of(name: str, option: Option) -> list[str]:
    """Return the flags of an option: by its name, or by one of its own."""
    own = [mark.name for mark in option.marks if getattr(mark, "name", None)]
    return [flag_of(one) for one in (name, *own)]


def _by_box(box: str, arguments: Sequence[str], known: Mapping[str, Option]) -> str:
    """Say in a line what tyro's box says."""
    first, *parts = [part for part in re.split(r"\n(?=[^\n]*(?:--|──)[-─]{8,})", _plain(box)) if part.strip()]
    body = parts[0] if parts else first
    text = " ".join(line.strip() for line in body.splitlines() if not _RULE.fullmatch(line))
    if "Missing from" in text:
        return f"{' and '.join(dict.fromkeys(_NAME.findall(body)))} must be given"
    if found := re.search(r"Unrecognized options: (.*)", text):
        return f"cannot use {found[1].split(', ')[0]!r}: options begin with --"
    if found := re.search(r"(?:parsing|argument) '?(--[\w-]+)", text):
        return _wrong_value(found[1], arguments, known) or text
    return text or "the options cannot be understood"


def _plain(box: str) -> str:
    """Drop the sides of a box."""
    return "\n".join(re.sub(r"^│|│$", " ", line).rstrip() for line in box.splitlines())


def _wrong_value(flag: str, arguments: Sequence[str], known: Mapping[str, Option]) -> str:
    """Say which value is wrong and what the option takes; "" if it is unknown."""
    option = next((its for name, its in known.items() if flag in _flags_of(name, its)), None)
    if option is None:
        return ""
    given = " ".join(_values_of(flag, arguments))
    wanted = _wanted(option.kind)
    return f"{flag} {given}: give {wanted}" if given else f"{flag}: give {wanted} after it"


def _values_of(flag: str, arguments: Sequence[str]) -> list[str]:
    """Return the values behind the last such flag."""
    values: list[str] = []
    is_here = False
    for argument in arguments:
        name, _, value = argument.partition("=")
        if argument.startswith("--"):
            is_here = name.replace("_", "-") == flag
            values = ([value] if value else []) if is_here else values
        elif is_here:
            values.append(argument)
    return values


def _wanted(kind: Any) -> str:
    """Describe the values of a type."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        *others, last = map(str, parts)
        return f"{', '.join(others)} or {last}" if others else last
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_wanted(part) for part in parts if part is not type(None))
    if origin is tuple:
        return {int: "whole numbers", float: "numbers"}.get(parts[0], "words")
    return {int: "a whole number", float: "a number", bool: "yes or no"}.get(kind, "a value")
