"""A regressor in memory that predicts blocks, on this machine's GPU or CPU."""

from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray

from inference.config import PredictConfig
from inference.predict.block import predict_block, predict_windows
from inference.predict.block_tasks import MapJob
from inference.tiling.halo import Halo
from inference.tiling.windows import Block
from shards.errors import InputError
from trainer.model.checkpoint import load_checkpoint
from trainer.model.regressor import Regressor

LARGEST_BATCH = 4096


class Predictor:
    """Predictor of blocks: one regressor in memory, on this machine's GPU if it has one."""

    def __init__(self, job: MapJob) -> None:
        """Load the regressor.

        Raises:
            InputError: the checkpoint is no longer the one that the run began with.
        """
        self._regressor, self._options = _regressor_here(job), job.options

    def __call__(self, block: Block, halo: Halo) -> NDArray[np.int16]:
        """Compute the stored_CHW of the block."""
        return predict_block(self._regressor, block, halo, self._options)


def batch_size_that_fits(job: MapJob) -> int:
    """Find a batch size: half the largest power of 2 whose windows fit on this GPU; 32 on a CPU."""
    regressor = _regressor_here(job)
    device = next(regressor.parameters()).device
    if device.type != "cuda":
        return PredictConfig.batch_size
    window = len(job.schema.bands), job.options.grid.size, job.options.grid.size
    tried = 1
    with suppress(torch.cuda.OutOfMemoryError):
        while tried < 2 * LARGEST_BATCH:
            image_BCHW = torch.from_numpy(np.zeros((2 * tried, *window), job.schema.dtype))
            predict_windows(regressor, image_BCHW.to(device), job.options)
            tried *= 2
    torch.cuda.empty_cache()
    return max(1, tried // 2)


def _regressor_here(job: MapJob) -> Regressor:
    checkpoint = load_checkpoint(job.checkpoint)
    if checkpoint.fingerprint != job.fingerprint:
        raise InputError(f"{job.checkpoint}: has changed since this run began; run the command again")
    return checkpoint.regressor.to("cuda" if torch.cuda.is_available() else "cpu")
