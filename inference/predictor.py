"""A regressor in memory that predicts blocks, where this machine computes."""

from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray

from inference.block import predict_block, predict_windows
from inference.halo import Halo
from inference.method import Method
from inference.windows import Block
from trainer.checkpoint import load_checkpoint
from trainer.model import Regressor

BATCH = 32
LARGEST_BATCH = 4096


class Predictor:
    """Predicts blocks with one regressor in memory, on this machine's GPU if it has one."""

    def __init__(self, checkpoint: str, method: Method) -> None:
        self._regressor, self._method = regressor_here(checkpoint), method
        self.schema = self._regressor.schema

    def __call__(self, block: Block, halo: Halo) -> NDArray[np.int16]:
        """stored_CHW of the block."""
        return predict_block(self._regressor, block, halo, self._method)


def regressor_here(checkpoint: str) -> Regressor:
    """The checkpoint's regressor, where this machine computes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return load_checkpoint(checkpoint).regressor.to(device)


def batch_size_that_fits(checkpoint: str, method: Method) -> int:
    """Windows at a time: half of the most (a power of 2) that this machine's GPU takes; on a CPU 32."""
    regressor = regressor_here(checkpoint)
    device = next(regressor.parameters()).device
    if device.type != "cuda":
        return BATCH
    window = len(regressor.schema.bands), method.grid.size, method.grid.size
    tried = 1
    with suppress(torch.cuda.OutOfMemoryError):
        while tried < 2 * LARGEST_BATCH:
            image_BCHW = torch.from_numpy(np.zeros((2 * tried, *window), regressor.schema.dtype))
            predict_windows(regressor, image_BCHW.to(device), method)
            tried *= 2
    torch.cuda.empty_cache()
    return max(1, tried // 2)
