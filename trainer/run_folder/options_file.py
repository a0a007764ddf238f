"""config.yaml in a run's folder: the resolved options, to be fed back with --config. No torch here."""

from typing import Any

from shards.errors import InputError
from shards.storage.yaml_file import read_yaml

CONFIG = "config.yaml"
DAMAGED = "copy it again, or choose another --out"
"""Advice about a file of options that cannot be understood."""


def read_options(url: str) -> dict[str, Any]:
    """Read the options that a command left in the YAML file at `url`.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    try:
        values = read_yaml(url)
    except InputError as error:
        raise InputError(f"{error}; {DAMAGED}") from error
    if not isinstance(values, dict) or not values or not all(isinstance(name, str) for name in values):
        raise InputError(f"{url}: holds no options; {DAMAGED}")
    return values
