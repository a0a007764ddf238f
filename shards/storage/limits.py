"""Limits on what files of strangers may take, each with the environment variable that raises it.

JSON_BYTES.check("chips/dataset.json", size)    # InputError, before memory is taken
"""

import os
from dataclasses import dataclass

from shards.errors import InputError


@dataclass(frozen=True)
class Limit:
    """One limit: what it counts, how much is allowed, and how to allow more."""

    variable: str
    """Environment variable that sets another limit."""
    default: int
    """Limit without that variable."""
    what: str
    """Words for what is counted, as in "5 {what}"."""

    @property
    def most(self) -> int:
        """Return the limit in force.

        Raises:
            InputError: the variable is no whole number above 0.
        """
        text = os.environ.get(self.variable, "")
        if not text:
            return self.default
        if not (text.isascii() and text.isdigit() and 0 < len(text) < 19 and int(text)):
            raise InputError(
                f"{self.variable} is {text[:40]!r}, not a whole number above 0; mend or unset it"
            )
        return int(text)

    def check(self, where: str, count: int) -> None:
        """Refuse more than the limit.

        Args:
            where: file or place, for the message.
            count: how much of `what` there is.

        Raises:
            InputError: there is more.
        """
        if count > self.most:
            raise InputError(
                f"{where}: {count:,} {self.what} are more than {self.most:,}; "
                f"to read it all the same, set {self.variable} to that many"
            )


JSON_BYTES = Limit("TREELINE_MAX_JSON_BYTES", 16 << 20, "bytes of JSON")
"""16 MiB: the manifest of some 50,000 shards."""
JSON_VALUES = Limit("TREELINE_MAX_JSON_VALUES", 1_000_000, "values in JSON")
"""A value of two bytes may take a hundred in memory."""
CHIPS = Limit("TREELINE_MAX_CHIPS", 10_000_000, "chips")
"""Chips of a dataset, or candidates of an ingest; each takes up to some hundred bytes before any is read."""
CHIP_BYTES = Limit("TREELINE_MAX_CHIP_BYTES", 256 << 20, "bytes in a chip")
SHARD_BYTES = Limit("TREELINE_MAX_SHARD_BYTES", 8 << 30, "bytes in a shard, unpacked")
"""Shards are mapped, or unpacked whole."""
PARQUET_BYTES = Limit("TREELINE_MAX_PARQUET_BYTES", 2 << 30, "bytes of a Parquet file, unpacked")
TABLE_BYTES = Limit("TREELINE_MAX_TABLE_BYTES", 64 << 20, "bytes of a table beyond 4 KiB a row, unpacked")
COUNTS_BYTES = Limit("TREELINE_MAX_COUNTS_BYTES", 128 << 20, "bytes of counts, unpacked")
"""Counts of pixel values by source and sensor: about 0.5 MB for each band."""
