"""The masked autoencoder (He et al. 2021, arXiv:2111.06377): some patches in, the pixels of the others out.

The encoder sees the shown patches alone. The decoder gets their tokens, and the mask token, which learns, at
the place of every hidden patch. Positions are rotary, as in the backbone. The loss compares pixels
of hidden patches; missing pixels are no targets, and patches of missing pixels are not attended to.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.devices.choice import Precision
from trainer.devices.learner import Learner
from trainer.devices.rounding import round_together
from trainer.devices.sharding import Blocks
from trainer.model.backbone import build_backbone
from trainer.model.encoder import Encoder, attended, embed, encode, patch_places, run_blocks
from trainer.model.frozen_backbone import matrices_of

EPSILON = 1e-6
"""Number added to a patch's variance, as in the paper's own code."""
HEADS = 6
WIDTH_STEP = 4 * HEADS
"""Widths are multiples of it: each head turns pairs of numbers, by rows and by columns."""


class Masked(Learner):
    """Encoder and decoder."""

    def __init__(self, encoder: Encoder, width: int, depth: int) -> None:
        """Args:
        encoder: normalisation and backbone.
        width: width of the decoder.
        depth: blocks of the decoder.
        """
        super().__init__()
        self.encoder = encoder
        self.decoder = build_backbone(
            {
                "hidden_size": width,
                "intermediate_size": 4 * width,
                "num_hidden_layers": depth,
                "num_attention_heads": HEADS,
                "num_register_tokens": 0,
                "patch_size": encoder.patch_size,
                "num_channels": 1,
            }
        )
        self.decoder.embeddings.requires_grad_(False)  # only its mask token is used
        self.decoder.embeddings.mask_token.requires_grad_(True)
        nn.init.trunc_normal_(self.decoder.embeddings.mask_token, std=0.02)
        encoder.backbone.embeddings.mask_token.requires_grad_(False)
        self.narrow = nn.Linear(encoder.width, width)
        self.output = nn.Linear(width, len(encoder.bands) * encoder.patch_size**2)

    def blocks(self) -> Blocks:
        """See Learner."""
        layers = [*self.encoder.backbone.model.layer, *self.decoder.model.layer]
        matrices = matrices_of(self.encoder.backbone.model.layer)  # the decoder computes in float32
        return Blocks(layers, self.output, ("summaries",), matrices)

    def round_together(self, precision: Precision) -> None:
        """See Learner."""
        for layer in self.encoder.backbone.model.layer:
            round_together(layer, precision)

    def compiled(self) -> Sequence[nn.Module]:
        """See Learner."""
        return [*self.encoder.backbone.model.layer, *self.decoder.model.layer]

    def forward(
        self,
        patches_BNF: Tensor,
        grid: tuple[int, int],
        valid_BN: Tensor,
        shown_BV: Tensor,
        wanted_BM: Tensor | None = None,
        is_whole: bool | None = None,
    ) -> Tensor:
        """Return restored_BMF, float32: the pixels of the wanted patches.

        Args:
            patches_BNF: normalised pixels of all patches, see `trainer.model.encoder.patch_pixels`; those of
                patches that are not shown are not read.
            grid: rows and columns of patches.
            valid_BN: patches that are attended to.
            shown_BV: numbers of the patches that the encoder sees.
            wanted_BM: numbers of the patches to restore; default: all.
            is_whole: whether no pixel is missing; see trainer.model.encoder.attended.
        """
        places_N2 = patch_places(grid, patches_BNF.device)
        shown_BVD = embed(self.encoder.backbone, take(patches_BNF, shown_BV))
        attended_BV = attended(valid_BN.gather(1, shown_BV), is_whole)
        tokens_BND = encode(self.encoder.backbone, shown_BVD, places_N2[shown_BV], attended_BV)
        # In float32: users of the paper's own code report that bfloat16 here makes long trainings NaN.
        with torch.autocast(patches_BNF.device.type, enabled=False):
            decoded_BND = self._decoded(tokens_BND.float(), valid_BN, shown_BV, places_N2, is_whole)
            restored_BMF: Tensor = self.output(
                decoded_BND if wanted_BM is None else take(decoded_BND, wanted_BM)
            )
        return restored_BMF

    def summaries(self, pixels_BCHW: Tensor, valid_BHW: Tensor, is_whole: bool | None = None) -> Tensor:
        """Return summaries_BF of tiles by the encoder; see Encoder."""
        return self.encoder.summaries(pixels_BCHW, valid_BHW, is_whole)

    def _decoded(
        self,
        tokens_BND: Tensor,
        valid_BN: Tensor,
        shown_BV: Tensor,
        places_N2: Tensor,
        is_whole: bool | None,
    ) -> Tensor:
        narrow_BND = self.narrow(tokens_BND)
        prefix = narrow_BND.shape[1] - shown_BV.shape[1]
        hidden_BND = self.decoder.embeddings.mask_token.expand(*valid_BN.shape, -1)
        at_BVD = shown_BV[..., None].expand(-1, -1, hidden_BND.shape[-1])
        all_BND = torch.cat(
            [narrow_BND[:, :prefix], hidden_BND.scatter(1, at_BVD, narrow_BND[:, prefix:])], 1
        )
        attended_BN = attended(valid_BN, is_whole)
        if attended_BN is not None:
            attended_BN = torch.cat([valid_BN.new_ones(len(valid_BN), prefix), valid_BN], 1)
        decoded_BND = run_blocks(self.decoder, all_BND, places_N2[None], attended_BN)
        return decoded_BND[:, prefix:]


def half_width(width: int) -> int:
    """Return half of a backbone's width as a decoder's, rounded down to whole steps but one at least."""
    return max(1, width // 2 // WIDTH_STEP) * WIDTH_STEP


def take(values_BND: Tensor, numbers_BV: Tensor) -> Tensor:
    """Return values_BVD: those with these numbers."""
    return values_BND.gather(1, numbers_BV[..., None].expand(-1, -1, values_BND.shape[-1]))


def restoring_sums(restored_BMPC: Tensor, target_BMPC: Tensor, counts_BMPC: Tensor) -> Tensor:
    """Return (sum of squared errors, number of values) over the values that count, in float64.

    Args:
        restored_BMPC: the decoder's output: pixels (P) of each patch, and their bands (C).
        target_BMPC: pixels of each patch, perhaps normalised.
        counts_BMPC: values that count: hidden ones that are not missing. C may be 1.
    """
    errors_BMPC = (restored_BMPC - target_BMPC).square() * counts_BMPC
    return torch.stack([errors_BMPC.sum().double(), restored_values(counts_BMPC, restored_BMPC.shape[-1])])


def restored_values(counts_BMPC: Tensor, bands: int) -> Tensor:
    """Return the number of values that count, float64; where C is 1, those of all bands."""
    return bands // counts_BMPC.shape[-1] * counts_BMPC.sum().double()


def normalised_patches(target_BMPC: Tensor, present_BMP: Tensor) -> Tensor:
    """Return each patch less its mean and divided by its deviation, over the pixels present; 0 elsewhere."""
    mean_BM11, deviation_BM11 = patch_moments(target_BMPC, present_BMP)
    return (target_BMPC - mean_BM11) * (present_BMP[..., None] / deviation_BM11)


def patch_moments(target_BMPC: Tensor, present_BMP: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean_BM11 and deviation_BM11 (n - 1, never 0) of each patch's values in pixels present."""
    present_BMP1 = present_BMP[..., None]
    count_BM11 = (present_BMP1.sum((2, 3), keepdim=True) * target_BMPC.shape[-1]).clamp(min=2)
    mean_BM11 = (target_BMPC * present_BMP1).sum((2, 3), keepdim=True) / count_BM11
    away_BMPC = (target_BMPC - mean_BM11) * present_BMP1
    variance_BM11 = away_BMPC.square().sum((2, 3), keepdim=True) / (count_BM11 - 1)
    return mean_BM11, (variance_BM11 + EPSILON).sqrt()
