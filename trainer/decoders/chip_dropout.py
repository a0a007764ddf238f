"""Dropout that depends on the chip alone, not on how many workers or pieces share the batch.

torch's Dropout2d draws one number after another for the batch that a process holds, so the draws change with
the number of workers. Here each chip has a number, drawn for its place in the global batch; a hash of that
number, the layer and the channel decides what is dropped.

    chip_numbers(64, seed, epoch, seen)         for a global batch
    dropouts = Dropouts(regressor)              once
    dropouts.use(numbers_B)                     before the forward pass of some of its chips
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    it differs in the draw. Unless `Dropouts` gave factors, torch's generator draws numbers for the chips.
    """

    def __init__(self, share: float, channels: int) -> None:
        """Args:
        share: probability, 0 or more and below 1.
        channels: channels of its input.
        """
        super().__init__()
        self.share, self.channels = share, channels
        # Not a buffer: DistributedDataParallel would copy the first rank's factors to every rank.
        self.factors_BC: Tensor | None = None
        """Factors of the next batch's channels: 0, or 1 / (1 - share)."""

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Drop channels while training; the shape stays the same."""
        if not self.training or not self.share:
            return features_BCHW
        factors_BC, device = self.factors_BC, features_BCHW.device
        if factors_BC is None:
            numbers_1B = torch.randint(_MASK + 1, (1, len(features_BCHW)), device=device)
            factors_BC = _Channels.of([self], device).factors(numbers_1B).T
        return features_BCHW * factors_BC.to(features_BCHW.dtype)[:, :, None, None]

    def extra_repr(self) -> str:
        """Describe the module's options for its repr."""
        return f"share={self.share}"


class Dropouts:
    """All dropouts of a module, which draw together: each draw costs a GPU thirty kernels."""

    def __init__(self, module: nn.Module) -> None:
        """Find them; the module must not get others afterwards."""
        found = (layer for layer in module.modules() if isinstance(layer, ChannelDropout))
        numbered = [(number, layer) for number, layer in enumerate(found) if layer.share]
        self._numbers = np.array([number for number, _ in numbered], np.int64)
        self._layers = [layer for _, layer in numbered]
        self._constants: tuple[Tensor, _Channels] | None = None

    def use(self, numbers_B: Tensor) -> None:
        """Draw for the next batch from its chips' numbers (B,), int64."""
        if not self._layers:
            return
        if self._constants is None or self._constants[0].device != numbers_B.device:
            device = numbers_B.device
            self._constants = (
                _on(self._numbers[:, None], device),
                _Channels.of(self._layers, device),
            )
        number_L1, channels = self._constants
        factors_TB = channels.factors(_mixed(numbers_B + number_L1))
        parts = factors_TB.split([layer.channels for layer in self._layers])
        for layer, factors_CB in zip(self._layers, parts, strict=True):
            layer.factors_BC = factors_CB.T


@dataclass(frozen=True)
class _Channels:
    """Channels of several dropouts one after another, on the device; axis T runs over all of them."""

    layer_T: Tensor
    """Place of each channel's dropout."""
    number_T1: Tensor
    """Hash of each channel's number within its dropout."""
    least_T1: Tensor
    """Least draw with which the channel is kept."""
    factor_T1: Tensor
    """Factor of a channel that is kept, float32."""

    @classmethod
    def of(cls, layers: Sequence[ChannelDropout], device: torch.device) -> "_Channels":
        """Describe the channels of these dropouts."""
        counts = [layer.channels for layer in layers]
        shares = [layer.share for layer in layers]
        number_T = np.concatenate([np.arange(count) for count in counts])
        least_L = np.array([int(share * (_MASK + 1)) for share in shares])
        factor_L = np.float32(1) / np.array([1 - share for share in shares], np.float32)
        return cls(
            _on(np.repeat(np.arange(len(counts)), counts), device),
            _mixed(_on(number_T[:, None], device)),
            _on(np.repeat(least_L, counts)[:, None], device),
            _on(np.repeat(factor_L, counts)[:, None], device),
        )

    def factors(self, numbers_LB: Tensor) -> Tensor:
        """Draw factors_TB from a number for each dropout and chip."""
        drawn_TB = _mixed(numbers_LB.index_select(0, self.layer_T) ^ self.number_T1)
        return (drawn_TB >= self.least_T1) * self.factor_T1


def _on(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)


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
