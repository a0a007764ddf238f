"""Pictures of sample tiles: the tile, the patches that were shown, and what the decoder restored."""

import numpy as np
import torch

from shards.read.order import Chips
from trainer.fit.learning import Learning
from trainer.fit.objective import Panel
from trainer.model.encoder import patch_pixels, patches_valid
from trainer.pretrain.masked import Masked, patch_moments
from trainer.pretrain.masking import shown_patches

DARKEST, BRIGHTEST = -2.0, 2.0
"""Standard deviations from a band's mean that are black and white."""


def restored_panel(
    model: Masked, learning: Learning, tiles: Chips, shown: int, normalised: bool
) -> Panel | None:
    """Draw the first band of these tiles, a row each; None if their shards are left out.

    Args:
        model: the model; it is put into eval mode.
        learning: dataset and device.
        tiles: numbers of the tiles.
        shown: number of patches that the encoder sees.
        normalised: whether the decoder restores patches less their mean; the panel then adds the true mean
            and deviation of each patch.
    """
    batch = next(learning.dataset.batches(tiles, tiles.size), None)
    if batch is None or not batch.chips.size:
        return None
    encoder, patch = model.eval().encoder, model.encoder.patch_size
    image_BCHW = torch.from_numpy(batch.image_BCHW.copy()).to(learning.ranks.device)
    with torch.no_grad():
        pixels_BCHW, valid_BHW = encoder.normalise(image_BCHW)
        valid_BN = patches_valid(valid_BHW, patch)
        noise = np.random.default_rng(0).random(valid_BN.shape, np.float32)
        shown_BV = shown_patches(torch.from_numpy(noise).to(valid_BN.device), valid_BN, shown)
        patches_BNF = patch_pixels(pixels_BCHW, patch)
        restored_BNF = model(patches_BNF, encoder.grid(pixels_BCHW), valid_BN, shown_BV).float()
    bands, rows = len(encoder.bands), image_BCHW.shape[2] // patch
    if normalised:
        present_BNP = patch_pixels(valid_BHW[:, None], patch)
        mean_BN11, deviation_BN11 = patch_moments(patches_BNF.unflatten(-1, (-1, bands)), present_BNP)
        restored_BNF = restored_BNF * deviation_BN11[..., 0] + mean_BN11[..., 0]
    is_shown_BN1 = torch.zeros_like(valid_BN).scatter(1, shown_BV, True)[..., None]
    columns = []
    for values_BNF in (
        patches_BNF,
        patches_BNF.masked_fill(~is_shown_BN1, DARKEST),
        torch.where(is_shown_BN1, patches_BNF, restored_BNF),
    ):
        first_BNP = values_BNF[..., ::bands].cpu().numpy()  # the first band of each pixel
        cut = first_BNP.reshape(len(first_BNP), rows, -1, patch, patch).swapaxes(2, 3)
        columns.append(cut.reshape(len(first_BNP), rows * patch, -1))
    picture_BHW = np.concatenate(columns, 2)
    grey_HW = np.concatenate(list(picture_BHW)).clip(DARKEST, BRIGHTEST)
    grey_HW = (grey_HW - DARKEST) / (BRIGHTEST - DARKEST) * 255
    # With --on-nonfinite skip a run goes on with weights that may restore what is no number: it is black.
    grey_HW = np.nan_to_num(grey_HW, nan=0.0)
    rgb_HW3 = np.repeat(grey_HW.astype(np.uint8)[..., None], 3, 2)
    return Panel(f"{encoder.bands[0]}: tile, shown, restored", rgb_HW3, {})
