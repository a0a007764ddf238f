"""Checks of names that become paths below a folder. They come from files that anybody may have made."""

from pathlib import PurePosixPath

from shards.errors import InputError


def check_name(name: object, allowed: tuple[str, ...] = ()) -> None:
    """Refuse a name that could lead out of the folder it is joined to.

    Readers call this, and writers before they write. A store allows almost any name; the names in a dataset
    have parts divided by `/`, none of which is `..`.

    Args:
        name: name of a file below the folder, or a part of one.
        allowed: the only possible names, if they are known.

    Raises:
        InputError: `name` is not a safe or allowed name.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"{_shown(name)} is no name of a file")
    if allowed and name not in allowed:
        raise InputError(f"{_shown(name)} is none of {', '.join(allowed)}")
    if name.startswith("/") or ".." in PurePosixPath(name).parts or any(mark in name for mark in "\\\0"):
        raise InputError(
            f"the name {_shown(name)} could lead out of its folder; names with .., \\ or NUL, or a / at "
            "their beginning, are not followed"
        )


def check_name_or_empty(name: object) -> None:
    """Refuse what `check_name` refuses, but for "", which means the place itself."""
    if name != "":
        check_name(name)


def _shown(name: object) -> str:
    return repr(name[:100]) if isinstance(name, str) else f"a {type(name).__name__}"
