"""The `dpt` decoder: the head of the dense prediction transformer as in CHMv2, and its height bins.

Ranftl et al. 2021 (arXiv:2103.13413) fuse four layers of the backbone. Each pixel then weighs 256 bins from
0.008 to 96 m, dense near the ground; its height is their weighted mean. Module names and sizes are the same
as in `transformers.models.chmv2`, so Meta's weights load (trainer.model.chmv2).
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import CHMv2Config, DINOv3ViTConfig
from transformers.models.chmv2.modeling_chmv2 import CHMv2FeaturesToDepth, CHMv2Head

from shards.errors import InputError
from trainer.decoders.features import Decoder, DecoderConfig, Features

LAYERS = 4
EVEN_SHARE = 1e-8
"""Number added to each bin's score, so that weights exist where all scores are 0 (transformers,
CHMv2FeaturesToDepth)."""
_BISECTIONS = 60


class DptDecoder(Decoder):
    """Heights from the patches after a quarter, half, three quarters and all of the backbone's blocks.

    `widths` belong to these four layers from the last to the first, (1024, 512, 256, 128) in CHMv2. The
    fusion uses the third width, the head's hidden layer the fourth. There is no norm and no dropout.
    """

    def __init__(self, config: DecoderConfig, depth: int, token_width: int, patch: int) -> None:
        """Take the same arguments as `trainer.decoders.make.new_decoder`."""
        super().__init__()
        if config.outputs != 1:
            raise ValueError("the dpt decoder computes a mean over bins of heights, no classes")
        if len(config.widths) != LAYERS:
            raise InputError(f"the dpt decoder needs {LAYERS} widths, not {config.widths}")
        self.layers = tuple(-(-depth * part // LAYERS) for part in range(1, LAYERS + 1))
        shape = head_config(config.widths, token_width)
        self.head = CHMv2Head(shape)
        self.features_to_depth = HeightsOfBins(shape)
        bins_m = mixed_log_bins(shape.number_output_channels, shape.min_depth, shape.max_depth)
        # Not in the weights: bins are constants, and Meta's weights hold none.
        self.register_buffer("bins_K", bins_m, persistent=False)
        self.bins_K: Tensor

    @property
    def output(self) -> nn.Conv2d:
        """Last layer: channels -> a score for each bin."""
        output = self.head.conv_depth.head[-1]
        assert isinstance(output, nn.Conv2d)
        return output

    def start_at(self, *starts: float) -> None:
        """Initialise the output layer so that it predicts about the start, limited to 0.1..90 m."""
        (height_m,) = starts
        assert self.output.bias is not None
        if self.output.bias.is_meta:  # a description, without numbers
            return
        nn.init.normal_(self.output.weight, 0.0, 0.01)
        with torch.no_grad():
            self.output.bias.copy_(weights_with_mean(self.bins_K, height_m) * self.bins_K.numel())

    def forward(self, features: Features, pixels_BCHW: Tensor) -> Tensor:
        """Return height_BHW in metres, never below 0."""
        height_B1HW = self.features_to_depth(self._bin_scores(features))
        return _in_pixels(height_B1HW, pixels_BCHW)

    def spread(self, features: Features, pixels_BCHW: Tensor) -> Tensor:
        """Return spread_BHW in metres: the standard deviation of the bins' heights under their weights."""
        scores_BKHW = self._bin_scores(features).relu() + EVEN_SHARE
        weights_BKHW = scores_BKHW / scores_BKHW.sum(1, keepdim=True)
        bins_K11 = self.bins_K[:, None, None]
        mean_B1HW = (weights_BKHW * bins_K11).sum(1, keepdim=True)
        variance_B1HW = (weights_BKHW * (bins_K11 - mean_B1HW).square()).sum(1, keepdim=True)
        return _in_pixels(variance_B1HW, pixels_BCHW).sqrt()

    def _bin_scores(self, features: Features) -> Tensor:
        """Return scores_BKHW of the bins; made positive and scaled to a sum of 1 they are weights."""
        rows, columns = features.patches[-1].shape[-2:]
        layers = list(zip(features.patches, features.classes, strict=True))
        scores_BKHW: Tensor = self.head(layers, rows, columns)
        return scores_BKHW.float()  # a sum over 256 bins is too coarse in 16 bits


class HeightsOfBins(CHMv2FeaturesToDepth):
    """transformers' own mean over bins, which are computed once.

    It computes them in every pass from numbers on the device, which it waits for twice.
    """

    def __init__(self, config: CHMv2Config) -> None:
        super().__init__(config)
        bins_K = super()._create_mixlog_bins(config.number_output_channels, torch.device("cpu"))
        self.register_buffer("bins_K", bins_K, persistent=False)
        self.bins_K: Tensor

    def _create_mixlog_bins(self, n_bins: int, device: torch.device) -> Tensor:
        return self.bins_K


def head_config(widths: tuple[int, ...], token_width: int) -> CHMv2Config:
    """Return the configuration of transformers' head: CHMv2's own but for a decoder's widths."""
    return CHMv2Config(
        backbone_config=DINOv3ViTConfig(hidden_size=token_width),
        post_process_channels=list(widths[::-1]),
        fusion_hidden_size=widths[2],
        head_hidden_size=widths[3],
    )


def mixed_log_bins(count: int, lowest: float, highest_m: float) -> Tensor:
    """Return bins_K in metres, from 8 x `lowest` to `highest_m`.

    Steps change evenly from logarithmic at the lower end to linear at the upper end; then all bins are
    multiplied by 8 (transformers, CHMv2FeaturesToDepth, "chmv2_mixlog").
    """
    highest = highest_m / 8
    share_K = torch.linspace(1, 0, count, dtype=torch.float64)
    linear_K = highest + (lowest - highest) * share_K
    log_K = highest * (lowest / highest) ** share_K
    return (8 * (share_K * log_K + (1 - share_K) * linear_K)).float()


def weights_with_mean(bins_K: Tensor, height_m: float) -> Tensor:
    """Return weights_K, positive and of sum 1, under which the bins' mean is `height_m`.

    They are proportional to exp(-rate x bin), which has the largest entropy of all weights with this mean, so
    training starts with every bin in reach.
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
    """Return image_BHW in the size of the pixels.

    The head gives 16 x 16 heights for each patch and rounds rows and columns of patches to even numbers.
    With patches of another size, or an odd number of them, its output has another size than the pixels.
    """
    if image_B1HW.shape[-2:] != pixels_BCHW.shape[-2:]:
        if image_B1HW.is_cuda and torch.are_deterministic_algorithms_enabled():
            return resampled(image_B1HW, *pixels_BCHW.shape[-2:])[:, 0]
        image_B1HW = interpolate(image_B1HW, pixels_BCHW.shape[-2:], mode="bilinear", antialias=True)
    return image_B1HW[:, 0]


def resampled(image_BCHW: Tensor, rows: int, columns: int) -> Tensor:
    """Resample images as `interpolate` does with antialias=True, but by products of matrices.

    The backward pass of `interpolate` has no deterministic form on GPUs
    (upsample_bilinear2d_aa_backward_out_cuda). In float64, so that no coarser arithmetic of a GPU takes part.
    """
    rows_RH = _resampling(image_BCHW.shape[-2], rows).to(image_BCHW.device)
    columns_CW = _resampling(image_BCHW.shape[-1], columns).to(image_BCHW.device)
    return (rows_RH @ image_BCHW.double() @ columns_CW.T).to(image_BCHW.dtype)


@lru_cache(maxsize=8)
def _resampling(before: int, after: int) -> Tensor:
    """Return weights (after, before) of an axis: what `interpolate` makes of each place alone."""
    with torch.inference_mode(False):  # they stay, and training uses them as well
        each = torch.eye(before)[None, None]  # in float32, since torch's weights are as exact as the image
        return interpolate(each, (after, before), mode="bilinear", antialias=True)[0, 0].double()
