"""Prediction of a block of heights: windows of the scene's global grid, weighted and summed in a fixed order.

However a scene is cut, and whichever process computes, each pixel comes from the same windows, in the same
order, in batches of the same shape. So a map has the same bytes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.maps.map_file import NODATA, MapBand
from inference.predict.map_options import MapOptions
from inference.predict.window_batches import WindowBatches, mean_of
from inference.tiling.blend import Blend, axes_of
from inference.tiling.halo import Halo
from inference.tiling.windows import Block
from shards.errors import DatasetError
from trainer.devices.precision import autocast
from trainer.model.regressor import Regressor
from trainer.model.symmetries import turned, turned_back


def predict_block(regressor: Regressor, block: Block, halo: Halo, method: MapOptions) -> NDArray[np.int16]:
    """Predict the block's map as stored_CHW, bands as `method.bands`; -9999 where a used band is missing."""
    metres, valid_HW = metres_of_block(regressor, block, halo, method)
    stored = [stored_metres(values_HW, band) for values_HW, band in zip(metres, method.bands, strict=True)]
    return np.where(valid_HW, np.stack(stored), NODATA).astype(np.int16)


def metres_of_block(
    regressor: Regressor, block: Block, halo: Halo, method: MapOptions
) -> tuple[list[Tensor], NDArray[np.bool_]]:
    """Predict the block's heights and, if `method` asks for it, their spread. Heights are never below 0.

    Windows without a valid pixel are skipped.

    Returns:
        values_HW in metres, one for each of `method.bands`, and valid_HW: whether all used bands have a
        value. Values are undefined where valid_HW is false.
    """
    grid, device = method.grid, next(regressor.parameters()).device
    rows, columns = axes_of(block, grid, halo.scene_shape)
    halo = halo.reflected(rows.stop, columns.stop)
    valid_HW = regressor.normalise.valid(halo.image_CHW)
    own_valid_HW = valid_HW[halo.place(block.rows, block.columns)]
    if not own_valid_HW.any():
        return [torch.zeros(own_valid_HW.shape) for _ in method.bands], own_valid_HW
    height = Blend(rows, columns, method.weighting, device)
    # A spread is a difference of squares, which loses half of the digits.
    moments = [
        Blend(rows, columns, method.weighting, device, torch.float64) for _ in range(2 * method.spread)
    ]

    def predict(image_BCHW: Tensor) -> Tensor:
        windows = predict_windows(regressor, image_BCHW, method)
        return torch.stack([windows.height_NSS, windows.square_NSS][: 1 + method.spread], 1)

    batches = WindowBatches(predict, 1 + method.spread, method, device)
    for start, of_row_MNSS in batches.rows(halo, valid_HW, (rows, columns)):
        height.add(start, of_row_MNSS[0])
        for blend, values_NSS in zip(moments, of_row_MNSS, strict=False):
            blend.add(start, values_NSS)
    height_HW = height.mean()
    if not height_HW.isfinite().cpu().numpy()[own_valid_HW].all():
        raise DatasetError(
            f"{block}: the regressor predicts heights that are not numbers; check its checkpoint"
        )
    metres = [height_HW.nan_to_num()]
    if moments:
        mean_HW, square_HW = (blend.mean() for blend in moments)
        metres.append((square_HW - mean_HW.square()).clamp(min=0).sqrt())
    return metres, own_valid_HW


@dataclass(frozen=True)
class Windows:
    """Predictions of windows: heights in metres, and mean squares, which include the decoder's own spread."""

    height_NSS: Tensor
    square_NSS: Tensor


@torch.inference_mode()
def predict_windows(regressor: Regressor, image_BCHW: Tensor, method: MapOptions) -> Windows:
    """Predict windows of stored pixels, on the regressor's device."""
    heights, squares = list[Tensor](), list[Tensor]()
    with autocast(method.precision, image_BCHW.device):
        pixels_BCHW, _ = regressor.normalise(image_BCHW)
        for symmetry in range(method.symmetries):
            turned_BCHW = turned(pixels_BCHW, symmetry).contiguous()
            features = regressor.features(turned_BCHW)
            height_BHW = regressor.decode(features, turned_BCHW).float().clamp(min=0)
            heights.append(turned_back(height_BHW, symmetry))
            if method.spread:
                square_BHW = height_BHW.square()
                own_BHW = regressor.decoder.spread(features, turned_BCHW)
                if own_BHW is not None:
                    square_BHW = square_BHW + own_BHW.float().square()
                squares.append(turned_back(square_BHW, symmetry))
    return Windows(mean_of(heights), mean_of(squares or heights))


def stored_metres(values_HW: Tensor, band: MapBand) -> NDArray[np.int16]:
    """Convert metres to the steps that the band stores."""
    steps_HW = (values_HW * round(1 / band.scale)).clamp(0, np.iinfo(np.int16).max).cpu().numpy()
    stored_HW: NDArray[np.int16] = np.rint(steps_HW).astype(np.int16)
    return stored_HW
