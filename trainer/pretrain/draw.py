"""The views of a step: drawn for the global batch, made of this rank's tiles on the device."""

from collections.abc import Iterator
from math import log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.format.schema import Schema
from trainer.data.feed import Fed
from trainer.data.step_inputs import StepKey, equal_parts, part_of
from trainer.devices.ranks import Ranks
from trainer.devices.transfer import to_device
from trainer.model.encoder import Encoder
from trainer.pretrain.masking import groups_of
from trainer.pretrain.views import Views, crop, draw_boxes, layers_of, speckle_decibels
from trainer.pretrain_config import ViewOptions

VIEWS = 211
"""Fourth part of the seed of a step's first view, after the step's key; the next views follow."""
SCALES = 401
"""Fourth part of the seed of coordinates' scales."""
SKIPS = 601
"""Fourth part of the seed of skipped blocks."""


class ViewMaker:
    """Maker of views of tiles."""

    def __init__(self, encoder: Encoder, options: ViewOptions, ranks: Ranks) -> None:
        """Args:
        encoder: normalisation and bands.
        options: which views.
        ranks: the ranks that share a batch.
        """
        self.encoder, self.options, self.ranks = encoder, options, ranks
        self.groups = groups_of(encoder.bands, options.band_groups)
        self._mixed_CS = mixed_bands(encoder.schema, encoder.bands).to(ranks.device)

    def tiles(self, fed: Fed) -> Tensor:
        """Return layers_BLHW of normalised tiles, see `layers_of`; nothing is valid in a stand-in."""
        pixels_BCHW, valid_BHW = self.encoder.normalise(fed.image_BCHW)
        return layers_of(pixels_BCHW, valid_BHW & (not fed.batch.stands_in))

    def here(self, rows: NDArray[Any], fed: Fed) -> Tensor:
        """Take this rank's rows of a global batch's numbers, to the device."""
        return to_device(part_of(rows, fed.batch, self.ranks), self.ranks.device)

    def draw(self, count: int, key: StepKey, number: int, scale: tuple[float, float]) -> Views:
        """Draw view `number` of each of `count` tiles."""
        options, bands = self.options, len(self.encoder.bands)
        generator = np.random.default_rng((*key, VIEWS + number))
        stored = self._mixed_CS.shape[1]
        box_B4 = draw_boxes(count, scale, generator)
        wanted = np.array([options.flip, options.vertical_flip, options.quarter_turns])
        flip_B3 = (generator.random((count, 3)) < 0.5) & wanted
        shift_BS = generator.normal(0, options.brightness, (count, stored)).astype(np.float32)
        kept_BC = generator.random((count, bands)) >= options.band_dropout
        kept_BC &= self.without_groups(generator.random((count, len(self.groups))) < options.group_dropout)
        # Each view keeps one band at least.
        kept_BC[np.arange(count), generator.integers(bands, size=count)] = True
        seed_B = generator.integers(1 << 40, size=count)
        return Views(box_B4, flip_B3, shift_BS, kept_BC, seed_B)

    def without_groups(self, hidden_BG: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return kept_BC: the bands that are in none of a tile's hidden groups; all if each band is."""
        kept_BC = np.ones((len(hidden_BG), len(self.encoder.bands)), np.bool_)
        for number, places in enumerate(self.groups):
            for place in places:
                kept_BC[:, place] &= ~hidden_BG[:, number]
        return kept_BC | ~kept_BC.any(1, keepdims=True)

    def make(
        self, layers_BLHW: Tensor, view: Views, fed: Fed, size: int, out_BCSS: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Make a view of this rank's tiles: pixels_BCSS, 0 where missing, and valid_BSS; see `crop`."""
        box_B4, flip_B3 = self.here(view.box_B4, fed), self.here(view.flip_B3, fed)
        # Told by the boxes of all ranks, so that each computes a view in the same way.
        shrinks = bool(view.box_B4[:, 2:].max() * layers_BLHW.shape[-1] > size)
        turns = self.options.quarter_turns
        pixels_BCSS, valid_BSS = crop(layers_BLHW, box_B4, flip_B3, size, shrinks, turns, out_BCSS)
        options, normalise = self.options, self.encoder.normalise
        if options.brightness or options.speckle_looks:
            added_BSHW = self.here(view.shift_BS, fed)[..., None, None]
            if options.speckle_looks:
                shape = added_BSHW.shape[1], size, size
                added_BSHW = added_BSHW + speckle_decibels(
                    self.here(view.seed_B, fed), options.speckle_looks, shape
                )
            # What is added to stored bands, derived ones show as well.
            added_BCHW = torch.einsum("cs,bshw->bchw", self._mixed_CS, added_BSHW)
            per_unit_C = 1 / (normalise.clamp_span_C * normalise.std_C)
            added_BCHW = added_BCHW * per_unit_C[:, None, None]
            pixels_BCSS += added_BCHW * valid_BSS[:, None]
        if options.band_dropout or options.group_dropout:
            pixels_BCSS *= self.here(view.kept_BC, fed)[..., None, None]
        return pixels_BCSS, valid_BSS

    def scales(self, count: int, key: StepKey, number: int, rescale: float | None) -> NDArray[np.float32]:
        """Draw the scale of each tile's coordinates, (count,): even on a logarithmic scale around 1."""
        generator = np.random.default_rng((*key, SCALES + number))
        widest = log(rescale or 1.0)
        return np.exp(generator.uniform(-widest, widest, count)).astype(np.float32)

    def factors(self, count: int, key: StepKey, number: int, rates_L: NDArray[Any]) -> NDArray[np.float32]:
        """Draw factors_BL for view `number` of each of `count` tiles.

        A factor is 0 where the view skips a block, else 1 / (1 - rate), so that the mean is 1.
        """
        generator = np.random.default_rng((*key, SKIPS + number))
        is_kept_BL = generator.random((count, len(rates_L))) >= rates_L
        factors_BL: NDArray[np.float32] = (is_kept_BL / (1 - rates_L)).astype(np.float32)
        return factors_BL


def skip_rates(last: float, blocks: int) -> NDArray[np.float64]:
    """Return rates_L at which blocks are skipped: l / L x `last` for block l of L, counted from 1.

    This is the "linear decay rule" of stochastic depth (Huang et al. 2016, arXiv:1603.09382, section 4).
    """
    return last * np.arange(1, blocks + 1) / blocks


def pieces_of(count: int, *values: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors with a row for each tile into up to `count` pieces of nearly equal size."""
    for rows in equal_parts(count, len(values[0])):
        yield tuple(value[rows] for value in values)


def mixed_bands(schema: Schema, bands: tuple[str, ...]) -> Tensor:
    """Return factors_CS that make these bands of stored ones: 1 for a stored band, 1 and +-1 for a
    derived one."""
    derived = {band: schema.derived_band(band) for band in bands}
    made_of = [(one.first, one.second) if one else (band,) for band, one in derived.items()]
    stored = list(dict.fromkeys(name for names in made_of for name in names))
    factors_CS = torch.zeros(len(bands), len(stored))
    for place, (band, one) in enumerate(derived.items()):
        factors_CS[place, stored.index(one.first if one else band)] += 1
        if one:
            factors_CS[place, stored.index(one.second)] += one.factor
    return factors_CS
