"""Prediction of a block of a map of tiles: a pixel of the map is a tile of the scene.

Tiles lie side by side from the scene's first pixel. One that reaches beyond the scene's end has no value, and
neither has one without a patch of which at least half is valid.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.maps.map_file import NODATA
from inference.predict.map_content import MapContent
from inference.predict.map_options import MapOptions
from inference.predict.window_batches import WindowBatches
from inference.tiling.halo import Halo
from inference.tiling.windows import Block, Span
from shards.errors import DatasetError
from trainer.devices.precision import autocast
from trainer.model.encoder import patches_valid
from trainer.model.tile_model import TileModel


def predict_tile_block(
    model: TileModel, block: Block, halo: Halo, method: MapOptions, content: MapContent
) -> NDArray[Any]:
    """Predict the block's map of tiles as stored_1HW, float32 values or int16 numbers of classes."""
    device, side = next(model.parameters()).device, content.tile
    stored_HW = np.full((len(block.rows), len(block.columns)), NODATA, content.dtype)
    valid_HW = model.encoder.normalise.valid(halo.image_CHW)
    complete, partial = dict[tuple[int, int], Any](), dict[tuple[int, int], Any]()
    for row in range(block.rows.start, block.rows.stop):
        for column in range(block.columns.start, block.columns.stop):
            if (row + 1) * side > halo.scene_shape[0] or (column + 1) * side > halo.scene_shape[1]:
                continue
            place = halo.place(*(Span(one * side, (one + 1) * side) for one in (row, column)))
            valid_1HW = torch.from_numpy(valid_HW[place])[None]
            valid_N = patches_valid(valid_1HW, model.encoder.patch_size)[0]
            if valid_N.any():
                (complete if valid_N.all() else partial)[row, column] = place

    @torch.inference_mode()
    def predict(image_BCHW: Tensor) -> Tensor:
        with autocast(method.precision, image_BCHW.device):
            outputs_BK, _ = model.predict(image_BCHW)
        return outputs_BK

    batches = WindowBatches(predict, model.head.outputs, method, device)
    # Apart, since attention has a mask where a tile of the batch misses patches. Other instructions compute
    # it, so a tile's bits could depend on its neighbours.
    for tiles in (complete, partial):
        found = [outputs_BK.cpu() for outputs_BK in batches.of_places(list(tiles.values()), halo, fill=True)]
        if not found:
            continue
        outputs_NK = torch.cat(found)
        if not outputs_NK.isfinite().all():
            raise DatasetError(f"{block}: the model predicts what is no number; check its checkpoint")
        values_N = _stored(outputs_NK, content)
        for (row, column), value in zip(tiles, values_N, strict=True):
            stored_HW[row - block.rows.start, column - block.columns.start] = value
    return stored_HW[None]


def _stored(outputs_NK: Tensor, content: MapContent) -> NDArray[Any]:
    """Return the values of tiles, or the numbers of their likeliest classes."""
    if not content.classes:
        return np.asarray(outputs_NK[:, 0].numpy())
    numbers_K = np.array([number for number, _ in content.classes], np.int16)
    return np.asarray(numbers_K[outputs_NK.argmax(1).numpy()])
