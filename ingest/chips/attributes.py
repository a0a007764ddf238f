"""Attributes of chips: columns of an index beyond those of every index, as `shards.read.selection` reads
them.

A name is one that an expression can use, and none that the index has already; values are text, whole numbers,
numbers or true/false.
"""

import keyword
import unicodedata

import pyarrow as pa
import pyarrow.compute as pc

from ingest.chips.source import PLACE
from shards.format.index import INDEX_SCHEMA

SHIFTS = {"shift_row": "int64", "shift_column": "int64", "shift_score": "float64", "shift_gain": "float64"}
"""Attributes that the registration check gives, with their types; see `ingest.chips.registration.Shift`."""
RESERVED = {*INDEX_SCHEMA.names, *SHIFTS}
"""What no attribute of the user's is called."""


def safe_name(name: str) -> str:
    """`name` as an expression can use it: Python reads identifiers in NFKC."""
    usual = unicodedata.normalize("NFKC", name)
    safe = "".join(letter if f"_{letter}".isidentifier() else "_" for letter in usual)
    is_usable = safe.isidentifier() and not keyword.iskeyword(safe) and not safe.startswith(PLACE)
    return safe if is_usable and safe not in RESERVED else f"table_{safe}"


def as_attribute(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values in a type of `shards.format.index.ATTRIBUTE_TYPES`; NaN becomes null, a time ISO text.

    Raises:
        pa.ArrowException: the values have no such type, or do not fit into it.
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
    """As 2018-07-15T21:30:00, with as few decimals as all of them need; with Z where the zone is known."""
    zone = times.type.tz and "UTC"
    for unit in ("s", "ms", "us", "ns"):
        try:
            text = times.cast(pa.timestamp(unit, zone)).cast(pa.string())
        except pa.ArrowInvalid:  # the unit would lose decimals
            continue
        return pc.replace_substring(text, " ", "T")
    raise pa.ArrowInvalid("its times have no common unit")


def is_number(kind: pa.DataType) -> bool:
    """Whether it is whole or other numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether it is text, of any encoding that Arrow has."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def plain_values(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values themselves, of an extension type or of a dictionary."""
    if isinstance(values.type, pa.BaseExtensionType):
        values = values.cast(values.type.storage_type)
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values
