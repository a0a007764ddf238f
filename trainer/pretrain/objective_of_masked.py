"""The masked autoencoder as an objective of the training loop."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from shards.read.order import Chips
from trainer.data.feed import Fed
from trainer.data.step_inputs import StepKey
from trainer.fit.learning import Learning
from trainer.fit.objective import Forward, Numbers, Panel
from trainer.fit.optimiser import Stage, backbone_stages, grouped
from trainer.model.encoder import patch_pixels, patches_valid
from trainer.options import OptimiserOptions
from trainer.pretrain.draw import ViewMaker, pieces_of
from trainer.pretrain.masked import Masked, normalised_patches, restoring_sums, take
from trainer.pretrain.masking import hidden_patches, shown_count, shown_patches
from trainer.pretrain.panel import restored_panel
from trainer.pretrain.tile_objective import TileObjective
from trainer.pretrain_config import PretrainConfig


@dataclass(frozen=True)
class MaskedInputs:
    """Inputs of one step, on one rank; axis B runs over tiles."""

    pixels_BCHW: Tensor
    """Normalised pixels, all bands."""
    valid_BHW: Tensor
    """Pixels that are not missing; none in a tile that stands in for an empty part."""
    noise_BN: Tensor
    """Numbers by which patches are hidden."""
    kept_BC: Tensor
    """Bands that the encoder sees; the others are to be restored everywhere."""

    def pieces(self, count: int) -> list[Self]:
        """See StepInputs."""
        return [type(self)(*rows) for rows in pieces_of(count, *vars(self).values())]


class MaskedObjective(TileObjective):
    """Objective of a masked autoencoder: pixels of hidden patches."""

    model: Masked

    def __init__(self, model: Masked, learning: Learning, config: PretrainConfig) -> None:
        """Args:
        model: the model in training, not wrapped.
        learning: the tiles, and the ranks that share them.
        config: all options.
        """
        super().__init__(model, model.encoder, learning, config)
        self.options, size = config.mask, learning.dataset.schema.chip_size
        self.shown = shown_count((size // model.encoder.patch_size) ** 2, self.options.mask_ratio)
        self.views = ViewMaker(model.encoder, config.views, learning.ranks)

    def groups(self, options: OptimiserOptions) -> list[dict[str, Any]]:
        """See Objective."""
        model = self.model
        decoder = {
            name: weight for name, weight in model.named_parameters() if not name.startswith("encoder.")
        }
        stages: list[Stage] = [("decoder", 1.0, decoder)]
        return grouped(model, [*stages, *backbone_stages(model.encoder.backbone, options)], options)

    def inputs(self, fed: Fed, key: StepKey) -> MaskedInputs:
        """See Objective."""
        count, patches = fed.batch.size, (fed.image_BCHW.shape[-1] // self.model.encoder.patch_size) ** 2
        generator = np.random.default_rng((*key, MASKS))
        noise_BN = generator.random((count, patches), np.float32)
        hidden_BG = generator.random((count, len(self.views.groups))) < self.options.mask_groups
        layers_BLHW = self.views.tiles(fed)
        view = self.views.draw(count, key, 0, self.config.views.crop_scale)
        size = fed.image_BCHW.shape[-1]
        pixels_BCHW, valid_BHW = self.views.make(layers_BLHW, view, fed, size)
        kept_BC = self.views.without_groups(hidden_BG)
        here = self.views.here
        return MaskedInputs(pixels_BCHW, valid_BHW, here(noise_BN, fed), here(kept_BC, fed))

    def sums(self, forward: Forward, inputs: MaskedInputs) -> Tensor:
        """See Objective."""
        encoder, bands = self.model.encoder, inputs.pixels_BCHW.shape[1]
        patch, grid = encoder.patch_size, encoder.grid(inputs.pixels_BCHW)
        valid_BN = patches_valid(inputs.valid_BHW, patch)
        patches_BNF = patch_pixels(inputs.pixels_BCHW, patch)
        present_BNP = patch_pixels(inputs.valid_BHW[:, None], patch) & valid_BN[..., None]
        shown_BV = shown_patches(inputs.noise_BN, valid_BN, self.shown)
        hidden_BM = hidden_patches(shown_BV, valid_BN.shape[1])
        if not self.options.mask_groups:
            restored_BMF = forward(patches_BNF, grid, valid_BN, shown_BV, hidden_BM)
            target_BMF, present_BMP = take(patches_BNF, hidden_BM), take(present_BNP, hidden_BM)
            counts_BMPC = present_BMP[..., None]
        else:  # hidden bands are restored in all patches
            kept_B11C = inputs.kept_BC[:, None, None]
            seen_BNF = (patches_BNF.unflatten(-1, (-1, bands)) * kept_B11C).flatten(2)
            restored_BMF = forward(seen_BNF, grid, valid_BN, shown_BV)
            target_BMF, present_BMP = patches_BNF, present_BNP
            is_hidden_BN = torch.zeros_like(valid_BN).scatter(1, hidden_BM, True)
            counts_BMPC = present_BMP[..., None] & (is_hidden_BN[..., None, None] | ~kept_B11C)
        target_BMPC = target_BMF.unflatten(-1, (-1, bands))
        if self.options.target == "patch":
            target_BMPC = normalised_patches(target_BMPC, present_BMP)
        return restoring_sums(restored_BMF.unflatten(-1, (-1, bands)), target_BMPC, counts_BMPC)

    def value(self, sums_K: Tensor, share_done: float) -> Tensor:
        """See Objective."""
        return sums_K[0] / sums_K[1].clamp(min=1)

    def trained(self, sums_K: Tensor) -> Numbers:
        """See Objective; there is nothing but the loss."""
        return {}

    def panel(self, chips: Chips) -> Panel | None:
        """See Objective."""
        return restored_panel(self.model, self.learning, chips, self.shown, self.options.target == "patch")


MASKS = 101
"""Fourth part of the seed of masks, after a step's key; views have others, see trainer.pretrain.draw."""
