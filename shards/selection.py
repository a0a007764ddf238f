"""Which chips are used, as an expression over the columns of the index. It is parsed, never run.

chosen = matching(table, "source != 'AK_IFSAR' and acquired >= '2018-01-01' and 2 <= height_max < 35")

    source == 'fairbanks_ql1_2017'          == != < <= > >=, also in chains; dates are text: '2018-07-01'
    sensor in ('WV02', 'WV03')              in, not in
    like(source, 'fairbanks*')              shell wildcards
    scene is not None                       is None, is not None
    within(-152, 64, -147, 66)              west, south, east, north in degrees; the centre lies in the box
    within(2e5, 1e6, 4e5, 2e6, 'EPSG:3338') the same in another CRS
    (a or b) and not c

A chip of which something is unknown is never chosen by it: a comparison with what is missing is neither true
nor false, and stays so under `not`, as in SQL.
"""

import ast
import functools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.errors import InputError

_COMPARE = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_DEGREES = "EPSG:4326"


def matching(table: Any, expression: str) -> NDArray[np.bool_]:
    """(rows,) whether `expression` holds for each row of the index `table`.

    Raises:
        InputError: it cannot be understood, names no column, or compares what cannot be compared.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        message = (
            f"selection {expression!r}: cannot be understood{place} (see shards/selection.py for examples)"
        )
        raise InputError(message) from error
    try:
        found = _truth(tree.body, table)
    except (_Unusable, pa.ArrowException, RecursionError) as error:
        raise InputError(f"selection {expression!r}: {' '.join(str(error).split())}") from error
    if isinstance(found, pa.Scalar):
        found = pa.array([found.as_py()] * table.num_rows, pa.bool_())
    chosen: NDArray[np.bool_] = pc.fill_null(found, False).to_numpy(zero_copy_only=False)
    return chosen


class _Unusable(Exception):
    """A part of an expression that means nothing here."""


def _truth(node: ast.expr, table: Any) -> Any:
    """A boolean column (or scalar) with nulls where it is unknown."""
    if isinstance(node, ast.BoolOp):
        combine = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
        return functools.reduce(combine, [_truth(value, table) for value in node.values])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return pc.invert(_truth(node.operand, table))
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        parts = [
            _comparison(left, operator, right, table)
            for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return functools.reduce(pc.and_kleene, parts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id == "like" and len(node.args) == 2:
            return _like(_value(node.args[0], table), node.args[1])
        if node.func.id == "within" and len(node.args) in (4, 5):
            return _within(table, [_constant(argument) for argument in node.args])
    raise _Unusable(
        f"{ast.unparse(node)!r} is no condition; compare columns with values, or use like, within"
    )


def _comparison(left: ast.expr, operator: ast.cmpop, right: ast.expr, table: Any) -> Any:
    value = _value(left, table)
    if isinstance(operator, ast.Is | ast.IsNot):
        if not (isinstance(right, ast.Constant) and right.value is None):
            raise _Unusable("after `is` and `is not` comes None")
        return pc.is_null(value) if isinstance(operator, ast.Is) else pc.is_valid(value)
    if isinstance(operator, ast.In | ast.NotIn):
        if not isinstance(right, ast.Tuple | ast.List | ast.Set):
            raise _Unusable("after `in` comes a list of values in brackets")
        equal = [_compared(pc.equal, value, _constant(item)) for item in right.elts] or [pa.scalar(False)]
        found = functools.reduce(pc.or_kleene, equal)
        return found if isinstance(operator, ast.In) else pc.invert(found)
    return _compared(_COMPARE[type(operator)], value, _value(right, table))


def _compared(compare: Any, left: Any, right: Any) -> Any:
    if _is_text(left) != _is_text(right):
        raise _Unusable(f"{_said(left)} cannot be compared with {_said(right)}")
    return compare(left, right)


def _is_text(value: Any) -> bool:
    return bool(pa.types.is_string(value.type) if hasattr(value, "type") else isinstance(value, str))


def _said(value: Any) -> str:
    if hasattr(value, "type"):
        return "a text column" if _is_text(value) else "a column of numbers"
    return f"the text {value!r}" if isinstance(value, str) else f"the number {value}"


def _value(node: ast.expr, table: Any) -> Any:
    """A column, or a constant."""
    if isinstance(node, ast.Name):
        if node.id not in table.column_names:
            columns = ", ".join(table.column_names)
            raise _Unusable(f"no column is called {node.id}; there are {columns}")
        return table[node.id]
    return _constant(node)


def _constant(node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError) as error:
        raise _Unusable(f"{ast.unparse(node)!r} is neither a column nor a value") from error
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _Unusable(f"{value!r} is neither text nor a number; for what is missing use `is None`")
    return value


def _like(column: Any, pattern: ast.expr) -> Any:
    wanted = _constant(pattern)
    if not hasattr(column, "type") or not _is_text(column) or not isinstance(wanted, str):
        raise _Unusable("like takes a text column and a pattern, as in like(source, 'fairbanks*')")
    return pc.match_substring_regex(column, f"^(?:{_regex(wanted)})$")


def _regex(pattern: str) -> str:
    # Arrow's engine knows neither Python's \Z nor its atomic groups.
    special = {"*": ".*", "?": "."}
    return "".join(special.get(character, _escaped(character)) for character in pattern)


def _escaped(character: str) -> str:
    return character if character.isalnum() or character == "_" else f"\\{character}"


def _within(table: Any, arguments: list[Any]) -> Any:
    """Whether the chips' centres lie in the box; unknown where they have no place."""
    from rasterio.errors import CRSError
    from rasterio.warp import transform

    box, box_crs = arguments[:4], arguments[4] if len(arguments) == 5 else _DEGREES
    if any(isinstance(side, str) for side in box) or not isinstance(box_crs, str):
        raise _Unusable("within takes west, south, east, north and perhaps a CRS, as in 'EPSG:3338'")
    west, south, east, north = map(float, box)
    inside = np.zeros(table.num_rows, bool)
    x, y = (table[name].to_numpy(zero_copy_only=False) for name in ("x", "y"))
    encoded = table["crs"].combine_chunks().dictionary_encode()
    crs_of_row = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    known = (crs_of_row >= 0) & np.isfinite(x) & np.isfinite(y)
    for number, crs in enumerate(encoded.dictionary.to_pylist()):
        rows = np.flatnonzero(known & (crs_of_row == number))
        try:
            found_x, found_y = map(np.asarray, transform(crs, box_crs, x[rows], y[rows]))
        except CRSError as error:
            raise _Unusable(f"{crs} and {box_crs} are not both a CRS ({error})") from error
        # A box of degrees may cross the antimeridian, as the Aleutians do.
        across = west > east
        columns = (found_x >= west) | (found_x <= east) if across else (found_x >= west) & (found_x <= east)
        inside[rows] = columns & (found_y >= south) & (found_y <= north)
    return pa.array(inside, mask=~known)
