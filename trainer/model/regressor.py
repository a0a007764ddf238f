"""The regressor: stored pixels in, heights in metres out."""

import torch
from torch import Tensor
from transformers import DINOv3ViTModel

from shards.errors import InputError
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from trainer.decoders.features import DecoderConfig, Features
from trainer.model.pixel_model import PixelModel


class Regressor(PixelModel):
    """A model of pixels whose decoder computes heights."""

    def __init__(
        self,
        schema: Schema,
        bands: tuple[str, ...],
        statistics: Statistics,
        backbone: DINOv3ViTModel,
        decoder: DecoderConfig,
    ) -> None:
        """Take the arguments of PixelModel; heights start where the decoder starts them.

        Raises:
            InputError: there are no heights, or the decoder cannot turn the backbone's patches back into
                pixels.
        """
        if statistics.height is None:
            raise InputError("the dataset has no heights to learn from")
        super().__init__(schema, bands, statistics, backbone, decoder)
        heights = statistics.height
        self.decoder.start_heights(heights.mean, heights.std, heights.percentiles["90"])

    def heights(self, pixels_BCHW: Tensor) -> Tensor:
        """Return height_BHW in metres, unclamped, from normalised pixels."""
        return self.decode(self.features(pixels_BCHW), pixels_BCHW)

    @torch.no_grad()
    def predict(self, image_BCHW: Tensor, features: Features | None = None) -> tuple[Tensor, Tensor]:
        """Return height_BHW in metres, not below 0, and valid_BHW from stored pixels; call in eval mode.

        The backbone does not run where its `features` of these pixels are known.
        """
        height_BHW, valid_BHW = self(image_BCHW, features)
        return height_BHW.clamp(min=0), valid_BHW
