"""Dropout whose choice is each chip's own, so that it is the same for any number of workers and pieces.

torch's Dropout2d draws one number after the other for the batch that a process has: other workers, other
draws. Here a chip's number, drawn for its place in the global batch, is hashed with layer and channel.

    chip_numbers(64, seed, epoch, seen)         for a global batch
    use_numbers(regressor, numbers_B)           before the forward pass of some of its chips
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_BITS = 32
_MASK = 2**_BITS - 1
_OF_DROPOUT = 0xD809
"""Told to the generator beside seed, epoch and chips met, from which augmentation draws as well."""


def chip_numbers(count: int, seed: int, epoch: int, seen: int) -> NDArray[np.int64]:
    """(count,) numbers below 2^32, one for each chip of a global batch."""
    return np.random.default_rng((seed, epoch, seen, _OF_DROPOUT)).integers(_MASK + 1, size=count)


class ChannelDropout(nn.Module):
    """While training sets each channel of each chip to 0 with probability `share`, and scales up the others.

    As torch's Dropout2d (Tompson et al. 2014, arXiv:1411.4280, section 3.2), but for the draw. Without
    numbers (see `use_numbers`) those of the chips are drawn from torch's generator.
    """

    def __init__(self, share: float) -> None:
        """Args:
        share: 0..1, below 1.
        """
        super().__init__()
        self.share = share
        # No buffer: DistributedDataParallel would give every rank those of the first.
        self.numbers_B: Tensor | None = None

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Same shape."""
        if not self.training or not self.share:
            return features_BCHW
        count, channels = features_BCHW.shape[:2]
        numbers_B = self.numbers_B
        if numbers_B is None:
            numbers_B = torch.randint(_MASK + 1, (count,), device=features_BCHW.device)
        of_channels_C = _mixed(torch.arange(channels, device=features_BCHW.device))
        drawn_BC = _mixed(numbers_B[:, None] ^ of_channels_C)
        kept_BC = (drawn_BC >= int(self.share * (_MASK + 1))).to(features_BCHW.dtype) / (1 - self.share)
        return features_BCHW * kept_BC[:, :, None, None]

    def extra_repr(self) -> str:
        """As torch's modules say what they are."""
        return f"share={self.share}"


def use_numbers(module: nn.Module, numbers_B: Tensor | None) -> None:
    """Let each dropout in `module` draw from these numbers (B,) int64 of the next batch's chips."""
    layers = (layer for layer in module.modules() if isinstance(layer, ChannelDropout))
    for number, layer in enumerate(layers):
        layer.numbers_B = None if numbers_B is None else _mixed(numbers_B + number)


def _mixed(numbers: Tensor) -> Tensor:
    """Numbers below 2^32, int64 -> such numbers, in which each bit depends on each.

    lowbias32 of Chris Wellons (nullprogram.com/blog/2018/07/31): a bijection; products wrap at 64 bits, of
    which the lower 32 count.
    """
    numbers = numbers & _MASK
    numbers = numbers ^ (numbers >> 16)
    numbers = (numbers * 0x7FEB352D) & _MASK
    numbers = numbers ^ (numbers >> 15)
    numbers = (numbers * 0x846CA68B) & _MASK
    return numbers ^ (numbers >> 16)
