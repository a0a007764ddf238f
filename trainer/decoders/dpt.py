"""The `dpt` decoder: the dense prediction transformer's head, as CHMv2 has it, and its bins of height.

Ranftl et al. 2021 (arXiv:2103.13413) fuse four layers of the backbone; each pixel then weighs 256 bins from
0.008 to 96 m, dense near the ground, and its height is their weighted mean. Module names and sizes are
those of `transformers.models.chmv2`, so that Meta's weights load (trainer.model.chmv2).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import CHMv2Config, DINOv3ViTConfig
from transformers.models.chmv2.modeling_chmv2 import CHMv2FeaturesToDepth, CHMv2Head

from shards.errors import InputError
from trainer.decoders.features import Decoder, DecoderConfig, Features

LAYERS = 4
EVEN_SHARE = 1e-8
"""Added to each bin's number, so that weights exist where all are 0 (transformers, CHMv2FeaturesToDepth)."""
_BISECTIONS = 60


class DptDecoder(Decoder):
    """Patches of a quarter, half, three quarters and the end of the backbone's depth -> heights.

    `widths` are those of the four layers from the last to the first, (1024, 512, 256, 128) in CHMv2; the
    fusion has the third of them, the head's hidden layer the fourth. There is no norm and no dropout.
    """

    def __init__(self, config: DecoderConfig, depth: int, token_width: int, patch: int) -> None:
        """As `trainer.decoders.make.new_decoder`."""
        super().__init__()
        if len(config.widths) != LAYERS:
            raise InputError(f"the dpt decoder needs {LAYERS} widths, not {config.widths}")
        self.layers = tuple(-(-depth * part // LAYERS) for part in range(1, LAYERS + 1))
        shape = head_config(config.widths, token_width)
        self.head = CHMv2Head(shape)
        self.features_to_depth = CHMv2FeaturesToDepth(shape)
        bins_m = mixed_log_bins(shape.number_output_channels, shape.min_depth, shape.max_depth)
        # Not in the weights: they are constants, and Meta's weights have none.
        self.register_buffer("bins_K", bins_m, persistent=False)
        self.bins_K: Tensor

    @property
    def output(self) -> nn.Conv2d:
        """The last layer: channels -> a number for each bin."""
        output = self.head.conv_depth.head[-1]
        assert isinstance(output, nn.Conv2d)
        return output

    def start_at(self, height_m: float) -> None:
        """Make it predict about `height_m` metres before anything is learnt; 0.1 to 90 m can be had."""
        assert self.output.bias is not None
        nn.init.normal_(self.output.weight, 0.0, 0.01)
        with torch.no_grad():
            self.output.bias.copy_(weights_with_mean(self.bins_K, height_m) * self.bins_K.numel())

    def forward(self, features: Features, pixels_BCHW: Tensor) -> Tensor:
        """height_BHW in metres, never below 0."""
        height_B1HW = self.features_to_depth(self._numbers(features))
        return _in_pixels(height_B1HW, pixels_BCHW)

    def spread(self, features: Features, pixels_BCHW: Tensor) -> Tensor:
        """spread_BHW: standard deviation over the bins in metres; how far apart are the heights it weighs?"""
        numbers_BKHW = self._numbers(features).relu() + EVEN_SHARE
        weights_BKHW = numbers_BKHW / numbers_BKHW.sum(1, keepdim=True)
        bins_K11 = self.bins_K[:, None, None]
        mean_B1HW = (weights_BKHW * bins_K11).sum(1, keepdim=True)
        variance_B1HW = (weights_BKHW * (bins_K11 - mean_B1HW).square()).sum(1, keepdim=True)
        return _in_pixels(variance_B1HW, pixels_BCHW).sqrt()

    def _numbers(self, features: Features) -> Tensor:
        """numbers_BKHW: what the head says of each bin; weights once they are positive and sum to 1."""
        rows, columns = features.patches[-1].shape[-2:]
        of_layers = list(zip(features.patches, features.classes, strict=True))
        numbers_BKHW: Tensor = self.head(of_layers, rows, columns)
        return numbers_BKHW.float()  # a sum over 256 bins is too coarse in 16 bits


def head_config(widths: tuple[int, ...], token_width: int) -> CHMv2Config:
    """The shape of transformers' head for a decoder's widths: CHMv2's own, but for the widths."""
    return CHMv2Config(
        backbone_config=DINOv3ViTConfig(hidden_size=token_width),
        post_process_channels=list(widths[::-1]),
        fusion_hidden_size=widths[2],
        head_hidden_size=widths[3],
    )


def mixed_log_bins(count: int, lowest: float, highest_m: float) -> Tensor:
    """bins_K in metres, from 8 x `lowest` to `highest_m`.

    From logarithmic steps at the lower end they turn evenly into linear ones at the upper end, all scaled by
    8 afterwards (transformers, CHMv2FeaturesToDepth, "chmv2_mixlog").
    """
    highest = highest_m / 8
    share_K = torch.linspace(1, 0, count, dtype=torch.float64)
    linear_K = highest + (lowest - highest) * share_K
    log_K = highest * (lowest / highest) ** share_K
    return (8 * (share_K * log_K + (1 - share_K) * linear_K)).float()


def weights_with_mean(bins_K: Tensor, height_m: float) -> Tensor:
    """weights_K, positive and of sum 1, under which the bins' mean is `height_m`.

    They are exp(-rate x bin), the ones of largest entropy with this mean: no bin is closed before learning.
    """
    bins = bins_K.double()
    target = min(max(height_m, 0.1), 90.0)
    low, high = -100.0, 100.0
    for _ in range(_BISECTIONS):
        rate = (low + high) / 2
        weights_K = torch.softmax(-rate * bins, 0)
        low, high = (rate, high) if (weights_K * bins).sum() > target else (low, rate)
    return weights_K.to(bins_K.dtype)


def _in_pixels(image_B1HW: Tensor, pixels_BCHW: Tensor) -> Tensor:
    """image_BHW in the size of the pixels.

    The head makes 16 x 16 heights of a patch and an even number of rows and columns of patches: patches of
    another size, or odd in number, leave another size.
    """
    if image_B1HW.shape[-2:] != pixels_BCHW.shape[-2:]:
        image_B1HW = interpolate(image_B1HW, pixels_BCHW.shape[-2:], mode="bilinear", antialias=True)
    return image_B1HW[:, 0]
