"""Parts of the user's own (a loss, a decoder, a source of chips), named by their import path.

    own_path("package.module.function(factor=2):1")      # "package.module.function"
    imported("--loss", "package.module.function")        # the function; only now the module is imported
    recorded(config)                                     # {"package.module.function": "package 1.2"}

A name with a dot is always such a path; names of what is built in have none. Modules are looked for where
Python looks, and then in the working folder.
"""

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from shards.errors import InputError, one_line
from shards.nested import flat
from shards.roles import OWN_PARTS, Imports, In, MayChange, own_path, roles
from shards.said import say


@dataclass(frozen=True, kw_only=True)
class TrustOptions:
    """What may be imported for a checkpoint."""

    trust: Annotated[str, MayChange(), Imports(), In.MODEL.late(1)] = ""
    """Import path of the checkpoint's own decoder, package.module.Class; without it nothing of it is run."""


def imported(option: str, path: str) -> Any:
    """Import what an import path names.

    Args:
        option: flag, and where it helps the value, for the message.
        path: package.module.name.

    Raises:
        InputError: the path is none, the module cannot be imported, or it has no such name.
    """
    if own_path(path) != path:
        raise InputError(f"{option}: {path!r} is no import path; write package.module.name")
    module_name, _, name = path.rpartition(".")
    module = _module(option, module_name)
    if not hasattr(module, name):
        raise InputError(f"{option}: the module {module_name} ({_file(module)}) has no {name}; see its names")
    return getattr(module, name)


@contextmanager
def blaming(what: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what the user's code raises in the block into one line, which begins with `what`.

    Args:
        what: what failed.
        but: kinds of errors that are not its fault, besides InputError.

    Raises:
        InputError: it raised something.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (InputError, *but)):
            raise
        raise InputError(f"{what} ({type(error).__name__}: {one_line(error)[:200]})") from error


def recorded(config: Any) -> dict[str, Any]:
    """Return the record of a configuration's own parts, by the name OWN_PARTS; {} if it has none.

    Raises:
        InputError: a module cannot be imported.
    """
    paths = own_paths(config)
    return {OWN_PARTS: {path: version_of(path) for path in paths}} if paths else {}


def own_paths(config: Any) -> dict[str, str]:
    """Return the import paths that a configuration's options name, with the names of the options."""
    return own_paths_among(type(config), flat(config))


def own_paths_among(options: type, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the import paths that these values of some options name, with the names of the options."""
    named = roles(options, Imports)
    return {path: name for name in named for path in named[name].paths(values.get(name))}


def version_of(path: str) -> str:
    """Return distribution and version of an own part; where there is none, a checksum of its module's file.

    Raises:
        InputError: its module cannot be imported.
    """
    return _version(path.rpartition(".")[0])


def note_changes(before: Mapping[str, Any], now: Mapping[str, Any], whose: str) -> None:
    """Say in one line for each own part that it has another version than when `whose` work was recorded.

    Args:
        before: the record of then, which may have no own parts.
        now: the record of now.
        whose: what was made with the version of then.
    """
    then = before.get(OWN_PARTS) or {}
    for path, version in now.get(OWN_PARTS, {}).items():
        if path in then and then[path] != version:
            _say_once(f"{path} is {version} now; {whose} was made with {then[path]}")


@cache
def _say_once(text: str) -> None:
    """Say it on standard error; a command may look at a checkpoint several times."""
    say(text)


def _module(option: str, name: str) -> ModuleType:
    """Import a module; whatever its code raises is the user's mistake."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise InputError(
            f"{option}: cannot import {name} ({said}); install it, or run the command in the folder where it "
            "lies"
        ) from error


def _file(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or "built in")


@cache
def _version(name: str) -> str:
    """Return the version of a module's distribution, or a checksum of the module."""
    module = _module("own parts", name)
    file = Path(_file(module)).resolve()
    for distribution in metadata.packages_distributions().get(name.partition(".")[0], []):
        if _holds(distribution, file):
            return f"{distribution} {metadata.version(distribution)}"
    if not file.is_file():
        return "no version"
    return f"no version, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"


def _holds(distribution: str, file: Path) -> bool:
    """Tell whether a module's file is one of a distribution, which may be installed where it is developed."""
    found = metadata.distribution(distribution)
    folders = [Path(str(found.locate_file("")))]
    source = json.loads(found.read_text("direct_url.json") or "{}").get("url", "")
    if source.startswith("file://"):
        folders.append(Path(source.removeprefix("file://")))
    return any(file.is_relative_to(folder.resolve()) for folder in folders)
