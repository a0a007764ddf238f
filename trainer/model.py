"""The regressor: stored pixels in, metres out.

normalise   image_BCHW as stored -> pixels_BCHW       (trainer.normalise)
backbone    pixels_BCHW -> tokens_BND                 (DINOv3 of transformers)
decoder     features_BDHW -> height_BHW in metres     (trainer.decoder)
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DINOv3ViTModel

from shards.errors import InputError
from shards.schema import Schema
from shards.statistics import Statistics
from trainer.decoder import DOUBLINGS, ResidualDecoder
from trainer.normalise import Normalise


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder's shape."""

    widths: tuple[int, ...] = (64, 32, 16, 8)
    """Channels after each of the four doublings."""
    norm: str = "group"
    """"batch" or "group"."""
    dropout: float = 0.0
    """Share (0..1) of channels dropped while training."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "DecoderConfig":
        """From plain JSON values."""
        return cls(**{**values, "widths": tuple(values["widths"])})

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "widths": list(self.widths)}


class Regressor(nn.Module):
    """Normalisation, backbone and decoder. Sides of the input must be multiples of the patch size."""

    def __init__(
        self,
        schema: Schema,
        bands: tuple[str, ...],
        statistics: Statistics,
        backbone: DINOv3ViTModel,
        decoder: DecoderConfig,
    ) -> None:
        """Args:
        schema: of the images that are put in.
        bands: those that the backbone sees, in its order.
        statistics: of the training chips.
        backbone: with len(bands) input channels.
        decoder: its shape; its weights are random.

        Raises:
            InputError: the decoder cannot bring the backbone's patches back to pixels.
        """
        super().__init__()
        patch = int(backbone.config.patch_size)  # type: ignore[arg-type]
        if patch != 2**DOUBLINGS or len(decoder.widths) != DOUBLINGS:
            raise InputError(
                f"the residual decoder needs patches of 16 and 4 widths, not {patch} and {decoder.widths}"
            )
        self.schema, self.bands, self.statistics, self.decoder_config = schema, bands, statistics, decoder
        self.patch_size = patch
        self.normalise = Normalise(schema, bands, statistics)
        self.backbone = backbone
        self.decoder = ResidualDecoder(
            backbone.config.hidden_size, decoder.widths, decoder.norm, decoder.dropout
        )
        # Narrow convolutions are up to twice as fast with the channels of a pixel side by side.
        self.decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if statistics.height is None:
            raise InputError("the dataset has no heights to learn from")
        self.decoder.start_at(statistics.height.percentiles["90"])

    def train(self, mode: bool = True) -> "Regressor":
        """As usual, but the backbone stays in eval mode, also where it learns.

        In train mode transformers' DINOv3 draws random rotary coordinates for every forward pass (its
        dropout is 0), which makes tokens unrepeatable; heights need positions as they are.
        """
        super().train(mode)
        self.backbone.eval()
        return self

    def tokens(self, pixels_BCHW: Tensor) -> Tensor:
        """tokens_BND after the final norm: the class token, the registers, then the patches row by row."""
        tokens_BND: Tensor = self.backbone(pixels_BCHW).last_hidden_state
        return tokens_BND

    def heights(self, pixels_BCHW: Tensor) -> Tensor:
        """height_BHW in metres, unclamped, from normalised pixels."""
        rows, columns = (side // self.patch_size for side in pixels_BCHW.shape[-2:])
        patches_BND = self.tokens(pixels_BCHW)[:, -rows * columns :]
        features_BDHW = patches_BND.transpose(1, 2).unflatten(2, (rows, columns))
        height_B1HW: Tensor = self.decoder(features_BDHW.contiguous(memory_format=torch.channels_last))
        return height_B1HW[:, 0]

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(height_BHW in metres, unclamped so that gradients live below 0; valid_BHW) from stored pixels."""
        pixels_BCHW, valid_BHW = self.normalise(image_BCHW)
        return self.heights(pixels_BCHW), valid_BHW

    @torch.inference_mode()
    def predict(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(height_BHW in metres, not below 0; valid_BHW) from stored pixels; call it in eval mode."""
        height_BHW, valid_BHW = self(image_BCHW)
        return height_BHW.clamp(min=0), valid_BHW
