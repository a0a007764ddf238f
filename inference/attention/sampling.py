"""The windows on which numbers are measured: valid pixels, patches, and the layers beside them."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.attention.beside import Layer
from inference.attention.comparison import LEAST_UNITS, TRAINED, UNTRAINED, Sample
from inference.attention.tiles import Tile
from inference.attention.windows import Seen

MOST_PIXELS = 1 << 23
"""Most pixels that are measured; of more, every second window is measured, or every third, and so on."""


class Sampling:
    """Gathers windows, once as the checkpoint sees them and once as an untrained backbone does."""

    def __init__(
        self, tiles: Sequence[Tile], layers: Sequence[Layer], bands: tuple[str, ...], patch_size: int
    ) -> None:
        """Args:
        tiles: all tiles.
        layers: layers beside that hold classes.
        bands: bands that the encoder sees.
        patch_size: pixels along each side of a patch.
        """
        self._tiles, self._layers, self._bands, self._patch_size = tiles, layers, bands, patch_size
        self._values: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
        self._pixels: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
        self._patch: list[NDArray[np.int64]] = []
        self._unit: list[NDArray[np.int64]] = []
        self._heads: dict[str, dict[str, list[NDArray[np.float32]]]] = {
            kind: defaultdict(list) for kind in (TRAINED, UNTRAINED)
        }
        self._patches = self.windows = 0
        self.by_tile = len(tiles) >= LEAST_UNITS
        """Whether tiles are halved, and not windows."""

    def add(self, seen: Seen) -> None:
        """Add a window as the checkpoint sees it.

        Raises:
            InputError: a layer beside does not reach it, or a raster is damaged.
        """
        self._add_heads(TRAINED, seen)
        side = round(seen.attended_N.size**0.5)
        rows, columns = (np.arange(length) // self._patch_size for length in seen.values_CHW.shape[1:])
        patch_HW = rows[:, None] * side + columns
        kept_HW = seen.attended_N[patch_HW] & ~np.isnan(seen.values_CHW).any(0)
        number_N = self._patches + seen.attended_N.cumsum() - 1
        self._patch.append(number_N[patch_HW[kept_HW]])
        for band, value_HW in zip(self._bands, seen.values_CHW, strict=True):
            self._pixels[band].append(value_HW[kept_HW])
        tile = self._tiles[seen.cut.tile]
        for layer in self._layers:
            value_HW = layer.values(tile, seen.cut.block)[0].astype(np.float32)
            self._values[layer.name].append(value_HW[kept_HW])
        count = int(seen.attended_N.sum())
        self._unit.append(np.full(count, seen.cut.tile if self.by_tile else self.windows))
        self._patches += count
        self.windows += 1

    def add_untrained(self, seen: Seen) -> None:
        """Add a window as the untrained backbone sees it; in the same order as before."""
        self._add_heads(UNTRAINED, seen)

    def _add_heads(self, kind: str, seen: Seen) -> None:
        attended_N = seen.attended_N
        for layer, share_KN in seen.attention.items():
            for head, share_N in enumerate(share_KN, 1):
                name = head_name(layer, head) if len(seen.attention) > 1 else head_name(None, head)
                self._heads[kind][name].append(share_N[attended_N] * attended_N.sum())

    @cached_property
    def layers(self) -> dict[str, NDArray[np.float32]]:
        """value_P of layers beside by name, once all windows are added; NaN: no value."""
        return _joined(self._values)

    def sample(self) -> Sample:
        """Return all that was added."""
        return Sample(
            self.layers,
            _joined(self._pixels),
            np.concatenate(self._patch),
            np.concatenate(self._unit),
            {kind: _joined(heads) for kind, heads in self._heads.items()},
        )


def head_name(layer: int | None, head: int) -> str:
    """Name a head of one layer, or of several."""
    return f"head {head}" if layer is None else f"layer {layer} head {head}"


def _joined(pieces: dict[str, list[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate(some) for name, some in pieces.items()}
