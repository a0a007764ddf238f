"""What --help shows: the usual options of a command in groups, and with --help-all all of them.

The words are the options' own docstrings; tyro draws them. Nothing is read or run.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, NoReturn

from shards.nested import Option, options_of
from shards.roles import Group, In, Usual, roles

REQUIRED = "Required"
"""Title of the options that must be given, which come first."""


def show_help(options: type, values: Mapping[str, Any], program: str, everything: bool) -> NoReturn:
    """Print the usual options of a command, or all of them, and exit with code 0.

    Args:
        options: the command's configuration.
        values: defaults by name, those of a recipe or a file among them.
        program: name of the command, with "treeline" before it.
        everything: whether to show all options.
    """
    import tyro

    known = options_of(options)
    required = {name for name, value in values.items() if value is tyro.MISSING}
    usual = known if everything else usual_options(options)
    shown = {name: option for name, option in known.items() if name in usual or name in required}
    about = f"{inspect.getdoc(options)}\n\n--config FILE: options from a YAML or JSON file; flags count more."
    if hidden := len(known) - len(shown):
        about += f"\n--help-all: shows {hidden} more options."
    words = dict(_words(options))
    groups: dict[str, list[tuple[str, Any, Any]]] = {}
    for title, name in _placed(shown, required, roles(options, Group)):
        groups.setdefault(title, []).append((name, *_shown(shown[name], values[name], words[name])))
    parts = [
        (re.sub(r"\W", "_", title.lower()), dataclasses.make_dataclass(title, options))
        for title, options in groups.items()
    ]
    tyro.cli(
        dataclasses.make_dataclass("Help", parts),
        args=["--help"],
        prog=program,
        description=about,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    raise SystemExit(0)


def usual_options(options: type) -> Collection[str]:
    """Return the names of a command's usual options: all, if its own class marks none."""
    usual, own = roles(options, Usual), inspect.get_annotations(options)
    return usual if usual.keys() & own.keys() else options_of(options)


def _placed(
    shown: Iterable[str], required: set[str], groups: Mapping[str, Group]
) -> Iterator[tuple[str, str]]:
    """Yield groups and names of options in the order in which they are shown."""
    order = [group.title for group in vars(In).values() if isinstance(group, Group)]
    yield from ((REQUIRED, name) for name in shown if name in required)
    left = {name: groups.get(name, In.OTHER) for name in shown if name not in required}
    for name, group in sorted(left.items(), key=lambda item: (order.index(item[1].title), item[1].rank)):
        yield group.title, name


def _shown(option: Option, value: Any, words: str) -> tuple[Any, Any]:
    """Return type and default of an option for tyro, with its words and its value unless given."""
    import tyro

    marks = [mark for mark in option.marks if type(mark).__module__.startswith("tyro")]
    own = [mark for mark in marks if hasattr(mark, "metavar")]
    is_required = value is tyro.MISSING
    said = tyro.conf.arg(
        name=next((mark.name for mark in own if mark.name), None),
        metavar=next((mark.metavar for mark in own if mark.metavar), _metavar(option.kind)),
        help=words,
        help_behavior_hint="(required)" if is_required else _default(value),
    )
    shown: Any = option.kind
    for mark in (*(mark for mark in marks if mark not in own), said):
        shown = Annotated[shown, mark]
    return shown, dataclasses.field() if is_required else dataclasses.field(default=value)


def _metavar(kind: Any) -> str | None:
    """Return what stands for a value that may be left out; None for what tyro shows by itself."""
    kinds = typing.get_args(kind)
    if type(None) not in kinds or any(typing.get_origin(one) for one in kinds):
        return None
    return "|".join(one.__name__.upper() for one in kinds if one is not type(None))


def _default(value: Any) -> str:
    """Write a default as a person would; "" where there is nothing to say."""
    if isinstance(value, tuple | list):
        value = " ".join(map(str, value))
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        value = "yes" if value else "no"
    elif isinstance(value, int | float):
        value = f"{value:,}" if value == int(value) else f"{value:g}"
    return f"(default: {value.removesuffix('.0')})"


def _words(options: type) -> Iterator[tuple[str, str]]:
    """Yield the names of options and the docstrings of their fields, parts included."""
    for kind in reversed(options.__mro__[:-1]):
        if not dataclasses.is_dataclass(kind):
            continue
        for field, after in pairwise(_body(kind)):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                yield field.target.id, " ".join(str(after.value.value).split())
    for part in typing.get_type_hints(options).values():
        if isinstance(part, type) and dataclasses.is_dataclass(part):
            yield from _words(part)


@cache
def _classes(module: str) -> dict[str, list[ast.stmt]]:
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}


def _body(kind: type) -> list[ast.stmt]:
    return _classes(kind.__module__)[kind.__name__]
