"""The `linear` decoder: a patch's heights as a linear function of its token, without its neighbours.

It is the plainest decoder: its score shows what the backbone knows, and what other decoders add to that.
"""

from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from trainer.decoders.features import Decoder, DecoderConfig, Features, as_returned, start_output


class LinearDecoder(Decoder):
    """Heights from the last layer's patches, of any size.

    It has no stages, no norm and no dropout, so only the kind and the outputs in its configuration matter.
    """

    def __init__(self, config: DecoderConfig, depth: int, token_width: int, patch: int) -> None:
        """Take the same arguments as `trainer.decoders.make.new_decoder`."""
        super().__init__()
        self.layers, self.patch = (depth,), patch
        self.head = nn.Conv2d(token_width, config.outputs * patch * patch, 1)

    @property
    def output(self) -> nn.Conv2d:
        """Only layer: a token -> the maps of its patch."""
        return self.head

    def start_at(self, *starts: float) -> None:
        """Initialise the output layer; see Decoder."""
        # A normed token's numbers are about 1, so this weight moves a height about 2 cm from its start,
        # whatever the token's width.
        start_output(self.head, starts, 0.02 / self.head.in_channels**0.5)

    def forward(self, features: Features, pixels_BCHW: Tensor) -> Tensor:
        """Return height_BHW in metres, unclamped, or maps_BKHW; see Decoder."""
        return as_returned(pixel_shuffle(self.head(features.patches[-1]), self.patch))
