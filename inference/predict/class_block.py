"""Prediction of a block of pixel classes: the likeliest one by the mean of the windows' probabilities.

As for heights (inference.predict.block) each pixel comes from the same windows in the same order, however a
scene is cut.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.maps.map_file import NODATA
from inference.predict.map_options import MapOptions
from inference.predict.window_batches import WindowBatches, mean_of
from inference.tiling.blend import Blend, axes_of
from inference.tiling.halo import Halo
from inference.tiling.windows import Block
from shards.errors import DatasetError
from trainer.devices.precision import autocast
from trainer.model.class_model import ClassModel
from trainer.model.symmetries import turned, turned_back


def predict_class_block(model: ClassModel, block: Block, halo: Halo, method: MapOptions) -> NDArray[np.int16]:
    """Predict the block's map of class numbers as stored_1HW; NODATA where a used band is missing.

    Ties go to the class with the lowest number.
    """
    grid, device = method.grid, next(model.parameters()).device
    rows, columns = axes_of(block, grid, halo.scene_shape)
    halo = halo.reflected(rows.stop, columns.stop)
    valid_HW = model.normalise.valid(halo.image_CHW)
    own_valid_HW = valid_HW[halo.place(block.rows, block.columns)]
    if not own_valid_HW.any():
        return np.full((1, *own_valid_HW.shape), NODATA, np.int16)
    blends = [Blend(rows, columns, method.weighting, device) for _ in model.numbers]
    batches = WindowBatches(
        lambda image_BCHW: class_windows(model, image_BCHW, method), len(blends), method, device
    )
    for start, of_row_KNSS in batches.rows(halo, valid_HW, (rows, columns)):
        for blend, share_NSS in zip(blends, of_row_KNSS, strict=True):
            blend.add(start, share_NSS)
    best_HW = blends[0].mean()
    place_HW = torch.zeros_like(best_HW, dtype=torch.int64)
    for place, blend in enumerate(blends[1:], 1):
        share_HW = blend.mean()
        is_better_HW = share_HW > best_HW
        best_HW = torch.where(is_better_HW, share_HW, best_HW)
        place_HW = torch.where(is_better_HW, place, place_HW)
    if not best_HW.isfinite().cpu().numpy()[own_valid_HW].all():
        raise DatasetError(
            f"{block}: the model predicts probabilities that are not numbers; check its checkpoint"
        )
    number_HW = np.array(model.numbers, np.int16)[place_HW.cpu().numpy()]
    return np.where(own_valid_HW, number_HW, np.int16(NODATA))[None]


@torch.inference_mode()
def class_windows(model: ClassModel, image_BCHW: Tensor, method: MapOptions) -> Tensor:
    """Predict share_BKSS, the probabilities of classes, in windows of stored pixels on the model's device."""
    found = list[Tensor]()
    with autocast(method.precision, image_BCHW.device):
        pixels_BCHW, _ = model.normalise(image_BCHW)
        for symmetry in range(method.symmetries):
            turned_BCHW = turned(pixels_BCHW, symmetry).contiguous()
            logits_BKHW = model.decode(model.features(turned_BCHW), turned_BCHW).float()
            found.append(turned_back(logits_BKHW.softmax(1), symmetry))
    return mean_of(found)
