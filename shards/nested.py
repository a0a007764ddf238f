"""Options in parts: nested frozen dataclasses, whose options have flat names as on the command line.

    @dataclass(frozen=True)
    class Config:
        data: str
        fit: FitOptions = FitOptions()      # a part: a dataclass in which every option has a default

    flat(config)                            # {"data": "chips", "epochs": 30, "seed": 0}
    built(Config, {"data": "chips"})        # an option that is not named has its default
    replaced(config, {"epochs": 9})

Options of all parts have different names, so that each name says which option is meant.
"""

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, reduce
from typing import Any, NamedTuple, TypeVar

Config = TypeVar("Config")


@dataclass(frozen=True)
class Follows:
    """Order mark: in files of options this option, or part, comes right after the option `name`.

    So files keep their order, whatever part an option stands in.
    """

    name: str


class Option(NamedTuple):
    """An option of a configuration."""

    path: tuple[str, ...]
    """Fields that lead to it: its part's, if it stands in one, and its own."""
    kind: Any
    """Type of its values."""
    marks: tuple[Any, ...]
    """Roles (see shards.roles): those of its part, then its own, which count more."""
    default: Any
    """Default value; dataclasses.MISSING if it must be given."""
    follows: str
    """Option that it stands behind; "": the one before it."""


def options_of(config: type) -> Mapping[str, Option]:
    """Return the options of a configuration by name, in the order in which they are written.

    Raises:
        TypeError: two options have the same name.
    """
    return _options_of(config)


@cache
def _options_of(config: type) -> Mapping[str, Option]:
    listed = list(_listed(config))
    found = dict(listed)
    if len(found) < len(listed):
        raise TypeError(f"{config.__name__}: two options have the same name")
    names = list(found)
    for name, option in listed:
        if option.follows in found:
            names.remove(name)
            names.insert(names.index(option.follows) + 1, name)
    return {name: found[name] for name in names}


def _listed(config: type) -> Iterator[tuple[str, Option]]:
    """Yield options with their names, part by part."""
    kinds, hints = typing.get_type_hints(config), typing.get_type_hints(config, include_extras=True)
    for field in fields(config):
        kind, marks = kinds[field.name], getattr(hints[field.name], "__metadata__", ())
        follows = next((mark.name for mark in marks if isinstance(mark, Follows)), "")
        if not is_dataclass(kind):
            yield field.name, Option((field.name,), kind, marks, field.default, follows)
            continue
        for name, option in _listed(typing.cast(type, kind)):
            behind = option.follows or follows
            path, of_both = (field.name, *option.path), (*marks, *option.marks)
            yield name, option._replace(path=path, marks=of_both, follows=behind)
            follows = name if follows else ""


def flat(config: Any) -> dict[str, Any]:
    """Return the values of all options by name, in the order of `options_of`."""
    options = options_of(type(config))
    return {name: reduce(getattr, option.path, config) for name, option in options.items()}


def built(config: type[Config], values: Mapping[str, Any]) -> Config:
    """Make a configuration of values by name; an option that is not named has its default.

    Raises:
        TypeError: an option is unknown, or one without a default is missing.
    """
    if unknown := values.keys() - options_of(config).keys():
        raise TypeError(f"{config.__name__} has no option {', '.join(sorted(unknown))}")
    return _built(config, values)


def draft(config: type[Config], values: Mapping[str, Any]) -> Config:
    """Make a configuration as `built` does, but check no value: others may still replace it."""
    return _built(config, values, checked=False)


def _built(config: type[Config], values: Mapping[str, Any], checked: bool = True) -> Config:
    own, kinds = dict[str, Any](), typing.get_type_hints(config)
    for field in fields(config):  # type: ignore[arg-type]
        if is_dataclass(kinds[field.name]):
            own[field.name] = _built(kinds[field.name], values, checked)
        elif field.name in values:
            own[field.name] = values[field.name]
    if checked:
        return config(**own)
    made = object.__new__(config)
    for field in fields(config):  # type: ignore[arg-type]
        object.__setattr__(made, field.name, own.get(field.name, field.default))
    return made


def replaced(config: Config, values: Mapping[str, Any]) -> Config:
    """Return the same configuration with other values of some options."""
    return built(type(config), flat(config) | dict(values))
