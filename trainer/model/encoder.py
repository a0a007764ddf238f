"""The backbone on single patches: some left out, some not attended to, at coordinates of the caller's.

    patches_BNF = patch_pixels(pixels_BCHW, patch_size)     pixels of each patch, row by row
    patches_BVD = embed(backbone, patches_BVF)              one token a patch, of all or of some
    tokens_BND = encode(backbone, patches_BND, places_BN2)  class token, registers, then the patches

With all patches, at the centres that `patch_places` gives, it computes what the backbone's own pass does.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import DINOv3ViTModel

from shards.format.schema import Schema
from shards.format.statistics import Statistics
from trainer.model.normalise import Normalise


class Encoder(nn.Module):
    """Normalisation and backbone."""

    def __init__(
        self, schema: Schema, bands: tuple[str, ...], statistics: Statistics, backbone: DINOv3ViTModel
    ) -> None:
        """Args:
        schema: format of the images that are put in.
        bands: bands that the backbone sees, in its order.
        statistics: statistics of the training tiles.
        backbone: a backbone with len(bands) input channels.
        """
        super().__init__()
        self.schema, self.bands, self.statistics = schema, bands, statistics
        self.normalise, self.backbone = Normalise(schema, bands, statistics), backbone
        self.patch_size = int(backbone.config.patch_size)  # type: ignore[arg-type]
        self.width = int(backbone.config.hidden_size)

    def forward(
        self,
        pixels_BCHW: Tensor,
        places_BN2: Tensor | None = None,
        attended_BN: Tensor | None = None,
        factors_BL: Tensor | None = None,
        hidden_BN: Tensor | None = None,
    ) -> Tensor:
        """Return tokens_BND of all patches of normalised pixels; see `encode`.

        The mask token takes the place of patches of `hidden_BN`.
        """
        patches_BND = embed(self.backbone, patch_pixels(pixels_BCHW, self.patch_size))
        if hidden_BN is not None:
            mask_token = self.backbone.embeddings.mask_token.to(patches_BND.dtype)
            patches_BND = torch.where(hidden_BN[..., None], mask_token, patches_BND)
        if places_BN2 is None:
            places_BN2 = patch_places(self.grid(pixels_BCHW), pixels_BCHW.device)[None]
        return encode(self.backbone, patches_BND, places_BN2, attended_BN, factors_BL)

    def grid(self, pixels_BCHW: Tensor) -> tuple[int, int]:
        """Return the rows and columns of patches."""
        rows, columns = (side // self.patch_size for side in pixels_BCHW.shape[-2:])
        return rows, columns

    def summaries(self, pixels_BCHW: Tensor, valid_BHW: Tensor, is_whole: bool | None = None) -> Tensor:
        """Return summaries_BF: each tile's class token, then the mean token of its valid patches.

        For `is_whole` see `attended`.
        """
        valid_BN = patches_valid(valid_BHW, self.patch_size)
        tokens_BND = self(pixels_BCHW, attended_BN=attended(valid_BN, is_whole)).float()
        patches_BND = tokens_BND[:, -valid_BN.shape[1] :]
        weights_BN1 = valid_BN[..., None].float()
        mean_BD = (patches_BND * weights_BN1).sum(1) / weights_BN1.sum(1).clamp(min=1)
        return torch.cat([tokens_BND[:, 0], mean_BD], 1)


def patch_pixels(pixels_BCHW: Tensor, patch_size: int) -> Tensor:
    """Return patches_BNF: the pixels of each patch, row by row, all bands of a pixel together."""
    cut_BCRPKQ = pixels_BCHW.unflatten(2, (-1, patch_size)).unflatten(4, (-1, patch_size))
    patches_BNF: Tensor = cut_BCRPKQ.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return patches_BNF


def embed(backbone: DINOv3ViTModel, patches_BVF: Tensor) -> Tensor:
    """Return patches_BVD: patches of normalised pixels, embedded; see `patch_pixels`.

    It is the backbone's own convolution, which has one place for each patch, as a product of matrices. On a
    CPU that takes half of the time, and patches can be left out.
    """
    embedding = backbone.embeddings.patch_embeddings
    weight_DF = embedding.weight.permute(0, 2, 3, 1).flatten(1)
    embedded_BVD: Tensor = linear(patches_BVF, weight_DF, embedding.bias)
    return embedded_BVD


def patch_places(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return places_N2: (row, column) of each patch's centre, from -1 to 1 over the image, as in DINOv3."""
    axes = [2 * ((torch.arange(count, device=device) + 0.5) / count) - 1 for count in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)


def patches_valid(valid_BHW: Tensor, patch_size: int) -> Tensor:
    """Return valid_BN: the patches in which at least half of the pixels are valid."""
    patches_BHWPQ = valid_BHW.unflatten(1, (-1, patch_size)).unflatten(3, (-1, patch_size)).movedim(2, 3)
    valid_BHW = patches_BHWPQ.float().mean((3, 4)) >= 0.5
    return valid_BHW.flatten(1)


def attended(valid_BN: Tensor, is_whole: bool | None = None) -> Tensor | None:
    """Return the patches to attend to: valid_BN, or None where all are valid.

    Attention is faster without a mask, with the same bits on a CPU.

    Args:
        valid_BN: patches that are valid.
        is_whole: whether no pixel is missing; None: not known, so the host waits for the device to tell.
    """
    if is_whole is None:
        is_whole = bool(valid_BN.all())
    return None if is_whole else valid_BN


def encode(
    backbone: DINOv3ViTModel,
    patches_BND: Tensor,
    places_BN2: Tensor,
    attended_BN: Tensor | None = None,
    factors_BL: Tensor | None = None,
) -> Tensor:
    """Run the backbone's blocks and its final norm.

    Args:
        backbone: a DINOv3.
        patches_BND: embedded patches, any number.
        places_BN2: their coordinates, see `patch_places`; B may be 1.
        attended_BN: patches that others attend to (see `attended`); default: all.
        factors_BL: see `run_blocks`.

    Returns:
        tokens_BND: class token, registers, then the patches.
    """
    count = len(patches_BND)
    embeddings = backbone.embeddings
    prefix = torch.cat([embeddings.cls_token, embeddings.register_tokens], 1).expand(count, -1, -1)
    tokens_BND = torch.cat([prefix.to(patches_BND.dtype), patches_BND], 1)
    if attended_BN is not None:
        attended_BN = torch.cat([attended_BN.new_ones(count, prefix.shape[1]), attended_BN], 1)
    return run_blocks(backbone, tokens_BND, places_BN2, attended_BN, factors_BL)


def run_blocks(
    backbone: DINOv3ViTModel,
    tokens_BND: Tensor,
    places_BN2: Tensor,
    attended_BN: Tensor | None = None,
    factors_BL: Tensor | None = None,
) -> Tensor:
    """Run blocks and final norm on tokens, of which the last ones have places.

    Args:
        backbone: a DINOv3.
        tokens_BND: class token, registers and patches.
        places_BN2: coordinates of the patches; B may be 1.
        attended_BN: tokens that others attend to; default: all.
        factors_BL: factors by which each of L blocks changes the tokens, 0 to skip it; default: 1.
    """
    mask_B11N = None if attended_BN is None else attended_BN[:, None, None]
    # The rotary positions of DINOv3: each pair of numbers turns by 2 pi x coordinate x frequency.
    frequencies_F = backbone.rope_embeddings.inv_freq
    angles_BND = (2 * math.pi * places_BN2[..., None] * frequencies_F).flatten(2).tile(2)[:, None]
    position = angles_BND.cos().to(tokens_BND.dtype), angles_BND.sin().to(tokens_BND.dtype)
    for number, block in enumerate(backbone.model.layer):
        changed_BND = block(tokens_BND, attention_mask=mask_B11N, position_embeddings=position)
        if factors_BL is not None:
            factor_B11 = factors_BL[:, number, None, None].to(changed_BND.dtype)
            changed_BND = tokens_BND + factor_B11 * (changed_BND - tokens_BND)
        tokens_BND = changed_BND
    normed: Tensor = backbone.norm(tokens_BND)
    return normed


def band_features(pixels_BCHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """Return features_BF that any model should beat: mean and deviation of each band's valid pixels."""
    weights_B1HW = valid_BHW[:, None].float()
    count_BC = weights_B1HW.sum((2, 3)).clamp(min=1)
    mean_BC = (pixels_BCHW * weights_B1HW).sum((2, 3)) / count_BC
    away_BCHW = (pixels_BCHW - mean_BC[..., None, None]) * weights_B1HW
    deviation_BC = (away_BCHW.square().sum((2, 3)) / count_BC).sqrt()
    return torch.cat([mean_BC, deviation_BC], 1)
