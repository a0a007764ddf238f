"""Linear functions of a pixel's stored numbers, on the device: the regressions that models must beat."""

from collections.abc import Sequence

import torch
from torch import Tensor


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
    bands_FBHW = [image_BCHW[:, place].double() for place in places]
    values = []
    for *slopes, intercept in coefficients_KF:
        value_BHW = bands_FBHW[0] * slopes[0]
        for band_BHW, slope in zip(bands_FBHW[1:], slopes[1:], strict=True):
            value_BHW.add_(band_BHW * slope)
        values.append(value_BHW.add_(intercept))
    return torch.stack(values, 1)
