"""Dropout that depends on the chip alone, not on how many workers or pieces share the batch.

torch's Dropout2d draws one number after another for the batch that a process holds, so the draws change with
the number of workers. Here each chip has a number, drawn for its place in the global batch; a hash of that
number, the layer and the channel decides what is dropped.

    chip_numbers(64, seed, epoch, seen)         for a global batch
    use_numbers(regressor, numbers_B)           before the forward pass of some of its chips
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_BITS = 32
_MASK = 2**_BITS - 1
_DROPOUT_KEY = 0xD809
"""Part of the generator's key that sets dropout apart from augmentation, which shares the other parts."""


def chip_numbers(count: int, seed: int, epoch: int, seen: int) -> NDArray[np.int64]:
    """Draw (count,) numbers below 2^32, one for each chip of a global batch."""
    return np.random.default_rng((seed, epoch, seen, _DROPOUT_KEY)).integers(_MASK + 1, size=count)


class ChannelDropout(nn.Module):
    """Dropout that zeroes each channel of each chip with probability `share`, and scales up the others.

    Like torch's Dropout2d (Tompson et al. 2014, arXiv:1411.4280, section 3.2) it acts in train mode only;
    it differs in the draw. Unless `use_numbers` gave the chips' numbers, torch's generator draws them.
    """

    def __init__(self, share: float) -> None:
        """Args:
        share: probability, 0 or more and below 1.
        """
        super().__init__()
        self.share = share
        # Not a buffer: DistributedDataParallel would copy the first rank's numbers to every rank.
        self.numbers_B: Tensor | None = None

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Drop channels while training; the shape stays the same."""
        if not self.training or not self.share:
            return features_BCHW
        count, channels = features_BCHW.shape[:2]
        numbers_B = self.numbers_B
        if numbers_B is None:
            numbers_B = torch.randint(_MASK + 1, (count,), device=features_BCHW.device)
        channel_numbers_C = _mixed(torch.arange(channels, device=features_BCHW.device))
        drawn_BC = _mixed(numbers_B[:, None] ^ channel_numbers_C)
        kept_BC = (drawn_BC >= int(self.share * (_MASK + 1))).to(features_BCHW.dtype) / (1 - self.share)
        return features_BCHW * kept_BC[:, :, None, None]

    def extra_repr(self) -> str:
        """Describe the module's options for its repr."""
        return f"share={self.share}"


def use_numbers(module: nn.Module, numbers_B: Tensor | None) -> None:
    """Make each dropout in `module` use these numbers (B,) int64 of the next batch's chips; None: none."""
    layers = (layer for layer in module.modules() if isinstance(layer, ChannelDropout))
    for number, layer in enumerate(layers):
        layer.numbers_B = None if numbers_B is None else _mixed(numbers_B + number)


def _mixed(numbers: Tensor) -> Tensor:
    """Hash int64 numbers below 2^32 to other such numbers; each bit out depends on every bit in.

    This is lowbias32 of Chris Wellons (nullprogram.com/blog/2018/07/31), a bijection. Products wrap at
    64 bits, of which only the lower 32 matter.
    """
    numbers = numbers & _MASK
    numbers = numbers ^ (numbers >> 16)
    numbers = (numbers * 0x7FEB352D) & _MASK
    numbers = numbers ^ (numbers >> 15)
    numbers = (numbers * 0x846CA68B) & _MASK
    return numbers ^ (numbers >> 16)
