"""Places that steps read and fill, and which of them may lie within one another."""

from collections.abc import Mapping
from typing import Any

from cluster.steps.chain import result_of
from shards.nested import flat
from shards.roles import MayChange, OptionsFile, Place, roles


def absolute(place: str) -> str:
    """Make a place mean the same in any folder."""
    return str(Place().absolute(place)).rstrip("/")


def is_within(place: str, folder: str) -> bool:
    """Tell whether a place is a folder or lies below it; both are absolute."""
    return bool(folder) and f"{place}/".startswith(f"{folder}/")


def places_to_read(command: str, config: Any) -> Mapping[str, Any]:
    """Return the places that a step reads, by option; not those that it fills itself."""
    kind, result = type(config), result_of(command)
    may_change = roles(kind, MayChange)
    places = {
        name
        for name, role in roles(kind, Place).items()
        if name != "out" and not role.fills and (name not in may_change or may_change[name].adds)
    } | roles(kind, OptionsFile).keys()
    if result.is_in_place:
        places.add(result.option)
    return {name: value for name, value in flat(config).items() if name in places and value}


def places_of(config: Any, option: str, value: Any) -> tuple[str, ...]:
    """Return the places in the value of an option, without names before them."""
    places = tuple(map(str, value)) if isinstance(value, tuple | list) else (str(value),)
    role = roles(type(config), Place).get(option, Place())
    return tuple(place.partition("=")[2] for place in places) if role.after_name else places


def input_within(command: str, config: Any, folder: str) -> str:
    """Return the first place that a step reads within a folder; "" if there is none."""
    reserved = {name: role.reserved for name, role in roles(type(config), Place).items()}
    for option, value in places_to_read(command, config).items():
        for place in places_of(config, option, value):
            if place not in reserved.get(option, ()) and is_within(absolute(place), folder):
                return place
    return ""
