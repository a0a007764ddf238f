"""The `detail` decoder: the backbone's tokens say what stands there, thin convolutions say where it ends.

A patch of 16 pixels of 2 m is 32 m wide, so its token cannot locate the edge of a crown 5 m wide. Therefore
a U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with few channels reads the pixels, and the tokens enter
at its bottom. Each size in the upper row also feeds the same size in the lower row (a skip connection):

    pixels -> 1/1 -> 1/2 -> ... -> 1/patch
    tokens ----------------------> 1/patch -> ... -> 1/2 -> 1/1 -> metres
"""

from math import gcd

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from shards.errors import InputError
from trainer.decoders.batch_norm import BatchNorm
from trainer.decoders.chip_dropout import ChannelDropout
from trainer.decoders.features import (
    Decoder,
    DecoderConfig,
    Features,
    as_returned,
    memory_format,
    start_output,
)

FINE_SIZES = 2
"""Number of sizes, 1/1 and 1/2, that have two convolutions instead of one, since edges lie there."""


def _convolutions(
    width_in: int, width: int, size: int, config: DecoderConfig, stride: int = 1
) -> nn.Sequential:
    """Make the 3x3 convolutions at 1/2^`size`, each with norm and GELU; a stride of 2 halves the sides."""
    layers: list[nn.Module] = []
    for _ in range(2 if size < FINE_SIZES else 1):
        # With group norm a chip's result does not depend on the batch that it is in.
        norm = BatchNorm(width) if config.norm == "batch" else nn.GroupNorm(gcd(8, width), width)
        layers += (nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False), norm, nn.GELU("tanh"))
        width_in, stride = width, 1
    return nn.Sequential(*layers)


class Rise(nn.Module):
    """Enlarge features to 1/2^`size`, twice their size, and mix them with the skipped features there."""

    def __init__(self, width_in: int, width: int, size: int, config: DecoderConfig) -> None:
        super().__init__()
        # Narrowing before enlarging takes a quarter of the work.
        self.narrow = nn.Conv2d(width_in, width, 1)
        self.mix = _convolutions(2 * width, width, size, config)

    def forward(self, below_BCHW: Tensor, skipped_BCHW: Tensor) -> Tensor:
        """Return features in the size of `skipped_BCHW`."""
        risen_BCHW = interpolate(self.narrow(below_BCHW), skipped_BCHW.shape[-2:], mode="bilinear")
        mixed: Tensor = self.mix(torch.cat((risen_BCHW, skipped_BCHW), 1))
        return mixed


class DetailDecoder(Decoder):
    """Heights from the last layer's patches, whose side is a power of 2, and from the pixels themselves.

    `widths` belong to 1/(patch/2), ..., 1/2, 1/1; the tokens enter at 1/patch with the first width. If there
    are more widths than the patch has doublings, only the last ones count, so `upsample` changes no width.
    """

    def __init__(self, config: DecoderConfig, depth: int, token_width: int, patch: int, bands: int) -> None:
        """Take the same arguments as `trainer.decoders.make.new_decoder`."""
        super().__init__()
        doublings = patch.bit_length() - 1
        if 2**doublings != patch or not 0 < doublings <= len(config.widths):
            raise InputError(
                f"the detail decoder needs patches whose side is a power of 2 and a width for each doubling, "
                f"not {patch} and {config.widths}"
            )
        self.layers, self.norm = (depth,), config.norm
        fine = config.widths[::-1][:doublings]
        bottom = fine[-1]
        widths = (*fine, bottom)
        sizes = range(doublings)
        self.tokens = nn.Sequential(nn.Conv2d(token_width, bottom, 1), ChannelDropout(config.dropout, bottom))
        self.entry = _convolutions(bands, fine[0], 0, config)
        self.falls = nn.ModuleList(
            _convolutions(widths[i], widths[i + 1], i + 1, config, stride=2) for i in sizes
        )
        # Dropout at the bottom alone: the few weights above it cannot memorise, the many at it can.
        self.bottom = nn.Sequential(
            _convolutions(2 * bottom, bottom, doublings, config), ChannelDropout(config.dropout, bottom)
        )
        self.rises = nn.ModuleList(Rise(widths[i + 1], widths[i], i, config) for i in reversed(sizes))
        self.head = nn.Conv2d(fine[0], config.outputs, 1)

    @property
    def output(self) -> nn.Conv2d:
        """Last layer: channels -> metres, or logits."""
        return self.head

    def start_at(self, *starts: float) -> None:
        """Initialise the output layer; see Decoder."""
        start_output(self.head, starts, 0.02)

    def forward(self, features: Features, pixels_BCHW: Tensor) -> Tensor:
        """Return height_BHW in metres, unclamped, or maps_BKHW; see Decoder."""
        layout = memory_format(pixels_BCHW.device, self.norm)
        seen = [self.entry(pixels_BCHW.contiguous(memory_format=layout))]
        for fall in self.falls:
            seen.append(fall(seen[-1]))
        tokens_BCHW = self.tokens(features.patches[-1].contiguous(memory_format=layout))
        features_BCHW = self.bottom(torch.cat((tokens_BCHW, seen.pop()), 1))
        for rise in self.rises:
            features_BCHW = rise(features_BCHW, seen.pop())
        return as_returned(self.head(features_BCHW))
