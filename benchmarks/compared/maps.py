"""A map of the ground that is scored, made in the same way by every model: windows and their blending."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WINDOW, STRIDE, BATCH = 64, 16, 32
Predict = Callable[[Tensor], Tensor]
"""Function that predicts height_BHW in metres from stored pixels (B, C, H, W)."""


def mapped(predict: Predict, image_CHW: NDArray[Any], symmetries: int = 1) -> NDArray[np.float32]:
    """Predict height_HW: windows of 64 pixels, every 16, weighted by a pyramid; never below 0."""
    rows, columns = (_starts(side) for side in image_CHW.shape[1:])
    places = [(row, column) for row in rows for column in columns]
    rise_S = 1 - np.abs(np.linspace(-1, 1, WINDOW + 2)[1:-1])
    weight_SS = torch.from_numpy(np.outer(rise_S, rise_S).astype(np.float32))
    sum_HW, weights_HW = torch.zeros(image_CHW.shape[1:]), torch.zeros(image_CHW.shape[1:])
    image = torch.from_numpy(image_CHW)
    for start in range(0, len(places), BATCH):
        some = places[start : start + BATCH]
        windows_BCSS = torch.stack([image[:, r : r + WINDOW, c : c + WINDOW] for r, c in some])
        with torch.inference_mode():
            height_BSS = _turned_mean(predict, windows_BCSS, symmetries)
        for (row, column), height_SS in zip(some, height_BSS, strict=True):
            at = slice(row, row + WINDOW), slice(column, column + WINDOW)
            sum_HW[at] += height_SS * weight_SS
            weights_HW[at] += weight_SS
    height_HW: NDArray[np.float32] = (sum_HW / weights_HW).numpy()
    return height_HW


def _turned_mean(predict: Predict, windows_BCSS: Tensor, symmetries: int) -> Tensor:
    """Predict in several orientations, turn back, and average."""
    found = list[Tensor]()
    for number in range(symmetries):
        turned = windows_BCSS.flip(-1) if number >= 4 else windows_BCSS
        height_BSS = predict(torch.rot90(turned, number % 4, (-2, -1))).clamp(min=0)
        back = torch.rot90(height_BSS, -(number % 4), (-2, -1))
        found.append(back.flip(-1) if number >= 4 else back)
    return torch.stack(found).mean(0)


def _starts(side: int) -> list[int]:
    return sorted({*range(0, side - WINDOW + 1, STRIDE), side - WINDOW})
