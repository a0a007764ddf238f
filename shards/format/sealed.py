"""JSON objects that hold their own checksum, so that any changed byte of the file is seen.

    {"format": "...", ..., "xxh3": "0123456789abcdef"}

The checksum is that of the same file without its last entry. Files of before have none.
"""

import json
from typing import Any

from shards.errors import InputError
from shards.storage.checksum import hexadecimal

SEAL = "xxh3"
"""Entry with the checksum."""


def json_bytes(values: dict[str, Any]) -> bytes:
    """Encode `values` as indented JSON with a final newline."""
    return (json.dumps(values, indent=2) + "\n").encode()


def sealed(values: dict[str, Any]) -> bytes:
    """Encode values, which lack the checksum or have an old one, as JSON with their checksum."""
    plain = {name: value for name, value in values.items() if name != SEAL}
    return json_bytes({**plain, SEAL: hexadecimal(json_bytes(plain))})


def unsealed(url: str, data: bytes, values: dict[str, Any], cure: str) -> tuple[dict[str, Any], bool]:
    """Take the checksum off the values of a file.

    Args:
        url: the file, for the message.
        data: its bytes.
        values: what they hold.
        cure: what to do about a damaged file, for the message.

    Returns:
        the other values, and whether there was a checksum.

    Raises:
        InputError: the file is not what was written.
    """
    if SEAL not in values:
        return values, False
    # Byte by byte: a flipped bit can leave the values as they are, as between 1e-05 and 1E-05.
    if sealed(values) != data:
        raise InputError(f"{url}: is not what was written (its checksum differs); {cure}")
    return {name: value for name, value in values.items() if name != SEAL}, True
