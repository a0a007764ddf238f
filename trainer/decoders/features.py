"""The interface of every decoder: a map of heights, or several maps, from a backbone's tokens and the pixels.

    unet       a U-Net over the pixels, to whose bottom the tokens are added    (trainer.decoders.unet)
    residual   four doublings with residual blocks and channel attention       (trainer.decoders.residual)
    detail     a thin U-Net over the pixels, with the tokens at its bottom      (trainer.decoders.detail)
    dpt        CHMv2's: four layers fused, each pixel a mean over height bins  (trainer.decoders.dpt)
    linear     each patch's heights a linear function of its token             (trainer.decoders.linear)
    a.b.Class  the user's own, by its import path                              (trainer.decoders.own)

`trainer.decoders.make` makes them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Features:
    """Tokens of the layers that a decoder asks for, all after the backbone's final norm."""

    patches: tuple[Tensor, ...]
    """Patch tokens of each layer, (B, D, rows, columns)."""
    classes: tuple[Tensor, ...]
    """Class tokens of each layer, (B, D)."""


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder's kind and shape."""

    widths: tuple[int, ...] = ()
    """Channels of the stages, from the patches to the pixels; empty: the kind's defaults."""
    norm: str = "group"
    """Normalisation: "batch" or "group"."""
    dropout: float = 0.0
    """Share (0..1) of channels dropped while training."""
    kind: str = "residual"
    """Name in the list above, or an import path."""
    upsample: int = 1
    """Factor by which the image is enlarged for the backbone, so that patches cover fewer metres."""
    outputs: int = 1
    """Maps that the decoder computes: 1, heights, or one for the logits of each class."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "DecoderConfig":
        """Undo `to_json`."""
        return cls(**{**values, "widths": tuple(values["widths"])})

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        values = {**asdict(self), "widths": list(self.widths)}
        if self.outputs == 1:  # left out, so that checkpoints of heights keep their bytes and fingerprints
            del values["outputs"]
        return values


def memory_format(device: torch.device, norm: str) -> torch.memory_format:
    """Return how a decoder's maps and weights lie in memory.

    Narrow convolutions are up to twice as fast on a CPU with a pixel's channels side by side. On a GPU group
    norm undoes that: it copies each map, and so does the next convolution (torch 2.13; from the source of
    pytorch/pytorch#191945, not measured).
    """
    side_by_side = device.type != "cuda" or norm == "batch"
    return torch.channels_last if side_by_side else torch.contiguous_format


class Decoder(nn.Module, ABC):
    """One map or several from features and pixels; Regressor and ClassModel show how it is used."""

    layers: tuple[int, ...]
    """Numbers of the backbone's blocks whose tokens it takes, from 1 to the backbone's depth."""
    needs_tokens = True
    """Whether it computes nothing without a backbone."""

    @property
    @abstractmethod
    def output(self) -> nn.Module:
        """Last layer, the only one that has to grow to the scale of metres."""

    @abstractmethod
    def start_at(self, *starts: float) -> None:
        """Initialise the output layer so that each map is about its start, in metres or as a logit."""

    def start_heights(self, mean_m: float, deviation_m: float, high_m: float) -> None:
        """Initialise the output layer so that heights start where training ones are.

        Args:
            mean_m: mean of the training heights, in metres.
            deviation_m: their standard deviation.
            high_m: their 90th percentile, where decoders start that do not say otherwise.
        """
        self.start_at(high_m)

    @abstractmethod
    def forward(self, features: Features, pixels_BCHW: Tensor) -> Tensor:
        """Return height_BHW in metres, unclamped, or maps_BKHW where there are K > 1 outputs.

        The pixels are normalised, as the backbone sees them.
        """

    def spread(self, features: Features, pixels_BCHW: Tensor) -> Tensor | None:
        """Return spread_BHW, the standard deviation of each height in metres; None if there is none."""
        return None

    @property
    def has_spread(self) -> bool:
        """Whether `spread` returns one."""
        return type(self).spread is not Decoder.spread


def start_output(output: nn.Conv2d, starts: Sequence[float], deviation: float) -> None:
    """Initialise an output layer so that each map is about its start.

    Args:
        output: the layer, whose channels belong to the first map, then to the second, ...
        starts: start of each map.
        deviation: standard deviation of the weights.
    """
    assert output.bias is not None
    nn.init.normal_(output.weight, 0.0, deviation)
    start_K = torch.tensor(starts, dtype=output.bias.dtype, device=output.bias.device)
    with torch.no_grad():
        output.bias.copy_(start_K.repeat_interleave(output.out_channels // len(starts)))


def as_returned(maps_BKHW: Tensor) -> Tensor:
    """Return maps as a decoder does: one map as height_BHW, several as they are."""
    return maps_BKHW[:, 0] if maps_BKHW.shape[1] == 1 else maps_BKHW
