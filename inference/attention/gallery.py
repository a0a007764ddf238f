"""Pictures of tiles: in false colour, where attention goes, components of tokens, layers beside."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.attention.beside import Layer
from inference.attention.components import COUNT
from inference.attention.patch_maps import PatchMap
from inference.attention.pictures import (
    MOST_ACROSS,
    Colour,
    Legend,
    Picture,
    classes,
    colours_of,
    folded,
    pictures_in_rows,
    quantity,
    stretch,
    table_of,
    three_bands,
)
from inference.attention.tiles import Tile
from inference.attention.windows import Seen
from shards.draw.picture import colour_limits, composite, composite_bands

MOST_SIDE = 256
"""Most pixels of a tile's picture along its longer side."""
MOST_TILES = 100
"""Most tiles that are drawn; all have GeoTIFFs."""
MOST_ROWS = 12
"""Most tiles in the tables of pictures."""
MOST_COLOURS = 16
"""Most different whole numbers that are drawn as classes where nobody says that they are."""


@dataclass(frozen=True, eq=False)
class TileView:
    """A tile as the encoder sees it."""

    tile: Tile
    share: PatchMap
    """Each patch's share of a head's attention to the patches of its window."""
    count: PatchMap
    """Number of patches in the window that are attended to."""
    components: PatchMap
    """Scores of tokens along their principal components."""
    values_CHW: NDArray[np.float32]
    """Values of the bands at evenly spaced pixels; NaN where they are missing."""

    @classmethod
    def empty(cls, tile: Tile, patch_size: int, heads: int, bands: int) -> "TileView":
        """Make the view of a tile of which nothing is seen yet."""
        shrink = max(1.0, max(tile.height, tile.width) / MOST_SIDE)
        shape = max(1, round(tile.height / shrink)), max(1, round(tile.width / shrink))
        share, count, components = (PatchMap.empty(tile, patch_size, n) for n in (heads, 1, COUNT))
        return cls(tile, share, count, components, np.full((bands, *shape), np.nan, np.float32))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the tile's picture."""
        rows, columns = self.values_CHW.shape[1:]
        return rows, columns

    def put(self, seen: Seen, layer: int, scores_N3: NDArray[np.float32]) -> None:
        """Take over what was seen in a window."""
        block, attended_N = seen.cut.block, seen.attended_N
        self.share.put(block, seen.attention[layer])
        count_N = np.where(attended_N, attended_N.sum(), np.nan).astype(np.float32)
        self.count.put(block, count_N[None])
        self.components.put(block, np.where(attended_N, scores_N3.T, np.nan).astype(np.float32))
        rows, columns = (
            ((np.arange(count) + 0.5) * length / count).astype(int)
            for count, length in zip(self.shape, (self.tile.height, self.tile.width), strict=True)
        )
        row_R = np.flatnonzero((rows >= block.rows.start) & (rows < block.rows.stop))
        column_C = np.flatnonzero((columns >= block.columns.start) & (columns < block.columns.stop))
        picked_CHW = seen.values_CHW[:, rows[row_R] - block.rows.start]
        self.values_CHW[:, row_R[:, None], column_C] = picked_CHW[
            :, :, columns[column_C] - block.columns.start
        ]

    def relative(self) -> NDArray[np.float32]:
        """Return the pictures of all heads (K, *shape): 1 is what each patch has on average."""
        return self.share.sampled(self.shape) * self.count.sampled(self.shape)

    def facts(self) -> dict[str, int]:
        """Return how many patches the tile has, and how many are attended to."""
        count_RC = self.count.values_KRC[0]
        return {"patches": int(count_RC.size), "attended": int(np.isfinite(count_RC).sum())}


class Gallery:
    """Views of tiles, and what lies beside them."""

    def __init__(self, layers: Sequence[Layer], bands: tuple[str, ...]) -> None:
        """Args:
        layers: layers beside.
        bands: bands of the tiles' values.
        """
        self.layers, self.bands = layers, bands
        self.views: list[TileView] = []
        self.count = 0
        """Number of tiles, with those that are not drawn."""
        self._beside: list[list[NDArray[np.float64]]] = []

    def add(self, view: TileView) -> None:
        """Add a tile, and read what lies beside it.

        Raises:
            InputError: a raster beside is damaged.
        """
        self.count += 1
        if len(self.views) < MOST_TILES:
            self.views.append(view)
            tile = view.tile
            self._beside.append([layer.values(tile, tile.whole, view.shape) for layer in self.layers])

    def tables(self) -> list[tuple[str, bytes, str]]:
        """Draw the page's tables: heading, PNG, description."""
        rows = self._rows(range(len(self.views))[:MOST_ROWS])
        names = [view.tile.name for view in self.views[:MOST_ROWS]]
        of_all = "" if len(rows) == self.count else f", the first {len(rows)} of {self.count:,}"
        own = len(rows[0]) - self._heads
        layers, heads = [row[:own] for row in rows], [row[own:] for row in rows]
        drawn = [
            (
                f"Tiles and what lies beside them{of_all}",
                pictures_in_rows(table_of(layers), names, self._legends),
                "A row for each tile: false colour, mean attention, components of tokens, layers beside",
            )
        ]
        for first in range(0, self._heads, MOST_ACROSS):
            some = [row[first : first + MOST_ACROSS] for row in heads]
            last = first + len(some[0])
            which = f" {first + 1} to {last} of {self._heads}" if self._heads > MOST_ACROSS else ""
            drawn.append(
                (
                    f"Attention of each head{which}{of_all}",
                    pictures_in_rows(table_of(some), names),
                    "A row for each tile, a column for each head's attention",
                )
            )
        return drawn

    def of_tiles(self) -> Iterator[bytes]:
        """Draw all pictures of each tile, with scales of its own."""
        for number in range(len(self.views)):
            (row,) = self._rows([number])
            yield pictures_in_rows(folded(row), legends=self._legends)

    @property
    def _heads(self) -> int:
        return len(self.views[0].share.values_KRC)

    def _rows(self, tiles: Sequence[int]) -> list[list[Picture]]:
        """Make the pictures of some tiles: tile, mean attention, components, layers beside, each head.

        What is coloured by quantity has one scale for all of them.
        """
        views = [self.views[number] for number in tiles]
        relative = [view.relative() for view in views]
        means = _quantities([relative_KHW.mean(0) for relative_KHW in relative], "attention, mean of heads")
        columns = [
            [Picture(composite(one.values_CHW, self.bands, None), self._shown) for one in views],
            means,
            [three_bands(_scores(one), *self._score_limits, "tokens (3 components)") for one in views],
            *(self._layer(number, tiles) for number in range(len(self.layers))),
            *(
                _quantities([one[head] for one in relative], f"head {head + 1}")
                for head in range(self._heads)
            ),
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    @property
    def _shown(self) -> str:
        return f"tile ({', '.join(composite_bands(self.bands))})"

    @cached_property
    def _score_limits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return stretch([_scores(view) for view in self.views])

    def _layer(self, number: int, tiles: Sequence[int]) -> list[Picture]:
        """Make the pictures of a layer beside some tiles."""
        layer, values = self.layers[number], [self._beside[tile][number] for tile in tiles]
        if layer.is_rgb:
            return [three_bands(one, *stretch([one]), layer.name) for one in values]
        if colours := self._colours(number):
            return [classes(one[0], colours, layer.name) for one in values]
        return _quantities([one[0] for one in values], layer.name)

    def _colours(self, number: int) -> dict[int, Colour]:
        """Return the colours of a layer's classes; empty if it holds a quantity."""
        layer = self.layers[number]
        if not layer.is_whole or layer.is_rgb:
            return {}
        value_P = np.concatenate([np.unique(beside[number]) for beside in self._beside])
        numbers = np.unique(value_P[~np.isnan(value_P)]).astype(int).tolist()
        if len(numbers) > MOST_COLOURS and not layer.is_class:
            return {}
        return colours_of(numbers, layer.class_names, layer.colours)

    @cached_property
    def _legends(self) -> dict[str, Legend]:
        legends: dict[str, Legend] = {}
        for number, layer in enumerate(self.layers):
            if colours := self._colours(number):
                legends[layer.name] = {
                    layer.class_names.get(one, str(one)): colour for one, colour in colours.items()
                }
        return legends


def _scores(view: TileView) -> NDArray[np.float32]:
    return view.components.sampled(view.shape)


def _quantities(values: Sequence[NDArray[Any]], title: str) -> list[Picture]:
    """Colour pictures of one quantity by one scale."""
    limits = colour_limits(np.concatenate([value_HW.ravel() for value_HW in values]))
    return [quantity(value_HW, limits, title) for value_HW in values]
