"""U-Nets as anybody trains them in an afternoon, for an equal number of seconds of the processor.

PLAIN      16, 32, 64, 128 channels, two 3x3 convolutions with batch norm and ReLU a level, max pooling,
           AdamW at 3e-3 with a cosine, random crops of 64 in all eight orientations, squared error
SHARED     the same network with the optimiser, augmentation and average of Treeline's default
"""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from compared.maps import Predict
from compared.places import Ground

CROP, BATCH, RATE, WEIGHT_DECAY = 64, 16, 3e-3, 1e-2


class UNet(nn.Module):
    """The plain U-Net, whose output is in deviations from the mean of the training heights."""

    def __init__(self, bands: int, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        pairs = list(zip((bands, *widths[:-1]), widths, strict=True))
        self.falls = nn.ModuleList(_level(*pair) for pair in pairs)
        self.narrows = nn.ModuleList(nn.Conv2d(below, width, 1) for width, below in pairs[:0:-1])
        self.rises = nn.ModuleList(_level(2 * width, width) for width, _ in pairs[:0:-1])
        self.head = nn.Conv2d(widths[0], 1, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return height_BHW in deviations."""
        features_BCHW, seen = pixels_BCHW, list[Tensor]()
        for number, fall in enumerate(self.falls):
            features_BCHW = fall(max_pool2d(features_BCHW, 2) if number else features_BCHW)
            seen.append(features_BCHW)
        features_BCHW = seen.pop()
        for narrow, rise in zip(self.narrows, self.rises, strict=True):
            beside_BCHW = seen.pop()
            risen_BCHW = interpolate(narrow(features_BCHW), beside_BCHW.shape[-2:], mode="bilinear")
            features_BCHW = rise(torch.cat((risen_BCHW, beside_BCHW), 1))
        height_BHW: Tensor = self.head(features_BCHW)[:, 0]
        return height_BHW


def _level(width_in: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_of_input in (width_in, width):
        convolution = nn.Conv2d(width_of_input, width, 3, padding=1, bias=False)
        layers += (convolution, nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Recipe:
    """Settings of a peer's training."""

    muon_rate: float = 0.0
    """Peak rate of Muon, for matrices and kernels; 0: AdamW for all."""
    weight_decay: float = WEIGHT_DECAY
    jitter: float = 0.0
    """Deviation of gain and offset of each band, in deviations."""
    average: float = 0.0
    """Decay of the average of the weights."""
    batch: int = BATCH


@dataclass(frozen=True)
class Trained:
    """A trained peer."""

    predict: Predict
    seconds: float
    """Seconds of the processor that training took, from the first batch on."""
    steps: int


class Normal:
    """Normalisation of pixels by the mean and deviation of the training pixels; missing ones become 0."""

    def __init__(self, ground: Ground) -> None:
        image = torch.from_numpy(ground.image_CHW.astype(np.float32))
        there_HW = torch.from_numpy(_has_image(ground.image_CHW, ground.profile["nodata"]))
        self.nodata = ground.profile["nodata"]
        self.mean_C11 = torch.stack([band[there_HW].mean() for band in image])[:, None, None]
        self.std_C11 = torch.stack([band[there_HW].std() for band in image])[:, None, None]

    def __call__(self, image: Tensor) -> Tensor:
        """Normalise stored pixels, (..., C, H, W)."""
        pixels = (image.float() - self.mean_C11) / self.std_C11
        return pixels if self.nodata is None else pixels.masked_fill(image == self.nodata, 0.0)


def train(ground: Ground, recipe: Recipe, seconds: float, seed: int) -> Trained:
    """Train a U-Net for this many seconds of the processor."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    normal = Normal(ground)
    image, heights = normal(torch.from_numpy(ground.image_CHW)), torch.from_numpy(ground.height_HW)
    heights = heights.masked_fill(
        torch.from_numpy(~_has_image(ground.image_CHW, ground.profile["nodata"])), float("nan")
    )
    measured_N = heights[heights.isfinite()]
    mean_m, deviation_m = float(measured_N.mean()), float(measured_N.std())
    model: nn.Module = UNet(len(image)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimisers = list(_optimisers(model, recipe))
    average = copy.deepcopy(model) if recipe.average else None
    begun, steps = time.process_time(), 0
    while (share := (time.process_time() - begun) / seconds) < 1:
        pixels_BCHW, target_BHW = _batch(image, heights, recipe, generator)
        predicted_BHW = model(pixels_BCHW.contiguous(memory_format=torch.channels_last))
        there_BHW = target_BHW.isfinite()
        loss = (mean_m + deviation_m * predicted_BHW - target_BHW)[there_BHW].square().mean()
        loss.backward()
        for optimiser, rate in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * share))
            optimiser.step()
            optimiser.zero_grad()
        steps += 1
        if average is not None:
            _lerp(average, model, 1 - min(recipe.average, (1 + steps) / (10 + steps)))
    trained = (average or model).eval()

    def predict(image_BCHW: Tensor) -> Tensor:
        pixels_BCHW = normal(image_BCHW).contiguous(memory_format=torch.channels_last)
        height_BHW: Tensor = mean_m + deviation_m * trained(pixels_BCHW)
        return height_BHW

    return Trained(predict, time.process_time() - begun, steps)


def _batch(
    image: Tensor, heights: Tensor, recipe: Recipe, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Cut random crops, turn them, and change their bands."""
    crops = list[tuple[Tensor, Tensor]]()
    for _ in range(recipe.batch):
        row, column = (int(generator.integers(side - CROP + 1)) for side in heights.shape)
        number = int(generator.integers(8))
        at = slice(row, row + CROP), slice(column, column + CROP)
        turned = (image[(slice(None), *at)], heights[at])
        if number >= 4:
            turned = (turned[0].flip(-1), turned[1].flip(-1))
        pixels, height = (torch.rot90(one, number % 4, (-2, -1)) for one in turned)
        crops.append((pixels, height))
    pixels_BCHW = torch.stack([pixels for pixels, _ in crops])
    if recipe.jitter:
        shape = (*pixels_BCHW.shape[:2], 1, 1)
        gain, offset = (
            torch.from_numpy(generator.normal(middle, recipe.jitter, shape).astype(np.float32))
            for middle in (1.0, 0.0)
        )
        pixels_BCHW = pixels_BCHW * gain + offset
    return pixels_BCHW, torch.stack([height for _, height in crops])


def _optimisers(model: nn.Module, recipe: Recipe) -> Iterator[tuple[torch.optim.Optimizer, float]]:
    """Yield optimisers with their peak rates."""
    kernels = [
        weight
        for name, weight in model.named_parameters()
        if weight.ndim == 4 and not name.startswith("head")
    ]
    if recipe.muon_rate:
        from trainer.fit.muon import Muon

        yield Muon(kernels, lr=recipe.muon_rate, weight_decay=recipe.weight_decay), recipe.muon_rate
    chosen = {id(weight) for weight in kernels} if recipe.muon_rate else set()
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    yield torch.optim.AdamW(others, RATE, weight_decay=recipe.weight_decay, fused=True), RATE


@torch.no_grad()
def _lerp(average: nn.Module, model: nn.Module, share: float) -> None:
    """Move the average towards the model, its running statistics as well."""
    for one, other in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if one.is_floating_point():
            one.lerp_(other, share)


def _has_image(image_CHW: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    if nodata is None:
        return np.ones(image_CHW.shape[1:], np.bool_)
    there_HW: NDArray[np.bool_] = (image_CHW != nodata).all(0)
    return there_HW
