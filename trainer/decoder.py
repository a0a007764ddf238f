"""What every decoder is: a backbone's tokens, and the pixels, -> heights.

    residual   four doublings with residual blocks and channel attention       (trainer.decoder_residual)
    detail     a thin U-Net over the pixels, with the tokens at its bottom      (trainer.decoder_detail)
    dpt        CHMv2's: four layers fused, each pixel a mean over height bins  (trainer.decoder_dpt)
    linear     each patch's heights a linear function of its token             (trainer.decoder_linear)

decoder = new_decoder(DecoderConfig(kind="detail"), depth=24, token_width=1024, patch=16, bands=3)
height_BHW = decoder(features, pixels_BCHW)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from shards.errors import InputError


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


def new_decoder(config: DecoderConfig, depth: int, token_width: int, patch: int, bands: int = 3) -> Decoder:
    """A decoder with random weights.

    Args:
        config: its kind and shape.
        depth: blocks of the backbone.
        token_width: numbers in one of its tokens.
        patch: pixels of the stored image along each side of a patch.
        bands: of the normalised pixels.

    Raises:
        InputError: there is no such decoder, or it cannot bring such patches back to pixels.
    """
    if config.kind not in _KINDS:
        raise InputError(f"--decoder {config.kind}: there is none of that name; choose {', '.join(_KINDS)}")
    module, name = _KINDS[config.kind]
    # The interface stays below its kinds, and transformers' CHMv2 is imported for dpt alone.
    new: Callable[..., Decoder] = getattr(import_module(module), name)
    widths = config.widths or own_widths(config.kind, token_width)
    seen = (bands,) if config.kind == "detail" else ()
    return new(replace(config, widths=widths), depth, token_width, patch, *seen)


def own_widths(kind: str, token_width: int) -> tuple[int, ...]:
    """The channels of a decoder's stages where none are given."""
    if kind == "dpt":
        # CHMv2's post_process_channels, which are those of its backbone's width of 1024 (CHMv2Config).
        widest = min(token_width, 1024)
        return (widest, widest // 2, widest // 4, widest // 8)
    return {"residual": (64, 32, 16, 8), "detail": (64, 48, 32, 16), "linear": ()}[kind]


_KINDS = {
    "residual": ("trainer.decoder_residual", "ResidualDecoder"),
    "detail": ("trainer.decoder_detail", "DetailDecoder"),
    "dpt": ("trainer.decoder_dpt", "DptDecoder"),
    "linear": ("trainer.decoder_linear", "LinearDecoder"),
}
