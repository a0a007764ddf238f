"""What people have, as a list of candidate chips that is known before any pixel is read.

A source lists its candidates once; the plan (`ingest.work.plan`) deals them to shards; any process can read
any of them again, since a source is nothing but its options and can be sent to another machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
from numpy.typing import NDArray

from ingest.chips.check import Rejected
from shards.format.schema import Schema

PLACE = "_"
"""Columns that begin so tell where a candidate is read: they are the source's own and reach no dataset."""
GROUP = "_group"
"""A column of ascending whole numbers: candidates of one number share bytes and are read in one task."""


class Refused(NamedTuple):
    """A candidate that needs no reading to be refused."""

    key: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Candidates:
    """All chips there may be, in a fixed order."""

    table: pa.Table
    """One row each. "key"; any of `shards.format.schema.ORIGIN`, as far as known; places (see PLACE);
    everything else is an attribute, for the index."""
    refused: list[Refused] = field(default_factory=list)


@dataclass(frozen=True)
class Raw:
    """A candidate's arrays as they were found, before any check."""

    image: NDArray[Any]
    """(bands, rows, columns) or (rows, columns, bands)."""
    height: NDArray[Any] | None
    """(rows, columns) or (1, rows, columns); None in a dataset without labels."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What only reading could tell of its origin: x, y, crs, say. It comes before what the table says."""


class Source(Protocol):
    """Folders of chips, scenes, a table, ...: its options, and nothing that cannot travel to a worker."""

    @property
    def schema(self) -> Schema:
        """What every chip will be like."""

    def candidates(self) -> Candidates:
        """All of them, without reading pixels.

        Raises:
            InputError: there are none, or what was asked for cannot be done.
        """

    def read(self, table: pa.Table) -> Iterator[Raw | Rejected]:
        """One for each row of `table`, some rows of the candidates' table, in its order.

        Raises:
            OSError: storage failed. What is wrong with a chip is a `Rejected`, yielded and not raised.
        """
