"""Tiles of a dataset: the chips of a split, in the order of its index."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from inference.config import EmbedConfig
from inference.embed.embeddings import PATCH_COLUMNS, VECTOR
from shards.errors import InputError
from shards.format.band_values import difference
from shards.format.manifest import INDEX
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from shards.raster.finding import Finding
from shards.read.dataset import open_dataset
from shards.read.row_stream import ahead

WHERE_STORED = ("shard", "row", "xxh3", "image_at", "height_at")
"""Columns of the index that say where a chip lies in its shard; embeddings have the others."""
BATCHES_AHEAD = 2
"""Batches that are read while others are embedded."""


class DatasetTiles:
    """See `inference.embed.tiles.Tiles`."""

    remark = ""

    def __init__(self, config: EmbedConfig, schema: Schema) -> None:
        """Open the dataset, and choose its tiles.

        Raises:
            InputError: there is no dataset or no such tile, or its bands or values are not the checkpoint's.
        """
        dataset = open_dataset(config.data)
        if differs := difference(dataset.schema, schema):
            raise InputError(
                f"{config.data}: chips {differs}; they must be as in training, so choose another DATASET or "
                "--checkpoint"
            )
        taken = sorted({VECTOR, *PATCH_COLUMNS} & dataset.manifest.attributes.keys())
        if taken:
            raise InputError(
                f"{config.data}: has an attribute {taken[0]}, a column that embeddings fill; ingest with "
                "another name for it"
            )
        self._dataset, self._chips = dataset, dataset.chips(config.split, config.limit, config.where)
        if not self._chips.size:
            where = f" where {config.where}" if config.where else ""
            raise InputError(
                f"{config.data}: no chip is in the split {config.split!r}{where}; choose another --split"
                f"{' or --where' if where else ''}"
            )
        self.count, self.size = len(self._chips), dataset.schema.chip_size
        manifest = dataset.manifest
        self.identity = {
            "data": manifest.fingerprint,
            "index": manifest.files[INDEX].xxh3,
            "split": config.split,
            "where": config.where,
            "limit": config.limit,
        }

    def findings(self, statistics: Statistics) -> dict[str, tuple[Finding, ...]]:
        """See Tiles; chips were checked when they were ingested."""
        return {}

    def columns(self, start: int, stop: int) -> pa.Table:
        """See Tiles."""
        rows = self._dataset.index.take(self._chips[start:stop])
        return rows.select([name for name in rows.column_names if name not in WHERE_STORED])

    def images(self, start: int, stop: int, batch_size: int) -> Iterator[NDArray[Any]]:
        """See Tiles."""
        batches = self._dataset.batches(self._chips[start:stop], batch_size)
        for batch in ahead(batches, BATCHES_AHEAD):
            yield batch.image_BCHW
