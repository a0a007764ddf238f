"""The masked autoencoder (He et al. 2021, arXiv:2111.06377): some patches in, the pixels of the others out.

The encoder sees the shown patches alone. The decoder gets their tokens, and the mask token, which learns, at
the place of every hidden patch. Positions are rotary, as in the backbone. The loss compares pixels
of hidden patches; missing pixels are no targets, and patches of missing pixels are not attended to.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.devices.learner import Learner
from trainer.devices.sharding import Blocks
from trainer.model.backbone import build_backbone
from trainer.model.encoder import Encoder, embed, encode, patch_places, run_blocks

EPSILON = 1e-6
"""Number added to a patch's variance, as in the paper's own code."""
HEADS = 6


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
        return Blocks([*self.encoder.backbone.model.layer, *self.decoder.model.layer], self.output)

    def compiled(self) -> Sequence[nn.Module]:
        """See Learner."""
        return [*self.encoder.backbone.model.layer, *self.decoder.model.layer]

    def forward(self, pixels_BCHW: Tensor, valid_BN: Tensor, shown_BV: Tensor) -> Tensor:
        """Return restored_BNF, float32: the pixels of every patch, as `patch_pixels` orders them.

        Args:
            pixels_BCHW: normalised pixels.
            valid_BN: patches that are attended to.
            shown_BV: numbers of the patches that the encoder sees.
        """
        places_N2 = patch_places(self.encoder.grid(pixels_BCHW), pixels_BCHW.device)
        patches_BND = embed(self.encoder.backbone, pixels_BCHW)
        attended_BV = valid_BN.gather(1, shown_BV)
        tokens_BND = encode(
            self.encoder.backbone, _take(patches_BND, shown_BV), places_N2[shown_BV], attended_BV
        )
        # In float32: with bfloat16 here, losses of long trainings become NaN (users of the paper's own code).
        with torch.autocast(pixels_BCHW.device.type, enabled=False):
            return self._decoded(tokens_BND.float(), valid_BN, shown_BV, places_N2)

    def _decoded(self, tokens_BND: Tensor, valid_BN: Tensor, shown_BV: Tensor, places_N2: Tensor) -> Tensor:
        narrow_BND = self.narrow(tokens_BND)
        prefix = narrow_BND.shape[1] - shown_BV.shape[1]
        hidden_BND = self.decoder.embeddings.mask_token.expand(*valid_BN.shape, -1)
        at_BVD = shown_BV[..., None].expand(-1, -1, hidden_BND.shape[-1])
        all_BND = torch.cat(
            [narrow_BND[:, :prefix], hidden_BND.scatter(1, at_BVD, narrow_BND[:, prefix:])], 1
        )
        attended_BN = torch.cat([valid_BN.new_ones(len(valid_BN), prefix), valid_BN], 1)
        decoded_BND = run_blocks(self.decoder, all_BND, places_N2[None], attended_BN)
        restored_BNF: Tensor = self.output(decoded_BND[:, prefix:])
        return restored_BNF


def _take(values_BND: Tensor, numbers_BV: Tensor) -> Tensor:
    return values_BND.gather(1, numbers_BV[..., None].expand(-1, -1, values_BND.shape[-1]))


def patch_pixels(pixels_BCHW: Tensor, patch_size: int) -> Tensor:
    """Return patches_BNF: the pixels of each patch, row by row, all bands of a pixel together."""
    cut_BCRPKQ = pixels_BCHW.unflatten(2, (-1, patch_size)).unflatten(4, (-1, patch_size))
    patches_BNF: Tensor = cut_BCRPKQ.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return patches_BNF


def restoring_sums(restored_BNF: Tensor, target_BNF: Tensor, known_BNF: Tensor) -> Tensor:
    """Return (sum of squared errors, number of values) over the values that count, in float64.

    Args:
        restored_BNF: the decoder's output.
        target_BNF: pixels of each patch, perhaps normalised.
        known_BNF: values that count: hidden ones that are not missing.
    """
    errors_BNF = (restored_BNF - target_BNF).square() * known_BNF
    return torch.stack([errors_BNF.sum().double(), known_BNF.sum().double()])


def normalised_patches(target_BNF: Tensor, present_BNF: Tensor) -> Tensor:
    """Return each patch less its mean and divided by its deviation, over the values present; 0 elsewhere."""
    mean_BN1, deviation_BN1 = patch_moments(target_BNF, present_BNF)
    return (target_BNF - mean_BN1) * present_BNF / deviation_BN1


def patch_moments(target_BNF: Tensor, present_BNF: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean_BN1 and deviation_BN1 (n - 1, never 0) of each patch, over the values present."""
    count_BN1 = present_BNF.sum(-1, keepdim=True).clamp(min=2)
    mean_BN1 = (target_BNF * present_BNF).sum(-1, keepdim=True) / count_BN1
    away_BNF = (target_BNF - mean_BN1) * present_BNF
    variance_BN1 = away_BNF.square().sum(-1, keepdim=True) / (count_BN1 - 1)
    return mean_BN1, (variance_BN1 + EPSILON).sqrt()
