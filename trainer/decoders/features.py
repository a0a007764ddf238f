"""What every decoder is: a backbone's tokens, and the pixels, -> heights.

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
    """What a backbone gives to a decoder: of each layer asked for, all after the backbone's final norm."""

    patches: tuple[Tensor, ...]
    """Of each layer (B, D, rows, columns): one vector for each patch."""
    classes: tuple[Tensor, ...]
    """Of each layer (B, D): the class token."""


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder's kind and shape."""

    widths: tuple[int, ...] = ()
    """Channels of its stages, from the patches to the pixels; none: the kind's own."""
    norm: str = "group"
    """"batch" or "group"."""
    dropout: float = 0.0
    """Share (0..1) of channels dropped while training."""
    kind: str = "residual"
    """Its name in the list above."""
    upsample: int = 1
    """The backbone sees the image enlarged so many times: its patches are so many times smaller."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "DecoderConfig":
        """From plain JSON values."""
        return cls(**{**values, "widths": tuple(values["widths"])})

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "widths": list(self.widths)}


class Decoder(nn.Module, ABC):
    """Features, and the pixels, -> heights; see Regressor for how it is used."""

    layers: tuple[int, ...]
    """The backbone's blocks whose tokens it takes, from 1 to the backbone's depth."""

    @property
    @abstractmethod
    def output(self) -> nn.Module:
        """The last layer, which alone has to grow to the scale of metres."""

    @abstractmethod
    def start_at(self, height_m: float) -> None:
        """Make it predict `height_m` metres, nearly, before anything is learnt."""

    @abstractmethod
    def forward(self, features: Features, pixels_BCHW: Tensor) -> Tensor:
        """height_BHW in metres, unclamped; the pixels are normalised, as the backbone sees them."""

    def spread(self, features: Features, pixels_BCHW: Tensor) -> Tensor | None:
        """Return spread_BHW, the standard deviation of each height in metres; None: it has none."""
        return None

    @property
    def has_spread(self) -> bool:
        """Whether `spread` says anything."""
        return type(self).spread is not Decoder.spread
