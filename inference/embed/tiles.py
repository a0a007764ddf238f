"""Tiles to embed, of a dataset or of scenes, and the parts that they are cut into."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inference.config import EmbedConfig
from inference.embed.dataset_tiles import DatasetTiles
from inference.embed.scene_tiles import SceneTiles
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from shards.raster.finding import Finding

MOST_TILES, MOST_PATCHES = 1024, 65_536
"""Most tiles of a part, and most patches: a part of 65,536 patches of 768 numbers has 100 MB."""


class Tiles(Protocol):
    """Tiles by number, from 0; every process numbers them alike."""

    count: int
    """Number of tiles."""
    size: int
    """Pixels along a side of each."""
    identity: dict[str, Any]
    """Options and inputs on which the tiles and their columns depend."""
    remark: str
    """Line that says what was left out, and why; "" if nothing was."""

    def findings(self, statistics: Statistics) -> dict[str, tuple[Finding, ...]]:
        """Find what about scenes does not fit the training, by URL, where there is something."""

    def columns(self, start: int, stop: int) -> pa.Table:
        """Return the columns of tiles start, ..., stop - 1: key, split, and whatever is known of them."""

    def images(self, start: int, stop: int, batch_size: int) -> Iterator[NDArray[Any]]:
        """Read those tiles as image_BCHW, stored pixels, batch by batch."""


def open_tiles(config: EmbedConfig, schema: Schema) -> Tiles:
    """Open what is to be embedded; `schema` is the format of the checkpoint's images.

    Raises:
        InputError: there is no tile, or the tiles are not what the checkpoint was trained on.
    """
    return SceneTiles(config, schema) if config.scenes else DatasetTiles(config, schema)


def tiles_per_part(config: EmbedConfig, patches_of_tile: int) -> int:
    """Return how many tiles a part has: a multiple of the batch, so that batches do not depend on it."""
    wanted = config.tiles_per_part or min(MOST_TILES, MOST_PATCHES // patches_of_tile)
    return max(wanted // config.batch_size, 1) * config.batch_size


def numbers_of_part(number: int, per_part: int, count: int) -> tuple[int, int]:
    """Return the first tile of a part, and the one after its last."""
    return number * per_part, min((number + 1) * per_part, count)


def part_count(per_part: int, count: int) -> int:
    """Return how many parts `count` tiles make."""
    return int(np.ceil(count / per_part))
