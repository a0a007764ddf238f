"""The `residual` decoder: four doublings of the patch grid, with residual blocks and channel attention.

Module names are the same as in the notebook's decoder, so users' weights load as they are:

    0, 2, 4, 6   doubling: transposed convolution 4x4, norm, LeakyReLU 0.1, dropout of channels
    1, 3, 5, 7   two residual blocks, in 5 and 7 with channel attention
    8            head: three convolutions 3x3 and one 1x1 to metres
"""

from math import gcd

from torch import Tensor, nn

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

NOTEBOOK_WIDTHS = (512, 256, 128, 64)
SLOPE = 0.1
"""Slope of LeakyReLU below 0."""
REDUCTION = 16
"""Factor by which channel attention squeezes the width."""
DOUBLINGS = 4
"""Doublings from one token a patch to one height a pixel: a patch has 2^4 = 16 pixels a side."""


def _norm(kind: str, width: int) -> nn.Module:
    """Make a norm; with group norm a chip's result does not depend on the batch that it is in."""
    return BatchNorm(width) if kind == "batch" else nn.GroupNorm(gcd(8, width), width)


class ChannelAttention(nn.Module):
    """Channel weights (0..1), computed from the channels' means and applied (squeeze and excitation)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = max(1, width // REDUCTION)
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, narrow, 1),
            nn.ReLU(),
            nn.Conv2d(narrow, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Weigh the channels; the shape stays the same."""
        weighted: Tensor = features_BCHW * self.attention(features_BCHW)
        return weighted


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and, optionally, channel attention, added to the input."""

    def __init__(self, width: int, norm: str, dropout: float, attention: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), _norm(norm, width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), _norm(norm, width)
        self.attention = ChannelAttention(width) if attention else nn.Identity()
        self.activation, self.dropout = nn.LeakyReLU(SLOPE), ChannelDropout(dropout, width)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Apply the block; the shape stays the same."""
        inner = self.dropout(self.activation(self.bn1(self.conv1(features_BCHW))))
        inner = self.attention(self.bn2(self.conv2(inner)))
        result: Tensor = self.activation(features_BCHW + inner)
        return result


def _doubling(width_in: int, width: int, norm: str, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(width_in, width, 4, stride=2, padding=1),
        _norm(norm, width),
        nn.LeakyReLU(SLOPE),
        ChannelDropout(dropout, width),
    )


def _head(width: int, config: DecoderConfig) -> nn.Sequential:
    norm, dropout = config.norm, config.dropout
    wide, narrow = 2 * width, max(1, width // 2)
    return nn.Sequential(
        nn.Conv2d(width, wide, 3, padding=1),
        _norm(norm, wide),
        nn.LeakyReLU(SLOPE),
        ChannelDropout(dropout, wide),
        ChannelAttention(wide),
        nn.Conv2d(wide, width, 3, padding=1),
        _norm(norm, width),
        nn.LeakyReLU(SLOPE),
        ChannelDropout(dropout, width),
        nn.Conv2d(width, narrow, 3, padding=1),
        _norm(norm, narrow),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(narrow, config.outputs, 1),
    )


class ResidualDecoder(nn.Sequential, Decoder):
    """Heights from the last layer's patches of 16 x 16 pixels."""

    def __init__(self, config: DecoderConfig, depth: int, token_width: int, patch: int) -> None:
        """Take the same arguments as `trainer.decoders.make.new_decoder`."""
        widths, norm, dropout = config.widths, config.norm, config.dropout
        if patch != 2**DOUBLINGS or len(widths) != DOUBLINGS:
            raise InputError(
                f"the residual decoder needs patches of 16 and 4 widths, not {patch} and {widths}"
            )
        stages: list[nn.Module] = []
        for stage, width in enumerate(widths):
            attention = stage >= DOUBLINGS - 2
            blocks = (ResidualBlock(width, norm, dropout, attention) for _ in range(2))
            stages += (_doubling(token_width, width, norm, dropout), nn.Sequential(*blocks))
            token_width = width
        super().__init__(*stages, _head(widths[-1], config))
        self.layers, self.norm = (depth,), norm

    def forward(self, features: Features, pixels_BCHW: Tensor) -> Tensor:  # type: ignore[override]
        """Return height_BHW in metres, unclamped, or maps_BKHW; see Decoder."""
        patches_BDHW = features.patches[-1]
        layout = memory_format(patches_BDHW.device, self.norm)
        return as_returned(super().forward(patches_BDHW.contiguous(memory_format=layout)))

    @property
    def output(self) -> nn.Conv2d:
        """Last layer: channels -> metres, or logits."""
        head = self[-1]
        assert isinstance(head, nn.Sequential)
        output = head[-1]
        assert isinstance(output, nn.Conv2d)
        return output

    def start_at(self, *starts: float) -> None:
        """Initialise the output layer; see Decoder."""
        start_output(self.output, starts, 0.02)
