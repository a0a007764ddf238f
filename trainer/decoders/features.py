"""The interface of every decoder: heights from a backbone's tokens and the pixels.

    residual   four doublings with residual blocks and channel attention       (trainer.decoders.residual)
    detail     a thin U-Net over the pixels, with the tokens at its bottom      (trainer.decoders.detail)
    dpt        CHMv2's: four layers fused, each pixel a mean over height bins  (trainer.decoders.dpt)
    linear     each patch's heights a linear function of its token             (trainer.decoders.linear)

`trainer.decoders.make` makes them.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

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
    """Name in the list above."""
    upsample: int = 1
    """Factor by which the image is enlarged for the backbone, so that patches cover fewer metres."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "DecoderConfig":
        """Undo `to_json`."""
        return cls(**{**values, "widths": tuple(values["widths"])})

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        return {**asdict(self), "widths": list(self.widths)}


class Decoder(nn.Module, ABC):
    """Heights from features and pixels; Regressor shows how it is used."""

    layers: tuple[int, ...]
    """Numbers of the backbone's blocks whose tokens it takes, from 1 to the backbone's depth."""

    @property
    @abstractmethod
    def output(self) -> nn.Module:
        """Last layer, the only one that has to grow to the scale of metres."""

    @abstractmethod
    def start_at(self, height_m: float) -> None:
        """Initialise the output layer so that it predicts about `height_m` metres."""

    @abstractmethod
    def forward(self, features: Features, pixels_BCHW: Tensor) -> Tensor:
        """Return height_BHW in metres, unclamped; the pixels are normalised, as the backbone sees them."""

    def spread(self, features: Features, pixels_BCHW: Tensor) -> Tensor | None:
        """Return spread_BHW, the standard deviation of each height in metres; None if there is none."""
        return None

    @property
    def has_spread(self) -> bool:
        """Whether `spread` returns one."""
        return type(self).spread is not Decoder.spread
