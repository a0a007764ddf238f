"""What every model of pixels has: normalisation, backbone and decoder.

normalise   image_BCHW as stored -> pixels_BCHW          (trainer.model.normalise)
backbone    pixels_BCHW -> features of patches           (DINOv3 of transformers)
decoder     features, pixels_BCHW -> a map, or several   (trainer.decoders.features)
"""

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import DINOv3ViTModel

from shards.errors import InputError
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from trainer.decoders.features import DecoderConfig, Features, memory_format
from trainer.decoders.make import new_decoder
from trainer.devices.choice import Precision
from trainer.devices.learner import Learner
from trainer.devices.rounding import round_together
from trainer.devices.sharding import Blocks
from trainer.model.empty_backbone import empty_backbone
from trainer.model.frozen_backbone import matrices_of, round_once
from trainer.model.normalise import Normalise


class PixelModel(Learner):
    """Normalisation, backbone and decoder. The input's sides must be multiples of the patch size."""

    def __init__(
        self,
        schema: Schema,
        bands: tuple[str, ...],
        statistics: Statistics,
        backbone: DINOv3ViTModel,
        decoder: DecoderConfig,
    ) -> None:
        """Args:
        schema: format of the images that are put in.
        bands: bands that the backbone sees, in its order.
        statistics: statistics of the training chips.
        backbone: a backbone with len(bands) input channels.
        decoder: shape of the decoder, whose weights start random.

        Raises:
            InputError: the decoder cannot turn the backbone's patches back into pixels.
        """
        super().__init__()
        shape = backbone.config
        self.schema, self.bands, self.statistics, self.decoder_config = schema, bands, statistics, decoder
        self.patch_size = int(shape.patch_size)  # type: ignore[arg-type]
        if self.patch_size % decoder.upsample:
            raise InputError(
                f"--upsample {decoder.upsample}: does not divide the backbone's patch size, {self.patch_size}"
            )
        self.normalise = Normalise(schema, bands, statistics)
        self.backbone, self.lacks_backbone = backbone, False
        self.depth = int(shape.num_hidden_layers)
        patch = self.patch_size // decoder.upsample
        self.decoder = new_decoder(decoder, self.depth, shape.hidden_size, patch, len(bands))
        self._lay_out()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the model, as `to` does; its decoder then lies in memory as suits the device.

        A backbone that was dropped stays where it is.
        """
        before = self.normalise.mean_C.device
        if self.lacks_backbone:
            for part in (self.normalise, self.decoder):
                part._apply(fn, recurse)
        else:
            super()._apply(fn, recurse)
        if self.normalise.mean_C.device != before:
            self._lay_out()
        return self

    def _lay_out(self) -> None:
        layout = memory_format(self.normalise.mean_C.device, self.decoder_config.norm)
        self.decoder.to(memory_format=layout)  # type: ignore[call-overload]

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode, but keep the backbone in eval mode even if it learns.

        In train mode transformers' DINOv3 (whose dropout is 0) draws random rotary coordinates for every
        forward pass. Tokens would not be repeatable, and pixels need true positions.
        """
        super().train(mode)
        self.backbone.eval()
        return self

    def blocks(self) -> Blocks:
        """Name the parts that are gathered one at a time when ranks share the model."""
        layers = self.backbone.model.layer
        return Blocks(layers, self.decoder, matrices=matrices_of(layers))

    def round_frozen(self, precision: Precision) -> None:
        """See Learner."""
        if not self.lacks_backbone:
            round_once(self.backbone, precision, "apart" if self.apart else "kept")

    def drop_backbone(self) -> None:
        """Free a backbone that does not learn; keep its shape alone, on the device "meta".

        All that the model computes needs `features` from then on.
        """
        shape = empty_backbone(self.backbone.config.to_diff_dict())
        shape.to("meta")  # type: ignore[arg-type]
        self.backbone, self.lacks_backbone = shape.requires_grad_(False).eval(), True

    def round_together(self, precision: Precision) -> None:
        """See Learner."""
        for part in (*self.backbone.model.layer, self.decoder):
            round_together(part, precision)

    def compiled(self) -> tuple[nn.Module, ...]:
        """Name the parts that --compile compiles: all blocks of the backbone are compiled as one."""
        return *self.backbone.model.layer, self.decoder

    def tokens(self, pixels_BCHW: Tensor) -> Tensor:
        """Return tokens_BND after the final norm: class token, registers, then patches row by row."""
        tokens_BND: Tensor = self.backbone(pixels_BCHW).last_hidden_state
        return tokens_BND

    def features(self, pixels_BCHW: Tensor) -> Features:
        """Compute the backbone's features for the decoder from normalised pixels, in whole patches.

        Without a backbone there are none.
        """
        if not self.depth:
            return Features((), ())
        if self.decoder_config.upsample > 1:
            factor = float(self.decoder_config.upsample)
            pixels_BCHW = interpolate(pixels_BCHW, scale_factor=factor, mode="bilinear", align_corners=False)
        rows, columns = (side // self.patch_size for side in pixels_BCHW.shape[-2:])
        layers = self.decoder.layers
        if layers == (self.depth,):
            layer_tokens = [self.tokens(pixels_BCHW)]
        else:
            states = self.backbone(pixels_BCHW, output_hidden_states=True).hidden_states
            layer_tokens = [self.backbone.norm(states[layer]) for layer in layers]
        patches = (tokens_BND[:, -rows * columns :].transpose(1, 2) for tokens_BND in layer_tokens)
        return Features(
            tuple(patches_BDN.unflatten(2, (rows, columns)) for patches_BDN in patches),
            tuple(tokens_BND[:, 0] for tokens_BND in layer_tokens),
        )

    def decode(self, features: Features, pixels_BCHW: Tensor) -> Tensor:
        """Return what the decoder computes from normalised pixels and their `features`."""
        decoded: Tensor = self.decoder(features, pixels_BCHW)
        return decoded

    def forward(
        self, image_BCHW: Tensor, features: Features | None = None, changes_BCK: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute what the decoder does from stored pixels.

        Args:
            image_BCHW: as stored.
            features: features of these pixels if they are known already; the backbone is then not run.
            changes_BCK: augmentation of the bands; see Normalise.

        Returns:
            height_BHW in metres, unclamped so that gradients exist below 0, or logits_BKHW; valid_BHW.
        """
        pixels_BCHW, valid_BHW = self.normalise(image_BCHW, changes_BCK)
        return self.decode(features or self.features(pixels_BCHW), pixels_BCHW), valid_BHW
