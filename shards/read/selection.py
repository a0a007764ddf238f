"""Selection of chips by one expression over the index's columns. A table in, a bool array out.

    chosen = matching(table, "source != 'AK_IFSAR' and acquired >= '2018-01-01' and 2 <= height_max < 35")

- columns by name, 'text', numbers, True, False; == != < <= > >=, also chained; in (...), not in (...)
- `land cover` in backquotes: a column whose name has spaces, dashes, dots or a digit in front, or is a word
  used here, such as `in`; a backquote in a name is doubled. Other words, also Python's, need none: class == 2
- is None, is not None; and, or, not; parentheses
- like(column, 'fairbanks*'): shell wildcards * ? [a-z] [!a-z], upper and lower case differ
- within(west, south, east, north): the chip's centre lies in a box of degrees; west > east crosses the
  antimeridian. within(west, south, east, north, 'EPSG:3338'): in the units of a CRS. Edges are inside.

Dates are ISO text and compare as text. A missing value (null or NaN) makes everything but `is None` unknown,
and unknown chips are not used. `not` of unknown is unknown, as in SQL: chips without a sensor match neither
"sensor == 'A'" nor "not sensor == 'A'". The expression is parsed, never run.
"""

import ast
import keyword
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.errors import InputError

_COMPARE: dict[type[ast.cmpop], Callable[..., Any]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_KINDS = {str: "text", int: "number", float: "number", bool: "true/false", type(None): "None"}
_UNKNOWN = pa.scalar(None, pa.bool_())
_WILDCARD = re.compile(r"\[(!?)(\]?[^]]*)\]|.", re.DOTALL)
_WORDS = frozenset({"and", "or", "not", "in", "is", "None", "True", "False"})
"""Python's words that mean here what they mean there; all others are names."""
_TOKEN = re.compile(
    r"""
    '{3}(?:\\.|.)*?'{3} | "{3}(?:\\.|.)*?"{3} | '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*"  # text
    | \#.*
    | `(?P<quoted>(?:[^`]|``)+)`
    | (?P<word>\w+)
    """,
    re.DOTALL | re.VERBOSE,
)
_LETTERS = ("", "_", "é", "一", "𠀀")
"""Letters of names by their number of bytes in UTF-8."""

Box = tuple[float, float, float, float]
"""Edges of a box: west, south, east, north."""


def matching(table: pa.Table, expression: str) -> NDArray[np.bool_]:
    """Tell for each row of `table` whether the expression is true: (rows,).

    Args:
        table: index.parquet, or the columns of it that the expression names; within needs x, y and crs.
        expression: see above.

    Raises:
        InputError: the expression cannot be parsed, names an unknown column, function or CRS, or compares
            text with numbers.
    """
    text = _in_one_line(expression)
    where = f"selection {text!r}"
    try:
        parsed, names = _parsed(text)
        if b"#" in text.encode()[parsed.end_col_offset :]:
            raise InputError(f"{where}: has a comment, which would hide what follows; leave it out")
        condition = _Reading(table, text, names).condition(parsed)
    except SyntaxError as error:
        at = error.offset or len(text)  # 0 or None: the text ended too early
        raise InputError(
            f"{where}: cannot be read at character {at}: {error.msg}; correct it there (a column's name with "
            "spaces or signs needs `backquotes`)"
        ) from error
    except (ValueError, OverflowError) as error:  # Arrow's: a range of wildcards, a number of over 64 bits
        raise InputError(f"{where}: {str(error).splitlines()[0]}; change the constant") from error
    except (RecursionError, MemoryError) as error:
        raise InputError(f"{where}: is nested too deeply; use in (...) or fewer parentheses") from error
    return np.asarray(pc.fill_null(condition, False), np.bool_)


def columns_named(expression: str, columns: list[str]) -> list[str]:
    """Return the `columns` that `matching` needs; for a wrong expression all, for its error message."""
    try:
        tree, quoted = _parsed(_in_one_line(expression))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return columns
    nodes = list(ast.walk(tree))
    called = {node.func for node in nodes if isinstance(node, ast.Call)}
    names = {
        quoted.get(node.col_offset, node.id)
        for node in nodes
        if isinstance(node, ast.Name) and node not in called
    }
    if any(isinstance(node, ast.Name) and node.id == "within" for node in called):
        names |= {"x", "y", "crs"}
    needed = [column for column in columns if column in names]
    return needed if needed and names <= set(columns) else columns


def _in_one_line(expression: str) -> str:
    """Join the lines of an expression, which may be wrapped: an error about it has one line."""
    return " ".join(expression.splitlines()).strip()


def _parsed(text: str) -> tuple[ast.expr, dict[int, str]]:
    """Parse an expression; also return names that Python would not take, by the byte at which each begins.

    In the tree, each of these is a name of as many letters and bytes, so that places are those of the text.

    Raises:
        SyntaxError: the expression cannot be parsed.
    """
    names: dict[int, str] = {}

    def as_python(token: re.Match[str]) -> str:
        word, quoted = token["word"] or "", token["quoted"]
        if quoted is None and (not keyword.iskeyword(word) or word in _WORDS):
            return token[0]
        name = word if quoted is None else quoted.replace("``", "`")
        names[len(text[: token.start()].encode())] = unicodedata.normalize("NFKC", name)
        return "".join(_LETTERS[len(letter.encode())] for letter in token[0])

    return ast.parse(_TOKEN.sub(as_python, text), mode="eval").body, names


@dataclass(frozen=True)
class _Operand:
    """A column (rows,), or a constant."""

    kind: str
    value: Any
    is_column: bool = False


@dataclass(frozen=True)
class _Reading:
    """Turns the parts of an expression into columns of true, false and null (unknown)."""

    table: pa.Table
    text: str
    names: dict[int, str]
    """Names of columns that the tree does not have, by their places; see `_parsed`."""

    def mistake(self, node: ast.AST, why: str) -> InputError:
        return InputError(f"selection {self.text!r}: {ast.get_source_segment(self.text, node)}: {why}")

    def condition(self, node: ast.expr) -> Any:
        match node:
            case ast.BoolOp(op=op, values=parts):
                join = pc.and_kleene if isinstance(op, ast.And) else pc.or_kleene
                return reduce(join, map(self.condition, parts))
            case ast.UnaryOp(op=ast.Not(), operand=part):
                return pc.invert(self.condition(part))
            case ast.Compare(left=left, ops=ops, comparators=others):
                pairs = zip(ops, pairwise([left, *others]), strict=True)
                return reduce(pc.and_kleene, [self.comparison(node, op, *pair) for op, pair in pairs])
            case ast.Call(func=ast.Name(id="like"), args=arguments, keywords=[]):
                return self.like(node, [self.operand(part) for part in arguments])
            case ast.Call(func=ast.Name(id="within"), args=arguments, keywords=[]):
                return self.within(node, [self.operand(part) for part in arguments])
            case ast.Name() | ast.Constant():
                side = self.operand(node)
                if side.is_column and side.kind == "true/false":
                    return side.value
                raise self.mistake(node, f"is {side.kind} and no condition; compare a column with something")
        raise self.mistake(node, "not understood; use comparisons, in, is None, and, or, not, like, within")

    def operand(self, node: ast.expr) -> _Operand:
        match node:
            case ast.Name(id=name, col_offset=place):
                return self.column(node, self.names.get(place, name))
            case ast.Constant(value=value) if type(value) in _KINDS:
                return _Operand(_KINDS[type(value)], value)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return _Operand("number", -value)
        raise self.mistake(node, "is neither a column nor a constant; quote text, and do not calculate")

    def column(self, node: ast.AST, name: str) -> _Operand:
        if name not in self.table.column_names:
            there = ", ".join(self.table.column_names)
            raise self.mistake(node, f"no column {name}; the columns are {there}; put text in quotes")
        values = self.table[name]
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        stored = values.type
        if pa.types.is_floating(stored):
            # Adding 0.0 turns -0.0 into 0.0, which `in` would tell apart.
            null, zero = pa.scalar(None, stored), pa.scalar(0.0, stored)
            return _Operand("number", pc.if_else(pc.is_nan(values), null, pc.add(values, zero)), True)
        if pa.types.is_string(stored) or pa.types.is_large_string(stored):
            return _Operand("text", values, True)
        kinds = {pa.types.is_integer(stored): "number", pa.types.is_boolean(stored): "true/false"}
        return _Operand(kinds.get(True, str(stored)), values, True)

    def comparison(self, node: ast.Compare, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Any:
        one = self.operand(left)
        if isinstance(op, ast.In | ast.NotIn):
            found = self.one_of(node, one, right)
            return pc.invert(found) if isinstance(op, ast.NotIn) else found
        other = self.operand(right)
        if isinstance(op, ast.Is | ast.IsNot):
            if not one.is_column or other.kind != "None":
                raise self.mistake(node, "`is` compares a column with None; use == or != for all else")
            return pc.is_null(one.value) if isinstance(op, ast.Is) else pc.is_valid(one.value)
        self.check_kinds(node, one, other)
        first, second = one.value, other.value
        if not other.is_column:
            first, (second,) = _as_stored(first, [second])
        elif not one.is_column:
            second, (first,) = _as_stored(second, [first])
        return _COMPARE[type(op)](first, second)

    def one_of(self, node: ast.Compare, column: _Operand, right: ast.expr) -> Any:
        if not isinstance(right, ast.Tuple | ast.List | ast.Set):
            raise self.mistake(right, "`in` needs constants in parentheses; write a single one as ('a',)")
        sides = [self.operand(part) for part in right.elts]
        if not column.is_column or any(side.is_column for side in sides):
            raise self.mistake(node, "`in` needs a column before it and constants after it")
        for side in sides:
            self.check_kinds(node, column, side)
        stored, constants = _as_stored(column.value, [side.value for side in sides])
        return pc.if_else(pc.is_null(stored), _UNKNOWN, pc.is_in(stored, value_set=constants))

    def check_kinds(self, node: ast.AST, one: _Operand, other: _Operand) -> None:
        if "None" in (one.kind, other.kind):
            raise self.mistake(node, "nothing equals None; use is None or is not None")
        if not (one.is_column or other.is_column):
            raise self.mistake(node, "compares constants; name a column")
        if one.kind != other.kind or one.kind not in _KINDS.values():
            raise self.mistake(node, f"compares {one.kind} with {other.kind}; only text has quotes")

    def like(self, node: ast.AST, sides: list[_Operand]) -> Any:
        if [(side.kind, side.is_column) for side in sides] != [("text", True), ("text", False)]:
            raise self.mistake(node, "write like(column, 'begins*'), with a column of text")
        return pc.match_substring_regex(sides[0].value, _regex(sides[1].value))

    def within(self, node: ast.AST, sides: list[_Operand]) -> Any:
        kinds = ["number"] * 4 + ["text"] * (len(sides) == 5)
        if [(side.kind, side.is_column) for side in sides] != [(kind, False) for kind in kinds]:
            raise self.mistake(node, "write within(west, south, east, north), or (..., 'EPSG:3338')")
        from shards.raster.grid import WGS84

        x, y, crs = (self.column(node, name).value for name in ("x", "y", "crs"))
        west, south, east, north, box_crs = [*(side.value for side in sides), WGS84][:5]
        try:
            return _inside(x, y, crs, (west, south, east, north), box_crs)
        except ValueError as error:
            raise self.mistake(node, str(error)) from error


def _as_stored(column: Any, values: list[Any]) -> tuple[Any, Any]:
    """Bring a column and constants to one type, so that 2.3 equals a stored 2.3, for example in 32 bits."""
    stored = column.type
    if pa.types.is_integer(stored):
        stored = pa.float64() if float in map(type, values) else pa.int64()
    if pa.types.is_floating(stored):
        values = [float(value) + 0.0 for value in values]
    return column.cast(stored), pa.array(values, stored)


def _regex(wildcards: str) -> str:
    """Translate wildcards to RE2: `fnmatch.translate` uses groups that RE2 lacks."""

    def spelled(part: re.Match[str]) -> str:
        if part[2] is None:
            return {"*": ".*", "?": "."}.get(part[0], re.escape(part[0]))
        listed = re.sub(r"([][^\\])", r"\\\1", part[2])
        return f"[^{listed}]" if part[1] else f"[{listed}]"

    return rf"(?s)\A{_WILDCARD.sub(spelled, wildcards)}\z"


def _inside(x: Any, y: Any, crs: Any, box: Box, box_crs: str) -> Any:
    """Tell for each row whether (x, y), in its CRS, lies in the box; null if a value is missing.

    Raises:
        ValueError: there is no such box or CRS.
    """
    import rasterio
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    from shards.raster.grid import in_crs

    west, south, east, north = box
    known = np.asarray(pc.and_(pc.and_(pc.is_valid(x), pc.is_valid(y)), pc.is_valid(crs)), np.bool_)
    names = pc.unique(crs).drop_null()
    name_of_chip = np.asarray(pc.fill_null(pc.index_in(crs, value_set=names), -1))
    x_of_chip, y_of_chip = np.asarray(x), np.asarray(y)
    inside = np.zeros(known.size, np.bool_)
    name = box_crs
    try:
        with rasterio.Env():  # GDAL's complaints go to the log, not to the terminal
            target = CRS.from_user_input(name)
            degrees = target.is_geographic
            if south > north or (west > east and not degrees):
                raise ValueError("the box is empty; the order is west, south, east, north")
            if degrees and max(abs(west), abs(east), 2 * abs(south), 2 * abs(north)) > 180:
                raise ValueError("these are not degrees; name the CRS after north")
            for number, name in enumerate(names.to_pylist()):
                chips = np.flatnonzero(known & (name_of_chip == number))
                if not chips.size:
                    continue
                to_x, to_y = in_crs(
                    np.stack([x_of_chip[chips], y_of_chip[chips]]), CRS.from_user_input(name), target
                )
                with np.errstate(invalid="ignore"):  # NaN: no place in the target CRS, so not inside
                    # Eastwards from the western edge: right on both sides of the antimeridian.
                    across = (to_x - west) % 360 <= (east - west) + 360 * (west > east)
                    between = across if degrees else (west <= to_x) & (to_x <= east)
                inside[chips] = between & (south <= to_y) & (to_y <= north)
    except CRSError as error:
        raise ValueError(f"{name!r} is no known CRS ({error}); name one like 'EPSG:3338'") from error
    return pa.array(inside, mask=~known)
