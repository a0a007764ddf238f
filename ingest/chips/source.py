"""The contract of a source of chips: it lists its candidates before any pixel is read, then reads them.

A source lists its candidates once, and the plan (`ingest.work.plan`) deals them to shards. A source holds
only its options and can be sent to another machine, so any process can read any candidate.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, Self

import pyarrow as pa
from numpy.typing import NDArray

from ingest.chips.check import Rejected
from shards.format.schema import AttributeValue, Schema
from shards.raster.finding import Found, OnMismatch

PLACE = "_"
"""First letter of columns that say where a candidate is read: the source's own, which reach no dataset."""
GROUP = "_group"
"""Column of ascending whole numbers: candidates of equal number share bytes and are read in one task."""


class Refused(NamedTuple):
    """A candidate that is refused without being read."""

    key: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Candidates:
    """All candidate chips of a source, in a fixed order."""

    table: pa.Table
    """A row per candidate, with "key", the known ones of `shards.format.schema.ORIGIN`, and the source's own
    columns (see PLACE). Every other column is an attribute for the index."""
    refused: list[Refused] = field(default_factory=list)
    """Candidates that are not in the table."""
    on_mismatch: OnMismatch = "refuse"
    """Response to findings: refuse, note or ignore them."""
    findings: Callable[[], Found] = dict
    """Look at a few pixels before an ingest begins, and find what the user should know, by URL; raises
    InputError where files are not what they are given for."""


@dataclass(frozen=True)
class Raw:
    """A candidate's arrays as found, before any check."""

    image: NDArray[Any]
    """(bands, rows, columns) or (rows, columns, bands)."""
    height: NDArray[Any] | None
    """(rows, columns) or (1, rows, columns); None in a dataset without labels."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Facts on its origin that only reading could tell, for example the source; they override the table's."""
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    """Attributes that only reading could tell, of columns that the table has; they override the table's."""


class Source(Protocol):
    """A source of chips, such as folders or scenes; it holds its options, and nothing that cannot be sent."""

    @property
    def schema(self) -> Schema:
        """Schema of every chip."""

    def candidates(self) -> Candidates:
        """List all candidates without reading pixels.

        Raises:
            InputError: there are none, or the options cannot be met.
        """

    def read(self, table: pa.Table) -> Iterator[Raw | Rejected]:
        """Yield a chip for each row of `table`, some rows of the candidates' table, in their order.

        A chip that cannot be used is yielded as a `Rejected`, not raised.

        Raises:
            OSError: storage failed.
        """


@dataclass(frozen=True)
class CommandSource(Source):
    """A source of one of the commands of `treeline ingest`, made of its options."""

    config: Any
    """Options of the command."""

    def begun_with(self, config: Any) -> Self:
        """Return the source with the options that its work began with."""
        return replace(self, config=config)
