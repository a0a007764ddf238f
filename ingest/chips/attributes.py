"""Attributes of chips: further columns of an index, which `shards.read.selection` can use in expressions.

A name must be usable in an expression and not taken by another column of the index. Values are text, whole
numbers, numbers or true/false.
"""

import keyword
import unicodedata

import pyarrow as pa
import pyarrow.compute as pc

from ingest.chips.source import PLACE
from shards.format.index import INDEX_SCHEMA

SHIFTS = {"shift_row": "int64", "shift_column": "int64", "shift_score": "float64", "shift_gain": "float64"}
"""Types of the attributes that --registration adds, by name; see `ingest.chips.registration.Shift`."""
RESERVED = {*INDEX_SCHEMA.names, *SHIFTS}
"""Names that no attribute of the user's may have."""


def safe_name(name: str) -> str:
    """Turn `name` into one that an expression can use: Python reads identifiers in NFKC."""
    usual = unicodedata.normalize("NFKC", name)
    safe = "".join(letter if f"_{letter}".isidentifier() else "_" for letter in usual)
    is_usable = safe.isidentifier() and not keyword.iskeyword(safe) and not safe.startswith(PLACE)
    return safe if is_usable and safe not in RESERVED else f"table_{safe}"


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
