"""Tiles cut into windows of one size, read in batches, and encoded.

Windows stand side by side from the tile's first pixel. The last ones may reach beyond the tile's end; there
they are missing, and as everywhere a patch of which less than half is valid is not attended to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.attention.tiles import Tile
from inference.tiling.windows import Block, blocks_of
from shards.progress import Advance
from trainer.devices.choice import Precision
from trainer.devices.precision import autocast
from trainer.model.class_attention import class_attention
from trainer.model.encoder import Encoder, attended, patches_valid


@dataclass(frozen=True)
class Cut:
    """A window of a tile."""

    tile: int
    """Number of the tile."""
    block: Block
    """Pixels of the tile that the window shows."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A window, and what the encoder makes of it."""

    cut: Cut
    values_CHW: NDArray[np.float32]
    """Values of the encoder's bands on the pixels of `cut.block`, NaN where they are missing."""
    attended_N: NDArray[np.bool_]
    """Patches that are attended to."""
    tokens_ND: NDArray[np.float32]
    """Tokens of all patches, of the last layer."""
    attention: dict[int, NDArray[np.float32]]
    """attention_KN by layer: the share of each patch in a head's attention to patches; 1 in sum over those
    that are attended to, NaN elsewhere."""
    mass: dict[int, NDArray[np.float32]]
    """mass_K by layer: the share of a head's whole attention that patches have, and not registers or the
    class token."""


def cuts_of(tiles: Sequence[Tile], size: int) -> list[Cut]:
    """Cut all tiles into windows of `size` pixels a side, tile by tile and row by row."""
    return [
        Cut(number, block)
        for number, tile in enumerate(tiles)
        for block in blocks_of(tile.height, tile.width, size)
    ]


def some_of(cuts: list[Cut], most: int) -> list[Cut]:
    """Take at most `most` windows, evenly from the first to the last."""
    step = -(-len(cuts) // most)
    return cuts[::step]


@dataclass(frozen=True, eq=False)
class Looking:
    """Windows of tiles, and how many of them are encoded at a time."""

    tiles: Sequence[Tile]
    size: int
    """Pixels along each side of a window."""
    batch_size: int
    """Windows that are encoded at a time."""
    precision: Precision = "float32"
    """Precision in which they are encoded."""

    @torch.inference_mode()
    def seen(
        self, encoder: Encoder, cuts: list[Cut], layers: Sequence[int], advance: Advance
    ) -> Iterator[Seen]:
        """Encode windows, in their order.

        Args:
            encoder: the encoder, in eval mode.
            cuts: windows, tile by tile.
            layers: numbers of the layers whose attention is wanted, from 1.
            advance: told the number of windows that are done.

        Raises:
            InputError: a raster is damaged.
        """
        device = next(encoder.backbone.parameters()).device
        for some, image_BCHW, inside_BHW in self._batches(cuts):
            stored_BCHW = image_BCHW.to(device)
            values_BCHW, missing_BCHW = encoder.normalise.values(stored_BCHW)
            pixels_BCHW, valid_BHW = encoder.normalise(stored_BCHW)
            valid_BHW = valid_BHW & inside_BHW.to(device)
            valid_BN = patches_valid(valid_BHW, encoder.patch_size)
            pixels_BCHW = pixels_BCHW.masked_fill(~inside_BHW.to(device)[:, None], 0.0)
            with class_attention(encoder.backbone, layers) as found, autocast(self.precision, device):
                tokens_BND = encoder(pixels_BCHW, attended_BN=attended(valid_BN))[:, -valid_BN.shape[1] :]
            shared = {layer: _shared(attention, valid_BN) for layer, attention in found.items()}
            values_BCHW = values_BCHW.masked_fill(missing_BCHW, torch.nan)
            advance(len(some))  # before they are handed on: whoever has the last one asks for no more
            for place, cut in enumerate(some):
                rows, columns = len(cut.block.rows), len(cut.block.columns)
                yield Seen(
                    cut,
                    values_BCHW[place, :, :rows, :columns].cpu().numpy(),
                    valid_BN[place].cpu().numpy(),
                    tokens_BND[place].float().cpu().numpy(),
                    {layer: share_BKN[place].cpu().numpy() for layer, (share_BKN, _) in shared.items()},
                    {layer: mass_BK[place].cpu().numpy() for layer, (_, mass_BK) in shared.items()},
                )

    def _batches(self, cuts: list[Cut]) -> Iterator[tuple[list[Cut], Tensor, Tensor]]:
        """Read windows; yield them with image_BCHW as stored, in float32, and inside_BHW."""
        waiting: list[tuple[Cut, NDArray[np.float32], NDArray[np.bool_]]] = []
        for one in self._windows(cuts):
            waiting.append(one)
            if len(waiting) == self.batch_size:
                yield _stacked(waiting)
                waiting = []
        if waiting:
            yield _stacked(waiting)

    def _windows(self, cuts: list[Cut]) -> Iterator[tuple[Cut, NDArray[np.float32], NDArray[np.bool_]]]:
        place = 0
        while place < len(cuts):
            number = cuts[place].tile
            with self.tiles[number].opened() as read:
                while place < len(cuts) and cuts[place].tile == number:
                    cut = cuts[place]
                    stored_CHW = read(cut.block)
                    image_CHW = np.zeros((len(stored_CHW), self.size, self.size), np.float32)
                    inside_HW = np.zeros((self.size, self.size), np.bool_)
                    corner = np.s_[: len(cut.block.rows), : len(cut.block.columns)]
                    image_CHW[:, *corner], inside_HW[corner] = stored_CHW, True
                    yield cut, image_CHW, inside_HW
                    place += 1


def _stacked(
    windows: list[tuple[Cut, NDArray[np.float32], NDArray[np.bool_]]],
) -> tuple[list[Cut], Tensor, Tensor]:
    cuts, images, insides = zip(*windows, strict=True)
    return list(cuts), torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(insides))


def _shared(attention_BKN: Tensor, attended_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Return each patch's share of the attention to patches, and their share of all: (B, K, N), (B, K)."""
    weights_BKN: Any = attention_BKN.double() * attended_BN[:, None]
    mass_BK = weights_BKN.sum(2)
    share_BKN = (weights_BKN / mass_BK[..., None]).masked_fill(~attended_BN[:, None], torch.nan)
    return share_BKN.float(), mass_BK.float()
