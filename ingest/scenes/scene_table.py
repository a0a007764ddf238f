"""The table of candidates: keys and places of all chips of the images, and the rasters that serve them.

`_image` (URL) and `_rasters` (a `Serving` as JSON) are dictionary-encoded: they are long, and the same for
all chips of an image.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ingest.chips.source import GROUP
from ingest.scenes.scene_matching import Serving
from shards.format.key import KeyFacts
from shards.format.scene_names import scene_name
from shards.raster.grid import Grid

Integers = NDArray[np.int64]


class SceneImage(NamedTuple):
    """An image, the facts in its name, and the rows and columns at which its chips begin."""

    url: str
    name: str
    known: KeyFacts
    grid: Grid
    rows: Integers
    columns: Integers

    @property
    def size(self) -> int:
        """Number of its chips."""
        return self.rows.size * self.columns.size


def table_of(taken: list[tuple[SceneImage, Serving]], chip_size: int) -> pa.Table:
    """Make a table with a row for each chip of the images; see `ScenesSource.candidates`."""
    images = [image for image, _ in taken]
    serving = [rasters.to_json() for _, rasters in taken]
    image_of_chip = np.repeat(np.arange(len(images)), [image.size for image in images])
    rows, columns = _corners_of_chips(images)

    def of_image(values: list[Any]) -> pa.Array:
        return pa.array(values, pa.string()).take(pa.array(image_of_chip))

    def for_image(values: list[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(
            pa.array(image_of_chip, pa.int32()), pa.array(values, pa.string())
        )

    grids = np.array([image.grid.transform[:6] for image in images]).reshape(-1, 6)[image_of_chip].T
    half = chip_size / 2
    first = [rasters.heights[0].url if rasters.heights else None for _, rasters in taken]
    return pa.table(
        {
            "key": keys_of(images),
            "source": of_image([url and scene_name(url) for url in first]),
            "sensor": of_image([image.known.sensor for image in images]),
            "acquired": of_image([image.known.acquired for image in images]),
            "scene": of_image([image.known.scene for image in images]),
            "x": grids[0] * (columns + half) + grids[1] * (rows + half) + grids[2],
            "y": grids[3] * (columns + half) + grids[4] * (rows + half) + grids[5],
            "crs": of_image([image.grid.crs.to_string() for image in images]),
            "_image": for_image([image.url for image in images]),
            "_rasters": for_image(serving),
            "_row": rows,
            "_column": columns,
            GROUP: _strips(image_of_chip, rows),
        }
    )


def _strips(image_of_chip: Integers, rows: Integers) -> Integers:
    """Return the number (chips,) of each chip's row of chips, counted through all images."""
    begins = (np.diff(image_of_chip, prepend=-1) != 0) | (np.diff(rows, prepend=-1) != 0)
    return np.cumsum(begins, dtype=np.int64)


def _corners_of_chips(images: list[SceneImage]) -> tuple[Integers, Integers]:
    """Return row and column of the first pixel of each chip of the images."""
    none = [np.empty(0, np.int64)]
    rows = np.concatenate(none + [np.repeat(image.rows, image.columns.size) for image in images])
    columns = np.concatenate(none + [np.tile(image.columns, image.rows.size) for image in images])
    return rows, columns


def keys_of(images: list[SceneImage]) -> pa.Array:
    """Make the keys of all chips of the images."""
    names = np.repeat(np.arange(len(images)), [image.size for image in images])
    rows, columns = (
        pc.utf8_lpad(pa.array(pixels).cast(pa.string()), 5, "0") for pixels in _corners_of_chips(images)
    )
    scenes = pa.array([image.name for image in images], pa.string()).take(pa.array(names))
    return pc.binary_join_element_wise(scenes, rows, columns, "_")


def encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """Dictionary-encode a column, unless it is."""
    array = column.combine_chunks()
    return array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
