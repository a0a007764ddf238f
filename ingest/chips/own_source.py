"""A source of the user's own, by the import path of its class, which follows `ingest.chips.source.Source`.

Before anything is written, its class, schema and candidates are checked, and its first chip is read. What its
code raises until then is the user's mistake.
"""

import inspect
import typing
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ingest.chips.check import WRONG_DTYPE, WRONG_SHAPE, Rejected, Rules, checked
from ingest.chips.source import Candidates, CommandSource, Raw, Source
from ingest.config import SourceConfig
from shards.errors import DatasetError, InputError
from shards.format.schema import Schema
from shards.own_parts import blaming, imported

METHODS = ("candidates", "read")
"""Methods that a class needs to be a Source."""
YES_OR_NO = {"yes": True, "true": True, "no": False, "false": False}


@dataclass(frozen=True)
class OwnSource(CommandSource):
    """The chips of a source of the user's own. It travels to workers as its options alone."""

    config: SourceConfig

    @property
    def schema(self) -> Schema:
        """Schema of every chip."""
        with self._blaming("schema raised"):
            schema: Any = self._own.schema
        if not isinstance(schema, Schema):
            raise self._wrong(f"has a schema of type {type(schema).__name__}, not shards.Schema")
        return schema

    def candidates(self) -> Candidates:
        """List the chips, and read the first one."""
        with self._blaming("candidates() raised"):
            found: Any = self._own.candidates()
        if not isinstance(found, Candidates):
            raise self._wrong(
                f"returns a {type(found).__name__} from candidates(), not ingest.chips.source.Candidates"
            )
        self._check_table(found.table)
        with self._blaming("read() raised on the first chip"):
            first = list(self.read(found.table.slice(0, 1)))
        self._check_first(first)
        return found

    def read(self, table: pa.Table) -> Iterator[Raw | Rejected]:
        """Read chips, one for each row of `table`."""
        for raw in self._own.read(table):
            if not isinstance(raw, Raw | Rejected):
                raise self._wrong(
                    f"yields a {type(raw).__name__} from read(), not ingest.chips.source.Raw or Rejected"
                )
            yield raw

    @property
    def _own(self) -> Source:
        return _made(self.config.source, self.config.option)

    def _check_table(self, table: Any) -> None:
        """Refuse a table without distinct keys."""
        if not isinstance(table, pa.Table) or "key" not in table.column_names:
            raise self._wrong('lists candidates without a table that has a column "key"')
        keys = table["key"]
        if not pa.types.is_string(keys.type) or keys.null_count:
            raise self._wrong(f'lists candidates whose column "key" is {keys.type}, not a text for each')
        if not table.num_rows:
            raise self._wrong("lists no candidate; see its options (--option)")
        if pc.count_distinct(keys).as_py() < table.num_rows:
            raise self._wrong("lists two candidates of one key; give each its own")

    def _check_first(self, found: list[Raw | Rejected]) -> None:
        """Refuse a source whose first chip is not as its schema says."""
        if len(found) != 1:
            raise self._wrong(f"yields {len(found)} chips from read() for one row; yield one for each")
        (raw,) = found
        if isinstance(raw, Rejected):
            return
        with self._blaming("gives a first chip that is no arrays"):
            try:
                checked(raw.image, raw.height, self.schema, Rules(0.0, None))
            except Rejected as rejected:
                if rejected.reason in (WRONG_DTYPE, WRONG_SHAPE):
                    raise self._wrong(f"gives a first chip of {rejected}") from rejected

    def _blaming(self, doing: str) -> AbstractContextManager[None]:
        return blaming(f"{self.config.source}: {doing}", but=(OSError, DatasetError))

    def _wrong(self, what: str) -> InputError:
        return InputError(f"{self.config.source}: {what}")


@cache
def _made(path: str, options: tuple[str, ...]) -> Source:
    """Make the user's source.

    Raises:
        InputError: its class cannot be imported, is no source, or does not take these options.
    """
    kind = imported("ingest source", path)
    if not isinstance(kind, type):
        raise InputError(f"{path}: is no class; name a class that follows ingest.chips.source.Source")
    if lacks := [name for name in METHODS if not hasattr(kind, name)]:
        raise InputError(f"{path}: is a class without {', '.join(lacks)}; see ingest/chips/source.py")
    arguments = _arguments(path, kind, options)
    with blaming(f"{path}: cannot be made with {' '.join(options) or 'no --option'}"):
        source: Source = kind(**arguments)
    return source


def _arguments(path: str, kind: type, options: tuple[str, ...]) -> dict[str, Any]:
    """Convert options KEY=VALUE to the types of the class's arguments, or of their defaults.

    Raises:
        InputError: an option is none of its arguments or cannot be read, or one is missing.
    """
    with blaming(f"{path}: has no signature that can be read"):
        known = inspect.signature(kind, eval_str=True).parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in known.values())
    named = {
        name: one for name, one in known.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }
    found = dict[str, Any]()
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise InputError(f"--option {option}: write KEY=VALUE")
        if key in found:
            raise InputError(f"--option {option}: {key} is given twice; give it once")
        if key not in named and not takes_any:
            choices = f"choose one of {', '.join(named)}" if named else "it has none"
            raise InputError(f"--option {option}: {path} has no argument {key}; {choices}")
        found[key] = _typed(option, text, named[key]) if key in named else text
    missing = [name for name, one in named.items() if one.default is one.empty and name not in found]
    if missing:
        raise InputError(f"{path}: needs --option {missing[0]}=VALUE")
    return found


def _typed(option: str, text: str, argument: inspect.Parameter) -> Any:
    """Read a value as the type that its argument has."""
    kind = type(argument.default) if argument.annotation is argument.empty else argument.annotation
    kinds = typing.get_args(kind) or (kind,)
    if bool in kinds:
        if text.lower() not in YES_OR_NO:
            raise InputError(f"--option {option}: give yes or no")
        return YES_OR_NO[text.lower()]
    for number in (int, float):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                continue
    if {int, float} & set(kinds) and str not in kinds:
        raise InputError(
            f"--option {option}: {text!r} is no {'number' if float in kinds else 'whole number'}"
        )
    return text
