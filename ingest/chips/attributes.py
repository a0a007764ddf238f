"""Attributes of chips: further columns of an index, which `shards.read.selection` can use in expressions.

A name is taken as it is, unless another column of the index has it. Values are text, whole numbers, numbers
or true/false.
"""

import keyword
import re
import unicodedata
from collections import Counter
from collections.abc import Container

import pyarrow as pa
import pyarrow.compute as pc

from ingest.chips.source import PLACE
from shards.format.index import INDEX_SCHEMA

SHIFTS = {"shift_row": "int64", "shift_column": "int64", "shift_score": "float64", "shift_gain": "float64"}
"""Types of the attributes that --registration adds, by name; see `ingest.chips.registration.Shift`."""
RESERVED = {*INDEX_SCHEMA.names, *SHIFTS}
"""Names that no attribute of the user's may have."""


_LINE_BREAK = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
"""Characters at which `str.splitlines` breaks lines; an expression has one line."""


def usual_name(name: str) -> str:
    """Write a name in one line and in NFKC, as Python reads names."""
    return _LINE_BREAK.sub(" ", unicodedata.normalize("NFKC", name))


def is_reserved(name: str) -> bool:
    """Tell whether no attribute may have this name, which is as `usual_name` writes it."""
    return not name or name in RESERVED or name.startswith(PLACE)


def attribute_name(name: str) -> str:
    """Name the attribute of a column: as the column, unless that name is reserved."""
    usual = usual_name(name)
    return f"table_{usual}" if is_reserved(usual) else usual


def former_name(name: str) -> str:
    """Name an attribute as was done before expressions had backquotes: by letters, digits and _ alone."""
    usual = unicodedata.normalize("NFKC", name)
    safe = "".join(letter if f"_{letter}".isidentifier() else "_" for letter in usual)
    is_usable = safe.isidentifier() and not keyword.iskeyword(safe) and not safe.startswith(PLACE)
    return safe if is_usable and safe not in RESERVED else f"table_{safe}"


def with_known_names(table: pa.Table, known: Container[str] | None) -> pa.Table:
    """Rename the attributes that a dataset, or a begun ingest, has under their former names.

    So chips are added to the columns that are there, and what began before is completed as it began.

    Args:
        table: candidates; see `ingest.chips.source.Candidates`.
        known: names that are there; None: all attributes have their former names.
    """
    names = table.column_names
    own = {name for name in names if name not in RESERVED and not name.startswith(PLACE)}
    former = {name: former_name(name) for name in own}
    times = Counter(former.values())

    def name_of(name: str) -> str:
        then = former.get(name, name)
        if times[then] > 1:  # only one of them could have it
            return name
        return then if known is None or (then in known and name not in known) else name

    return table.rename_columns([name_of(name) for name in names])


def as_attribute(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert values to a type of `shards.format.index.ATTRIBUTE_TYPES`; NaN becomes null, a time ISO text.

    Raises:
        pa.ArrowException: no such type can hold the values.
    """
    kind, types = values.type, pa.types
    if types.is_boolean(kind):
        return values
    if types.is_integer(kind):
        return values.cast(pa.int64())
    if is_number(kind):
        numbers = values.cast(pa.float64())
        return pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    if types.is_timestamp(kind):
        return _as_iso(values)
    if is_text(kind) or types.is_date(kind) or types.is_time(kind) or types.is_null(kind):
        return values.cast(pa.string())
    raise pa.ArrowTypeError(f"it has {kind}")


def _as_iso(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Format times like 2018-07-15T21:30:00, with the fewest decimals that suit all; Z in a known zone."""
    zone = times.type.tz and "UTC"
    for unit in ("s", "ms", "us", "ns"):
        try:
            text = times.cast(pa.timestamp(unit, zone)).cast(pa.string())
        except pa.ArrowInvalid:  # the unit would lose decimals
            continue
        return pc.replace_substring(text, " ", "T")
    raise pa.ArrowInvalid("its times have no common unit")


def is_number(kind: pa.DataType) -> bool:
    """Tell whether values of this type are numbers, whole or not."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_text(kind: pa.DataType) -> bool:
    """Tell whether values of this type are text, in any of Arrow's encodings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def plain_values(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Unwrap the values of an extension type or of a dictionary."""
    if isinstance(values.type, pa.BaseExtensionType):
        values = values.cast(values.type.storage_type)
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values
