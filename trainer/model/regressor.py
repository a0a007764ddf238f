"""The regressor: stored pixels in, metres out.

normalise   image_BCHW as stored -> pixels_BCHW          (trainer.model.normalise)
backbone    pixels_BCHW -> features of patches           (DINOv3 of transformers)
decoder     features, pixels_BCHW -> height_BHW in metres    (trainer.decoders.features)
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import DINOv3ViTModel

from shards.errors import InputError
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from trainer.decoders.features import DecoderConfig, Features
from trainer.decoders.make import new_decoder
from trainer.devices.sharding import Blocks
from trainer.model.normalise import Normalise


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
        if statistics.height is None:
            raise InputError("the dataset has no heights to learn from")
        shape = backbone.config
        self.schema, self.bands, self.statistics, self.decoder_config = schema, bands, statistics, decoder
        self.patch_size = int(shape.patch_size)  # type: ignore[arg-type]
        if self.patch_size % decoder.upsample:
            raise InputError(
                f"--upsample {decoder.upsample}: patches of {self.patch_size} are no multiple of it"
            )
        self.normalise = Normalise(schema, bands, statistics)
        self.backbone = backbone
        self.depth = int(shape.num_hidden_layers)
        patch = self.patch_size // decoder.upsample
        self.decoder = new_decoder(decoder, self.depth, shape.hidden_size, patch, len(bands))
        self.decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.decoder.start_at(statistics.height.percentiles["90"])

    def train(self, mode: bool = True) -> "Regressor":
        """As usual, but the backbone stays in eval mode, also where it learns.

        In train mode transformers' DINOv3 draws random rotary coordinates for every forward pass (its
        dropout is 0), which makes tokens unrepeatable; heights need positions as they are.
        """
        super().train(mode)
        self.backbone.eval()
        return self

    def blocks(self) -> Blocks:
        """Name the parts whose weights are whole at a time, where ranks share the regressor."""
        return Blocks(self.backbone.model.layer, self.decoder)

    def tokens(self, pixels_BCHW: Tensor) -> Tensor:
        """tokens_BND after the final norm: the class token, the registers, then the patches row by row."""
        tokens_BND: Tensor = self.backbone(pixels_BCHW).last_hidden_state
        return tokens_BND

    def features(self, pixels_BCHW: Tensor) -> Features:
        """What the decoder takes of the backbone, from normalised pixels; whole patches of them."""
        if self.decoder_config.upsample > 1:
            factor = float(self.decoder_config.upsample)
            pixels_BCHW = interpolate(pixels_BCHW, scale_factor=factor, mode="bilinear", align_corners=False)
        rows, columns = (side // self.patch_size for side in pixels_BCHW.shape[-2:])
        layers = self.decoder.layers
        if layers == (self.depth,):
            of_layers = [self.tokens(pixels_BCHW)]
        else:
            states = self.backbone(pixels_BCHW, output_hidden_states=True).hidden_states
            of_layers = [self.backbone.norm(states[layer]) for layer in layers]
        patches = (tokens_BND[:, -rows * columns :].transpose(1, 2) for tokens_BND in of_layers)
        return Features(
            tuple(patches_BDN.unflatten(2, (rows, columns)) for patches_BDN in patches),
            tuple(tokens_BND[:, 0] for tokens_BND in of_layers),
        )

    def decode(self, features: Features, pixels_BCHW: Tensor) -> Tensor:
        """height_BHW in metres, unclamped, from what `features` gave for these normalised pixels."""
        height_BHW: Tensor = self.decoder(features, pixels_BCHW)
        return height_BHW

    def heights(self, pixels_BCHW: Tensor) -> Tensor:
        """height_BHW in metres, unclamped, from normalised pixels."""
        return self.decode(self.features(pixels_BCHW), pixels_BCHW)

    def forward(
        self, image_BCHW: Tensor, features: Features | None = None, changes_BCK: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(height_BHW in metres, unclamped so that gradients live below 0; valid_BHW) from stored pixels.

        `features`: those of these pixels where they are known already, so that the backbone is not asked.
        `changes_BCK`: what augmentation does to the bands; see Normalise.
        """
        pixels_BCHW, valid_BHW = self.normalise(image_BCHW, changes_BCK)
        return self.decode(features or self.features(pixels_BCHW), pixels_BCHW), valid_BHW

    @torch.no_grad()
    def predict(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(height_BHW in metres, not below 0; valid_BHW) from stored pixels; call it in eval mode."""
        height_BHW, valid_BHW = self(image_BCHW)
        return height_BHW.clamp(min=0), valid_BHW
