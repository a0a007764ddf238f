"""The `unet` decoder: a U-Net over the pixels, to whose bottom the tokens are added.

    pixels -> 1/1 -> 1/2 -> 1/4 -> 1/8
    tokens -> 1/patch ------------> +  -> 1/4 -> 1/2 -> 1/1 -> heights

A U-Net (Ronneberger et al. 2015, arXiv:1505.04597) sees crowns, gaps and shadows; tokens of a good backbone
know more about what stands there. They come in through a projection that starts at 0: beside a useless
backbone this is a U-Net, and a good one can only add to it. The numbers that the network computes are in
deviations from the mean of the training heights, so that it starts at the mean and no layer has to grow.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from shards.errors import InputError
from trainer.decoders.chip_dropout import ChannelDropout
from trainer.decoders.features import Decoder, DecoderConfig, Features, as_returned, memory_format
from trainer.decoders.norms import norm_of


def level(width_in: int, width: int, norm: str) -> nn.Sequential:
    """Make the two 3x3 convolutions at one size, each with norm and ReLU.

    A second convolution that is separable and adds to the first takes a quarter less time, and learns less in
    it (docs/accuracy.md).

    Args:
        width_in: channels of the input.
        width: channels of the output.
        norm: normalisation, as in DecoderConfig.
    """
    layers: list[nn.Module] = []
    for width_of_input in (width_in, width):
        convolution = nn.Conv2d(width_of_input, width, 3, padding=1, bias=False)
        layers += (convolution, norm_of(norm, width), nn.ReLU())
    return nn.Sequential(*layers)


class Rise(nn.Module):
    """Enlarge features to twice their size, and mix them with the skipped features there."""

    def __init__(self, width_in: int, width: int, norm: str) -> None:
        """Take the arguments of `level`."""
        super().__init__()
        # Narrowing before enlarging takes a quarter of the work.
        self.narrow = nn.Conv2d(width_in, width, 1)
        self.level = level(2 * width, width, norm)

    def forward(self, below_BCHW: Tensor, skipped_BCHW: Tensor) -> Tensor:
        """Return features in the size of `skipped_BCHW`."""
        risen_BCHW = interpolate(self.narrow(below_BCHW), skipped_BCHW.shape[-2:], mode="bilinear")
        mixed: Tensor = self.level(torch.cat((risen_BCHW, skipped_BCHW), 1))
        return mixed


class UNetDecoder(Decoder):
    """Heights, or logits, from the pixels and the last layer's patches.

    `widths` belong to the sizes from the bottom to the pixels: (128, 64, 32, 16) has its bottom at 1/8.
    """

    needs_tokens = False
    """See Decoder."""

    def __init__(self, config: DecoderConfig, depth: int, token_width: int, patch: int, bands: int) -> None:
        """Take the same arguments as `trainer.decoders.make.new_decoder`; a depth of 0 is no backbone."""
        super().__init__()
        smallest = 2 ** (len(config.widths) - 1)
        if patch % smallest:
            raise InputError(
                f"the unet decoder of {len(config.widths)} widths goes down to 1/{smallest}, and patches of "
                f"{patch} pixels are no multiple of that; give fewer --decoder-widths"
            )
        self.layers, self.norm = (depth,), config.norm
        fine = config.widths[::-1]
        self.falls = nn.ModuleList(level(*pair, config.norm) for pair in pairwise((bands, *fine)))
        self.tokens = nn.Conv2d(token_width, fine[-1], 1) if depth else None
        if self.tokens:
            _start_at_0(self.tokens)
        self.bottom = ChannelDropout(config.dropout, fine[-1])
        self.rises = nn.ModuleList(Rise(below, width, config.norm) for width, below in pairwise(fine))[::-1]
        self.head = nn.Conv2d(fine[0], config.outputs, 1)
        self._mean, self._deviation = 0.0, 1.0

    @property
    def output(self) -> nn.Conv2d:
        """Last layer: channels -> heights in deviations from the mean, or logits."""
        return self.head

    def start_at(self, *starts: float) -> None:
        """Initialise the output layer; see Decoder."""
        _start_at_0(self.head)
        assert self.head.bias is not None
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor(starts))

    def start_heights(self, mean_m: float, deviation_m: float, high_m: float) -> None:
        """See Decoder: heights start at the mean, and the network computes deviations from it."""
        self.start_at(0.0)
        self._mean, self._deviation = mean_m, deviation_m

    def forward(self, features: Features, pixels_BCHW: Tensor) -> Tensor:
        """Return height_BHW in metres, unclamped, or maps_BKHW; see Decoder."""
        layout = memory_format(pixels_BCHW.device, self.norm)
        features_BCHW, seen = pixels_BCHW.contiguous(memory_format=layout), list[Tensor]()
        for number, fall in enumerate(self.falls):
            features_BCHW = fall(max_pool2d(features_BCHW, 2) if number else features_BCHW)
            seen.append(features_BCHW)
        features_BCHW = seen.pop()
        if self.tokens:
            tokens_BCHW = self.tokens(features.patches[-1].contiguous(memory_format=layout))
            size = features_BCHW.shape[-2:]
            features_BCHW = features_BCHW + interpolate(tokens_BCHW, size, mode="bilinear")
        features_BCHW = self.bottom(features_BCHW)
        for rise in self.rises:
            features_BCHW = rise(features_BCHW, seen.pop())
        # In float32, also where all else is in half precision: a decimetre in 30 m is 1 in 300.
        return as_returned(self._mean + self._deviation * self.head(features_BCHW).float())


def _start_at_0(layer: nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
