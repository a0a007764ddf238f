"""JSON of ours read into dataclasses: each field's annotation says what its value must be.

    @dataclass(frozen=True)
    class Part:
        name: Annotated[str, Checked(check_name)]
        nbytes: Annotated[int, AtLeast(0)]
        note: str = ""                              # a field with a default may be absent

    read_typed("run/state.json", Part)              # InputError: FILE: FIELD is VALUE, not ...

Whole numbers fit into 64 bits and numbers are finite, unless an annotation says otherwise. A whole number
stands for a number as it is: 2 stays 2 and does not become 2.0.

A later version that adds a field gives it a default, so that it reads older files. An older version refuses
files that have the field, by its name, instead of misreading them. What older versions may pass over is an
object with `"must_understand": false` in it, as in Zarr v3.
"""

import math
import re
import reprlib
import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin
from typing import get_type_hints as hints_of

from shards.errors import InputError, one_line
from shards.storage.json_marks import NotFinite
from shards.storage.json_text import COPY_AGAIN, all_finite, parsed, read_json_bytes

Kind = TypeVar("Kind")

_MOST = 2**63 - 1
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxother, _SHOWN.maxlong = 2, 60, 60, 40
_SHOWN.maxdict = _SHOWN.maxlist = 3


class _WrongError(Exception):
    """A value that is not what its annotation says; places are added on the way out."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.places: list[str] = []

    def within(self, place: str) -> "_WrongError":
        self.places.append(place)
        return self


class _Reader(NamedTuple):
    """How values of one type are read."""

    words: str
    """What is wanted, e.g. "a whole number"."""
    read: Callable[[Any], Any]


def read_typed(url: str, kind: type[Kind], cure: str = COPY_AGAIN, strict: bool = True) -> Kind:
    """Read the JSON file at `url` into `kind`; see `typed`."""
    return typed(parsed(read_json_bytes(url), url, cure), kind, url, cure, strict)


def typed(values: Any, kind: type[Kind], where: str, cure: str = COPY_AGAIN, strict: bool = True) -> Kind:
    """Make a `kind` of plain JSON values.

    Args:
        values: what `json_text.parsed` returned.
        kind: a dataclass, or any type that fields may have.
        where: file, for messages.
        cure: what to do, for messages.
        strict: whether names that the dataclasses do not have are refused; otherwise they are passed over.

    Raises:
        InputError: in one line, which value is not what it must be.
    """
    try:
        made: Kind = _reader(cast(Hashable, kind), strict).read(values)
        return made
    except _WrongError as error:
        place = "".join(reversed(error.places)).removeprefix(".")
        text = str(error)
        if text.startswith(": "):  # of the whole object
            text = f"{place}{text}" if place else text.removeprefix(": ")
        else:
            text = f"{place or 'it'} {text}"
        raise InputError(f"{where}: {text}; {cure}") from error


def shown(value: Any) -> str:
    """Write a value of a file as messages show it: cut, on one line, control characters escaped."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _SHOWN.repr(value)


def _wrong(value: Any, words: str) -> _WrongError:
    return _WrongError(f"is {shown(value)}, not {words}")


@cache
def _reader(kind: Any, strict: bool) -> _Reader:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _marked(arguments[0], arguments[1:], strict)
    if is_dataclass(kind):
        return _Reader("an object", _of_dataclass(kind, strict))
    if origin is Literal:
        return _literal(arguments)
    if origin in (Union, types.UnionType):
        return _union([_reader(one, strict) for one in arguments])
    if kind in _PLAIN:
        return _PLAIN[kind]
    if origin is tuple and arguments[-1] is not ...:
        return _Reader(f"a list of {len(arguments)}", _of_tuple([_reader(one, strict) for one in arguments]))
    if origin in (list, tuple, Sequence):
        return _Reader("a list", _of_list(_reader(arguments[0], strict), list if origin is list else tuple))
    if origin in (dict, Mapping) and arguments[0] is str:
        return _Reader("an object", _of_dict(_reader(arguments[1], strict)))
    raise TypeError(f"{kind}: no type of a field that JSON is read into")


def _marked(kind: Any, marks: tuple[Any, ...], strict: bool) -> _Reader:
    demands = [mark for mark in marks if hasattr(mark, "accepts")]
    plain = _reader(kind, strict)
    if any(isinstance(mark, NotFinite) for mark in demands):
        plain = {float: _Reader(plain.words, _number), Any: _Reader(plain.words, lambda value: value)}[kind]
    words = " ".join([plain.words, *(mark.words for mark in demands if mark.words)])

    def read(value: Any) -> Any:
        made = plain.read(value) if demands else None
        try:
            if all(mark.accepts(made) for mark in demands):
                return made
        except InputError as error:
            raise _WrongError(f"is {shown(value)}: {error}") from error
        raise _wrong(value, words)

    return _Reader(words, read) if demands else plain


def _whole(value: Any) -> Any:
    if type(value) is int and -_MOST <= value <= _MOST:
        return value
    raise _wrong(value, "a whole number" if type(value) is not int else "a whole number of 64 bits")


def _number(value: Any) -> Any:
    if type(value) is float or (type(value) is int and -_MOST <= value <= _MOST):
        return value
    raise _wrong(value, "a number")


def _finite(value: Any) -> Any:
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is float:
        raise _wrong(value, "a finite number")
    return _number(value)


def _text(value: Any) -> Any:
    if type(value) is not str:
        raise _wrong(value, "a text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:  # half of a pair, "\ud800", which no file can hold
            raise _wrong(value, "a text of whole characters") from error
    return value


def _truth(value: Any) -> Any:
    if type(value) is not bool:
        raise _wrong(value, "true or false")
    return value


def _null(value: Any) -> Any:
    if value is not None:
        raise _wrong(value, "null")
    return value


def _anything(value: Any) -> Any:
    if not all_finite(value):
        raise _wrong(value, "made of finite numbers alone")
    return value


def _object(value: Any) -> Any:
    if type(value) is not dict:
        raise _wrong(value, "an object")
    return value


_PLAIN: dict[Any, _Reader] = {
    Any: _Reader("anything", _anything),
    int: _Reader("a whole number", _whole),
    float: _Reader("a number", _finite),
    str: _Reader("a text", _text),
    bool: _Reader("true or false", _truth),
    type(None): _Reader("null", _null),
    None: _Reader("null", _null),
}


def _literal(allowed: tuple[Any, ...]) -> _Reader:
    words = "one of " + ", ".join(map(shown, allowed)) if len(allowed) > 1 else shown(allowed[0])

    def read(value: Any) -> Any:
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise _wrong(value, words)
        return value

    return _Reader(words, read)


def _union(readers: Sequence[_Reader]) -> _Reader:
    words = " or ".join(reader.words for reader in readers)

    def read(value: Any) -> Any:
        for reader in readers:
            try:
                return reader.read(value)
            except _WrongError as error:
                if error.places:  # its type is this one; what is inside is wrong
                    raise
        raise _wrong(value, words)

    return _Reader(words, read)


def _of_list(item: _Reader, kind: Callable[[list[Any]], Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not list:
            raise _wrong(value, "a list")
        made: list[Any] = []
        try:
            made.extend(map(item.read, value))
        except _WrongError as error:
            raise error.within(f"[{len(made)}]") from error
        return kind(made)

    return read


def _of_tuple(items: Sequence[_Reader]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not list or len(value) != len(items):
            raise _wrong(value, f"a list of {len(items)}")
        made: list[Any] = []
        for item, one in zip(items, value, strict=True):
            try:
                made.append(item.read(one))
            except _WrongError as error:
                raise error.within(f"[{len(made)}]") from error
        return tuple(made)

    return read


def _of_dict(item: _Reader) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        made: dict[str, Any] = {}
        for name, one in _object(value).items():
            try:
                made[_text(name)] = item.read(one)
            except _WrongError as error:
                raise error.within(f"[{shown(name)}]") from error
        return made

    return read


def _of_dataclass(kind: Any, strict: bool) -> Callable[[Any], Any]:
    hints = hints_of(kind, include_extras=True)
    own = [field for field in fields(kind) if field.init]
    readers = {field.name: _reader(hints[field.name], strict) for field in own}
    needed = [f.name for f in own if f.default is MISSING and f.default_factory is MISSING]

    def read(value: Any) -> Any:
        made: dict[str, Any] = {}
        for name, one in _object(value).items():
            if name not in readers:
                if strict and not (isinstance(one, dict) and one.get("must_understand") is False):
                    unknown = _WrongError("is unknown here; a later version of Treeline may know it")
                    raise unknown.within(f".{_name(name)}")
                continue
            try:
                made[name] = readers[name].read(one)
            except _WrongError as error:
                raise error.within(f".{name}") from error
        for name in needed:
            if name not in made:
                raise _WrongError("is missing").within(f".{name}")
        try:
            return kind(**made)
        except InputError as error:
            raise _WrongError(f": {error}") from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise _WrongError(f": {one_line(error)[:200]}") from error

    return read


def _name(name: str) -> str:
    """Write an unknown name as part of a place."""
    return name if re.fullmatch(r"\w{1,60}", name, re.ASCII) else shown(name)
