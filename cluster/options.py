"""Options from defaults, recipe, file and flags, each overriding the one before.

Each command has one frozen dataclass. Its parts (see shards.nested) show in the help only: flags and files
have the options' names alone.

config = parse(TrainConfig, ["--config", "options.yaml", "--epochs", "9"], "treeline train")
"""

import dataclasses
import difflib
import importlib
import io
import types
import typing
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

from cluster.help import show_help
from cluster.wrong_flags import wrong_flags
from shards.addresses import Address, check_address
from shards.errors import InputError
from shards.nested import built, draft, flat, options_of
from shards.roles import OWN_PARTS, Before, Place, Replaces, flag_of, refuse_idle, renewed, roles

ALL_OPTIONS = "--help-all"
HELP = ("-h", "--help", ALL_OPTIONS)
"""Flags that ask for help: for the usual options, or for all."""
FILE = "config"
"""--config FILE, which every command takes: YAML or JSON, with the names of its options."""


class Parsed(NamedTuple):
    """A command's options."""

    config: Any
    """All of them, as an instance of the command's configuration."""
    named: dict[str, Any]
    """Options named by the file or by flags; with the recipe among them, they make `config` again."""


def parse(options: type, arguments: list[str], program: str) -> Any:
    """Make an instance of `options`; see `parsed`."""
    return parsed(options, arguments, program).config


def parsed(options: type, arguments: list[str], program: str) -> Parsed:
    """Make an instance of `options`, and tell what was named.

    Raises:
        InputError: a flag is wrong, the file has a key or a value that is no option's, or an option that was
            given has no effect among the others.
        SystemExit: help was asked for (code 0).
    """
    import tyro

    url, arguments = _without_file(arguments)
    arguments = _renewed_flags(arguments, options)
    known = options_of(options)
    from_file = read_options(url, options, program) if url is not None else {}
    values = _values(options, from_file, _flag(arguments, "recipe"))
    values = {name: tyro.MISSING if value is dataclasses.MISSING else value for name, value in values.items()}
    if any(flag in arguments for flag in HELP):
        show_help(options, values, program, ALL_OPTIONS in arguments)
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            config: Any = tyro.cli(
                options,
                args=arguments,
                # Flags may still replace what would be refused.
                default=draft(options, values),
                prog=program,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as wrong:
        raise wrong_flags(said.getvalue(), arguments, known, program) from wrong
    chosen = flat(config)
    flags = {name for name in known if _is_flag(arguments, name)}
    # Positional options have no flag; a changed value shows that they were given.
    flags |= {name for name in known if chosen[name] != values[name]}
    own = set() if _is_whole(from_file, options) else from_file.keys()
    _refuse_secrets(config)
    refuse_idle(config, flags | own)
    return Parsed(config, {name: chosen[name] for name in known if name in flags or name in from_file})


def of_values(options: type, values: Mapping[str, Any], where: str) -> Parsed:
    """Make an instance of `options` from values alone, as from a file that names just these.

    Args:
        options: the command's configuration.
        values: values of its options, as `as_options` returns them.
        where: what has the values, for messages.

    Raises:
        InputError: an option lacks its value, is out of range, or has no effect among the others.
    """
    every = _values(options, values, None)
    if missing := [name for name, value in every.items() if value is dataclasses.MISSING]:
        raise InputError(f"{where}: {' and '.join(missing)} must be given")
    try:
        config: Any = built(options, every)
        _refuse_secrets(config)
        refuse_idle(config, set() if _is_whole(values, options) else values.keys())
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return Parsed(config, {name: every[name] for name in options_of(options) if name in values})


def _values(options: type, from_file: Mapping[str, Any], recipe: str | None) -> dict[str, Any]:
    """Return defaults, overridden by a recipe, overridden by a file's values.

    Raises:
        InputError: there is no such recipe.
    """
    known = options_of(options)
    values = {name: option.default for name, option in known.items()}
    if "recipe" in known:
        recipe = recipe or from_file.get("recipe")
        recipes = importlib.import_module(options.__module__).RECIPES
        if recipe is not None and recipe not in recipes:
            raise InputError(f"--recipe {recipe}: choose {', '.join(recipes)}")
        values |= recipes[recipe] | {"recipe": recipe} if recipe else {}
    return values | {name: value for name, value in from_file.items() if name != "recipe"}


def read_options(url: str, options: type, program: str) -> dict[str, Any]:
    """Read the options in the file at `url`, checked against the options there are.

    Raises:
        InputError: it has a key or a value that is no option's.
    """
    from shards.storage.yaml_file import read_yaml

    values = read_yaml(url)
    if not isinstance(values, dict):
        raise InputError(f"{url}: not a list of options (key: value)")
    return as_options(values, options, url, program)


def as_options(values: Mapping[str, Any], options: type, where: str, program: str) -> dict[str, Any]:
    """Convert values, as YAML has them, to those of options.

    Args:
        values: values by the options' names, or by those of older options.
        options: the command's configuration.
        where: what has the values, for messages.
        program: name of the command, with "treeline" before it.

    Raises:
        InputError: there is a name or a value that is no option's.
    """
    values = _renewed_options(dict(values), options, where)
    values = {name: value for name, value in values.items() if name != OWN_PARTS}
    known = options_of(options)
    for name, value in values.items():
        if name not in known:
            raise InputError(
                f"{where}: no option is called {name!r}; {nearest(name, known)}see {program} --help-all"
            )
        values[name] = _as_option(value, known[name].kind, f"{where}: {name}")
    return values


def _refuse_secrets(config: Any) -> None:
    """Refuse options with an address that holds a user, a password or a token.

    Raises:
        InputError: says where they belong.
    """
    addresses, places = roles(type(config), Address), roles(type(config), Place)
    for name, value in flat(config).items():
        of_hub = Address("hub") if name in places and places[name].or_name else Address()
        role = addresses.get(name, of_hub)
        for one in value if isinstance(value, tuple | list) else [value]:
            if isinstance(one, str):
                check_address(one, flag_of(name), role.user, role.query)


def nearest(name: object, known: Iterable[str]) -> str:
    """Ask whether the known name that is most like `name` is meant; "" if none is like it."""
    close = difflib.get_close_matches(str(name), list(known), 1)
    return f"did you mean {close[0]}? " if close else ""


def _is_whole(from_file: Mapping[str, Any], options: type) -> bool:
    """Tell whether a run wrote this file: it names every option that has a default, but for younger ones."""
    younger = roles(options, Before)
    return all(
        name in from_file or name in younger or option.default is dataclasses.MISSING
        for name, option in options_of(options).items()
    )


def _without_file(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Split off what --config says; return it and the other arguments.

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


def _renewed_flags(arguments: list[str], options: type) -> list[str]:
    """Write the flags of older options as those of the options that replace them.

    Raises:
        InputError: one stands beside the option that replaces it.
    """
    newer = dict[str, list[str]]()
    for name, role in roles(options, Replaces).items():
        older = flag_of(role.older)
        if _is_flag(arguments, role.older) and _is_flag(arguments, name):
            last = [word for word in map(_flag_alone, arguments) if word in (older, f"--no-{older[2:]}")][-1]
            means = role.yes if last == older else role.no
            newer_flag, value = flag_of(name), _flag(arguments, name)
            raise InputError(
                f"{last} means {newer_flag} {means}, and {newer_flag} {value} is given too; leave {last} out"
            )
        newer |= {older: [flag_of(name), role.yes], f"--no-{older[2:]}": [flag_of(name), role.no]}
    return [word for argument in arguments for word in newer.get(argument.replace("_", "-"), [argument])]


def _renewed_options(values: dict[str, Any], options: type, url: str) -> dict[str, Any]:
    """Replace older options of a file.

    Raises:
        InputError: one is no yes or no, or stands beside the option that replaces it.
    """
    for name, role in roles(options, Replaces).items():
        if role.older in values and name in values:
            means = role.yes if values[role.older] else role.no
            raise InputError(
                f"{url}: {role.older} means {name} {means}, and {name} {values[name]} is there too; leave "
                f"{role.older} out"
            )
        if role.older in values:
            _as_option(values[role.older], bool, f"{url}: {role.older}")
    return renewed(options, values)


def _flag(arguments: list[str], name: str) -> str | None:
    """Return the value of a flag; the last one counts, as for tyro."""
    found = None
    for place, argument in enumerate(arguments):
        if argument == f"--{name}" and place + 1 < len(arguments):
            found = arguments[place + 1]
        if argument.startswith(f"--{name}="):
            found = argument.partition("=")[2]
    return found


def _is_flag(arguments: list[str], name: str) -> bool:
    """Tell whether one of `arguments` is a flag of this option; tyro takes - and _ alike."""
    words = set(map(_flag_alone, arguments))
    flag = name.replace("_", "-")
    return not words.isdisjoint({f"--{flag}", f"--no-{flag}"})


def _flag_alone(argument: str) -> str:
    """Return an argument without its value, with - for _."""
    return argument.partition("=")[0].replace("_", "-")


def shown(value: Any) -> str:
    """Write a value of a file for a message; one with aliases in it can be endless."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    return repr(value)


def _as_option(value: Any, hint: Any, where: str) -> Any:
    """Convert a value from a file to the option's type; YAML reads 5e-5 as text and lists as lists."""
    kind = typing.get_origin(hint)
    if kind in (typing.Union, types.UnionType):
        wanted = [one for one in typing.get_args(hint) if one is not type(None)]
        if value is None and len(wanted) < len(typing.get_args(hint)):
            return None
        of_its_type = [one for one in wanted if type(value) is one]
        return _as_option(value, (of_its_type or wanted)[0], where)
    if kind is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise InputError(f"{where} is {shown(value)}, not one of {', '.join(map(str, choices))}")
        return value
    if kind is tuple:
        if not isinstance(value, list):
            example = "" if isinstance(value, dict) else f"; write [{value}]"
            raise InputError(f"{where} is {shown(value)}, not a list{example}")
        return tuple(_as_option(one, typing.get_args(hint)[0], where) for one in value)
    if hint is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"{where} is {shown(value)}, not a number") from error
    if type(value) is not hint:
        raise InputError(f"{where} is {shown(value)}, not of type {hint.__name__}")
    return value
