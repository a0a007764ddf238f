"""Options from defaults, recipe, file and flags, each before the next: one frozen dataclass for each command.

config = parse(TrainConfig, ["--config", "options.yaml", "--epochs", "9"], "treeline train")
"""

import dataclasses
import importlib
import types
import typing
from typing import Any

from shards.errors import InputError

FILE = "config"
"""--config FILE, which every command takes: YAML or JSON, with the names of its options."""


def parse(options: type, arguments: list[str], program: str) -> Any:
    """An instance of `options`.

    Raises:
        InputError: the file has a key or a value that is no option's.
        SystemExit: a flag is wrong (code 2) or help was asked for (code 0).
    """
    import tyro

    url, arguments = without_file(arguments)
    fields = {field.name: field for field in dataclasses.fields(options)}
    values = {
        name: tyro.MISSING if field.default is dataclasses.MISSING else field.default
        for name, field in fields.items()
    }
    from_file = _read_options(url, options, program) if url is not None else {}
    if "recipe" in fields:
        recipe = _flag(arguments, "recipe") or from_file.get("recipe")
        recipes = importlib.import_module(options.__module__).RECIPES
        values |= recipes.get(recipe, {}) | ({"recipe": recipe} if recipe else {})
    values |= {name: value for name, value in from_file.items() if name != "recipe"}
    about = f"{options.__doc__}\n\n--config FILE: options from a YAML or JSON file; flags count more."
    return tyro.cli(options, args=arguments, default=options(**values), prog=program, description=about)


def without_file(arguments: list[str]) -> tuple[str | None, list[str]]:
    """What --config says, and the other arguments.

    Raises:
        InputError: nothing follows --config.
    """
    url, rest = None, list(arguments)
    for place, argument in enumerate(arguments):
        if argument == f"--{FILE}":
            if place + 1 == len(arguments):
                raise InputError("--config: give a YAML or JSON file of options")
            url = arguments[place + 1]
            del rest[place : place + 2]
            break
        if argument.startswith(f"--{FILE}="):
            url = argument.partition("=")[2]
            del rest[place]
            break
    return url, rest


def _flag(arguments: list[str], name: str) -> str | None:
    for place, argument in enumerate(arguments):
        if argument == f"--{name}" and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"--{name}="):
            return argument.partition("=")[2]
    return None


def _read_options(url: str, options: type, program: str) -> dict[str, Any]:
    """The options in the file at `url`, checked against the options there are."""
    import yaml

    from shards.storage import read_bytes

    try:
        values = yaml.safe_load(read_bytes(url))
    except yaml.YAMLError as error:
        raise InputError(f"{url}: not a YAML or JSON file ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise InputError(f"{url}: not a list of options (key: value)")
    hints = typing.get_type_hints(options)
    for name, value in values.items():
        if name not in hints:
            raise InputError(f"{url}: no option is called {name!r}; see {program} --help")
        values[name] = _as_option(value, hints[name], f"{url}: {name}")
    return values


def _as_option(value: Any, hint: Any, where: str) -> Any:
    """A value from a file, as the option's type; YAML reads 5e-5 as text and lists as lists."""
    kind = typing.get_origin(hint)
    if kind in (typing.Union, types.UnionType):
        wanted = [one for one in typing.get_args(hint) if one is not type(None)]
        if value is None and len(wanted) < len(typing.get_args(hint)):
            return None
        return _as_option(value, wanted[0], where)
    if kind is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise InputError(f"{where} is {value!r}, not one of {', '.join(map(str, choices))}")
        return value
    if kind is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where} is {value!r}, not a list")
        return tuple(_as_option(one, typing.get_args(hint)[0], where) for one in value)
    if hint is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"{where} is {value!r}, not a number") from error
    if type(value) is not hint:
        raise InputError(f"{where} is {value!r}, not of type {hint.__name__}")
    return value
