"""The `linear` decoder: what a token alone says of its patch's heights, without its neighbours.

The plainest of all: what it reaches is what the backbone knows; what others reach beyond that is theirs.
"""

from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from trainer.decoders.features import Decoder, DecoderConfig, Features


class LinearDecoder(Decoder):
    """Patches of any size, of the last layer alone -> heights.

    It has no stages, no norm and no dropout: of its configuration nothing but the kind counts.
    """

    def __init__(self, config: DecoderConfig, depth: int, token_width: int, patch: int) -> None:
        """As `trainer.decoders.make.new_decoder`."""
        super().__init__()
        self.layers, self.patch = (depth,), patch
        self.head = nn.Conv2d(token_width, patch * patch, 1)

    @property
    def output(self) -> nn.Conv2d:
        """The only layer: a token -> the heights of its patch."""
        return self.head

    def start_at(self, height_m: float) -> None:
        """Make it predict `height_m` metres, nearly, before anything is learnt."""
        assert self.head.bias is not None
        # Normed tokens have numbers of about 1, so a height leaves its start by about 2 % of a metre per
        # root of the token's width.
        nn.init.normal_(self.head.weight, 0.0, 0.02 / self.head.in_channels**0.5)
        nn.init.constant_(self.head.bias, height_m)

    def forward(self, features: Features, pixels_BCHW: Tensor) -> Tensor:
        """height_BHW in metres, unclamped."""
        return pixel_shuffle(self.head(features.patches[-1]), self.patch)[:, 0]
