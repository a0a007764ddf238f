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
from inference.predict.ready_block import ReadyBlock
from inference.predict.window_batches import WindowBatches
from inference.tiling.windows import Span
from shards.errors import DatasetError
from trainer.devices.precision import autocast
from trainer.model.encoder import patches_valid
from trainer.model.tile_model import TileModel


def predict_tile_block(
    model: TileModel, ready: ReadyBlock, method: MapOptions, content: MapContent
) -> NDArray[Any]:
    """Predict the block's map of tiles as stored_1HW, float32 values or int16 numbers of classes."""
    device, block, halo = next(model.parameters()).device, ready.block, ready.halo
    stored_HW = np.full((len(block.rows), len(block.columns)), NODATA, content.dtype)
    whole_RK, some_RK = _tiles_valid(ready, content.tile, model.encoder.patch_size)

    @torch.inference_mode()
    def predict(image_BCHW: Tensor) -> Tensor:
        with autocast(method.precision, image_BCHW.device):
            outputs_BK, _ = model.predict(image_BCHW)
        return outputs_BK

    batches = WindowBatches(predict, model.head.outputs, method, device)
    # Apart, since attention has a mask where a tile of the batch misses patches. Other instructions compute
    # it, so a tile's bits could depend on its neighbours.
    for chosen_RK in (whole_RK, some_RK & ~whole_RK):
        row_N, column_N = np.nonzero(chosen_RK)
        first = block.rows.start * content.tile - halo.row, block.columns.start * content.tile - halo.column
        place_2N = np.stack([row_N, column_N]) * content.tile + np.array(first)[:, None]
        found = list(batches.at(ready, place_2N))
        if not found:
            continue
        outputs_NK = torch.cat(found).cpu()
        if not outputs_NK.isfinite().all():
            raise DatasetError(f"{block}: the model predicts what is no number; check its checkpoint")
        stored_HW[row_N, column_N] = _stored(outputs_NK, content)
    return stored_HW[None]


def _tiles_valid(
    ready: ReadyBlock, side: int, patch_size: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell in which of the block's tiles all patches are valid (whole_RK), and in which any is (some_RK)."""
    block, halo = ready.block, ready.halo
    shape = len(block.rows), len(block.columns)
    whole_RK, some_RK = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    rows, columns = (
        Span(span.start * side, min(span.stop, length // side) * side)
        for span, length in zip((block.rows, block.columns), halo.scene_shape, strict=True)
    )
    # Tiles that reach beyond the scene's end are at its end, so the others lie side by side.
    valid_HW = torch.from_numpy(ready.valid_HW[halo.place(rows, columns)])
    inside = len(rows) // side, len(columns) // side
    if valid_HW.numel():
        valid_RKHW = valid_HW.reshape(inside[0], side, inside[1], side).transpose(1, 2)
        valid_RKN = patches_valid(valid_RKHW.flatten(0, 1), patch_size).reshape(*inside, -1)
        of_inside = tuple(map(slice, inside))
        whole_RK[of_inside], some_RK[of_inside] = valid_RKN.all(2).numpy(), valid_RKN.any(2).numpy()
    return whole_RK, some_RK


def _stored(outputs_NK: Tensor, content: MapContent) -> NDArray[Any]:
    """Return the values of tiles, or the numbers of their likeliest classes."""
    if not content.classes:
        return np.asarray(outputs_NK[:, 0].numpy())
    numbers_K = np.array([number for number, _ in content.classes], np.int16)
    return np.asarray(numbers_K[outputs_NK.argmax(1).numpy()])
