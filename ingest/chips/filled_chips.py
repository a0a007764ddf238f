"""A value that fills chips and stands for nothing, found by a look at some of them."""

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.chips.check import Rejected, Rules, checked
from ingest.chips.source import Candidates, Raw, Refused, Source
from shards.errors import InputError
from shards.raster.filled import LOOKED_AT, filled_chips
from shards.raster.finding import Finding


def candidates_looked_at(
    source: Source, table: pa.Table, refused: list[Refused], url: str, most: int = LOOKED_AT
) -> Candidates:
    """Return the candidates of a source, of which some chips are looked at before an ingest begins.

    Args:
        source: the source.
        table: its candidates.
        refused: candidates that it refuses.
        url: place of the images, for the line.
        most: number of chips that are looked at.
    """
    return Candidates(table, refused, findings=partial(_look, source, table, url, most))


def _look(source: Source, table: pa.Table, url: str, most: int) -> dict[str, list[Finding]]:
    count = table.num_rows
    rows = np.unique(np.linspace(0, count - 1, most).astype(np.int64)) if count else np.empty(0, np.int64)
    images = []
    for raw in source.read(table.take(rows)):
        image = _image(raw, source) if isinstance(raw, Raw) else None
        if image is not None:
            images.append(image)
    found = filled_chips(images, source.schema.nodata)
    if found and found.is_gross:  # such a source has no --on-mismatch
        raise InputError(f"{url}: {found}")
    return {url: [found]} if found else {}


def _image(raw: Raw, source: Source) -> NDArray[Any] | None:
    """Return the image of a chip that could be kept."""
    try:
        return checked(raw.image, raw.height, source.schema, Rules(min_valid=0.0, min_height=None))[0]
    except Rejected:
        return None
