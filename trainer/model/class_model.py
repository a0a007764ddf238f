"""The model of classes: stored pixels in, the logits of the schema's classes at each pixel out."""

from math import log

import torch
from torch import Tensor
from transformers import DINOv3ViTModel

from shards.errors import InputError
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from trainer.decoders.features import DecoderConfig
from trainer.model.pixel_model import PixelModel

RAREST = 1e-6
"""Share of pixels from which a class starts that no training chip has: rare, but within reach."""


class ClassModel(PixelModel):
    """A model of pixels whose decoder computes the logits of classes, in the order of their numbers."""

    def __init__(
        self,
        schema: Schema,
        bands: tuple[str, ...],
        statistics: Statistics,
        backbone: DINOv3ViTModel,
        decoder: DecoderConfig,
    ) -> None:
        """Take the arguments of PixelModel, for a schema whose label is a class at each pixel.

        The logits start at the logarithms of the classes' shares of the training pixels.

        Raises:
            InputError: there are fewer than two classes, or the decoder cannot compute them.
        """
        names = tuple(name for _, name in schema.class_names)
        if len(names) < 2 or statistics.height is None:
            raise InputError(
                f"the dataset has {len(names)} classes of pixels; ingest it with two or more (--class-names)"
            )
        if decoder.outputs != len(names):
            raise ValueError(f"a decoder of {decoder.outputs} maps, for {len(names)} classes")
        super().__init__(schema, bands, statistics, backbone, decoder)
        self.numbers = tuple(number for number, _ in schema.class_names)
        """Number of each class."""
        shares = (statistics.height.classes.get(name, 0.0) for name in names)
        self.decoder.start_at(*(log(max(share, RAREST)) for share in shares))

    @torch.no_grad()
    def predict(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return place_BHW of the likeliest class and valid_BHW from stored pixels; call in eval mode.

        A class's place is its place among the classes, from 0 and not its number.
        """
        logits_BKHW, valid_BHW = self(image_BCHW)
        return logits_BKHW.argmax(1), valid_BHW
