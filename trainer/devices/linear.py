"""Linear functions of a pixel's stored numbers, on the device: the regressions that models must beat."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.devices.score_sums import chips_at_once


def linear(
    image_BCHW: Tensor, coefficients_KF: Sequence[Sequence[float]], positions: Sequence[int] | None = None
) -> Tensor:
    """Compute values_BKHW in float64, band after band, so that a pixel's value depends on it alone.

    Args:
        image_BCHW: image as stored, of any dtype.
        coefficients_KF: for each value the slopes of the bands, then the intercept.
        positions: bands that the slopes belong to; default: all.
    """
    places = range(image_BCHW.shape[1]) if positions is None else positions
    parts = image_BCHW.split(chips_at_once(image_BCHW[:, 0]))
    return torch.cat([_linear(part, coefficients_KF, places) for part in parts])


def _linear(image_BCHW: Tensor, coefficients_KF: Sequence[Sequence[float]], places: Sequence[int]) -> Tensor:
    bands_FBHW = [image_BCHW[:, place].double() for place in places]
    values = []
    for *slopes, intercept in coefficients_KF:
        value_BHW = torch.full_like(bands_FBHW[0], intercept)
        for band_BHW, slope in zip(bands_FBHW, slopes, strict=True):
            value_BHW.add_(band_BHW, alpha=slope)
        values.append(value_BHW)
    return torch.stack(values, 1)
