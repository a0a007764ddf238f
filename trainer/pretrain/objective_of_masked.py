"""The masked autoencoder as an objective of the training loop."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from shards.read.order import Chips
from trainer.data.feed import Fed
from trainer.data.step_inputs import StepKey, is_whole_batch
from trainer.devices.ranks import PendingSum
from trainer.fit.learning import Learning
from trainer.fit.objective import Forward, Numbers, Panel
from trainer.fit.optimiser import Stage, backbone_stages, grouped
from trainer.model.encoder import patch_pixels, patches_valid
from trainer.options import OptimiserOptions
from trainer.pretrain.draw import ViewMaker, pieces_of
from trainer.pretrain.masked import Masked, normalised_patches, restored_values, restoring_sums, take
from trainer.pretrain.masking import hidden_patches, shown_count, shown_patches
from trainer.pretrain.panel import restored_panel
from trainer.pretrain.tile_objective import TileObjective
from trainer.pretrain_config import PretrainConfig


@dataclass(frozen=True)
class MaskedInputs:
    """Inputs of one step, on one rank; axis B runs over tiles."""

    pixels_BCHW: Tensor
    """Normalised pixels, all bands."""
    valid_BN: Tensor
    """Patches that are attended to; none in a tile that stands in for an empty part."""
    shown_BV: Tensor
    """Numbers of the patches that the encoder sees."""
    hidden_BM: Tensor
    """Numbers of the others."""
    kept_BC: Tensor
    """Bands that the encoder sees; the others are to be restored everywhere."""
    present_BMP: Tensor
    """Pixels that are not missing: of the hidden patches, or of all patches where bands are hidden."""
    counts_BMPC: Tensor
    """Values of these pixels that are to be restored. C may be 1."""
    is_whole: bool
    """Whether no pixel is missing, by the index."""

    def pieces(self, count: int) -> list[Self]:
        """See StepInputs."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        pieces: list[dict[str, Any]] = [
            dict(zip(tensors, rows, strict=True)) for rows in pieces_of(count, *tensors.values())
        ]
        return [replace(self, **rows) for rows in pieces]


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
        here, patch = self.views.here, self.model.encoder.patch_size
        kept_BC = here(self.views.without_groups(hidden_BG), fed)
        valid_BN = patches_valid(valid_BHW, patch)
        shown_BV = shown_patches(here(noise_BN, fed), valid_BN, self.shown)
        hidden_BM = hidden_patches(shown_BV, patches)
        present_BNP = patch_pixels(valid_BHW[:, None], patch) & valid_BN[..., None]
        if not self.options.mask_groups:
            present_BMP = take(present_BNP, hidden_BM)
            counts_BMPC = present_BMP[..., None]
        else:  # hidden bands are restored in all patches
            present_BMP, is_hidden_BN = present_BNP, torch.zeros_like(valid_BN).scatter(1, hidden_BM, True)
            counts_BMPC = present_BMP[..., None] & (is_hidden_BN[..., None, None] | ~kept_BC[:, None, None])
        is_whole = is_whole_batch(fed.batch, self.learning.dataset)
        return MaskedInputs(
            pixels_BCHW, valid_BN, shown_BV, hidden_BM, kept_BC, present_BMP, counts_BMPC, is_whole
        )

    def known_sums(self, inputs: MaskedInputs) -> PendingSum:
        """See Objective: the number of values to restore."""
        count = restored_values(inputs.counts_BMPC, inputs.pixels_BCHW.shape[1])
        return self.learning.ranks.begin_sum(torch.stack([torch.zeros_like(count), count]))

    def sums(self, forward: Forward, inputs: MaskedInputs) -> Tensor:
        """See Objective."""
        encoder, bands = self.model.encoder, inputs.pixels_BCHW.shape[1]
        patches_BNF = patch_pixels(inputs.pixels_BCHW, encoder.patch_size)
        patches = encoder.grid(inputs.pixels_BCHW), inputs.valid_BN, inputs.shown_BV
        if not self.options.mask_groups:
            restored_BMF = forward(patches_BNF, *patches, inputs.hidden_BM, inputs.is_whole)
            target_BMF = take(patches_BNF, inputs.hidden_BM)
        else:
            seen_BNF = (patches_BNF.unflatten(-1, (-1, bands)) * inputs.kept_BC[:, None, None]).flatten(2)
            restored_BMF, target_BMF = forward(seen_BNF, *patches, None, inputs.is_whole), patches_BNF
        target_BMPC = target_BMF.unflatten(-1, (-1, bands))
        if self.options.target == "patch":
            target_BMPC = normalised_patches(target_BMPC, inputs.present_BMP)
        return restoring_sums(restored_BMF.unflatten(-1, (-1, bands)), target_BMPC, inputs.counts_BMPC)

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
