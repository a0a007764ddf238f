"""A model in memory that predicts blocks, on the device that the driver decided on."""

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference.config import PredictConfig
from inference.predict.block import predict_block, predict_windows
from inference.predict.block_tasks import MapJob
from inference.predict.class_block import class_windows, predict_class_block
from inference.predict.tile_block import predict_tile_block
from inference.tiling.halo import Halo
from inference.tiling.windows import Block
from shards.errors import InputError
from trainer.devices.cards import usable
from trainer.model.checkpoint import load_checkpoint
from trainer.model.class_checkpoint import load_class_checkpoint
from trainer.model.class_model import ClassModel
from trainer.model.regressor import Regressor
from trainer.model.tile_checkpoint import load_tile_checkpoint
from trainer.model.tile_model import TileModel

LARGEST_BATCH = 4096
Model = Regressor | ClassModel | TileModel


class Predictor:
    """Predictor of blocks: one model in memory, on the job's device."""

    def __init__(self, job: MapJob) -> None:
        """Load the model.

        Raises:
            InputError: the checkpoint is no longer the one that the run began with.
        """
        self._model, self._job = _model_here(job), job

    def __call__(self, block: Block, halo: Halo) -> NDArray[Any]:
        """Compute the stored_CHW of the block."""
        model, options = self._model, self._job.options
        if isinstance(model, TileModel):
            return predict_tile_block(model, block, halo, options, self._job.content)
        if isinstance(model, ClassModel):
            return predict_class_block(model, block, halo, options)
        return predict_block(model, block, halo, options)


def batch_size_that_fits(job: MapJob) -> int:
    """Find a batch size: half the largest power of 2 whose windows fit on this GPU; 32 on a CPU."""
    model = _model_here(job)
    device = next(model.parameters()).device
    if device.type != "cuda":
        return PredictConfig.batch_size
    window = len(job.schema.bands), job.options.grid.size, job.options.grid.size
    tried = 1
    with suppress(torch.cuda.OutOfMemoryError):
        while tried < 2 * LARGEST_BATCH:
            image_BCHW = torch.from_numpy(np.zeros((2 * tried, *window), job.schema.dtype)).to(device)
            if isinstance(model, TileModel):
                model.predict(image_BCHW)
            elif isinstance(model, ClassModel):
                class_windows(model, image_BCHW, job.options)
            else:
                predict_windows(model, image_BCHW, job.options)
            tried *= 2
    torch.cuda.empty_cache()
    return max(1, tried // 2)


def _model_here(job: MapJob) -> Model:
    """Load the checkpoint that the run began with, onto the job's device."""
    model, fingerprint = _loaded(job)
    if fingerprint != job.fingerprint:
        raise InputError(f"{job.checkpoint}: has changed since this run began; run the command again")
    return model.to(usable(job.device))


def _loaded(job: MapJob) -> tuple[Model, str]:
    """Return the model and its checkpoint's fingerprint."""
    if job.content.kind == "tiles":
        of_tiles = load_tile_checkpoint(job.checkpoint)
        return of_tiles.model, of_tiles.fingerprint
    if job.content.kind == "pixel classes":
        of_classes = load_class_checkpoint(job.checkpoint)
        return of_classes.model, of_classes.fingerprint
    checkpoint = load_checkpoint(job.checkpoint)
    return checkpoint.regressor, checkpoint.fingerprint
