"""A model in memory that predicts blocks, on the device that the driver decided on."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference.predict.batch_search import most_windows, useful_batch
from inference.predict.block import predict_block, predict_windows
from inference.predict.block_tasks import MapJob
from inference.predict.class_block import class_windows, predict_class_block
from inference.predict.map_options import MapOptions
from inference.predict.ready_block import ReadyBlock, ready_block
from inference.predict.tile_block import predict_tile_block
from inference.tiling.halo import Halo
from inference.tiling.windows import Block
from shards.errors import InputError
from trainer.devices.cards import suited_half, usable
from trainer.devices.out_of_memory import is_out_of_memory
from trainer.devices.precision import autocast, predicting
from trainer.model.class_model import ClassModel
from trainer.model.frozen_backbone import placed_on
from trainer.model.load_any import load_model
from trainer.model.regressor import Regressor
from trainer.model.tile_model import TileModel

TRIES = 2
"""Times that a batch is timed; the shorter one counts."""
Model = Regressor | ClassModel | TileModel


@dataclass(frozen=True)
class PredictedBlock:
    """Block of a map, and how it was computed."""

    stored_CHW: NDArray[Any]
    batch_size: int
    """Windows at a time; fewer than the job's where those did not fit into memory."""


class Predictor:
    """Predictor of blocks: one model in memory, on the job's device."""

    def __init__(self, job: MapJob, model: Model | None = None) -> None:
        """Load the model, unless it is given.

        Raises:
            InputError: the checkpoint is no longer the one that the run began with.
        """
        self._model, self._job = model or model_here(job), job

    def ready(self, block: Block, halo: Halo) -> ReadyBlock:
        """Prepare a block, in any thread."""
        model, tiles = self._model, self._job.content.kind == "tiles"
        normalise = model.encoder.normalise if isinstance(model, TileModel) else model.normalise
        device = next(model.parameters()).device
        return ready_block(normalise, block, halo, None if tiles else self._job.options.grid, device)

    def __call__(self, ready: ReadyBlock) -> PredictedBlock:
        """Compute the block; where its batches do not fit into memory, anew with batches of half the size.

        Raises:
            torch.OutOfMemoryError: not even one window fits.
        """
        options = self._job.options
        with predicting(options.precision):
            while True:
                stored_CHW = self._computed(ready, options)
                if stored_CHW is not None:
                    return PredictedBlock(stored_CHW, options.batch_size)
                options = replace(options, batch_size=options.batch_size // 2)

    def _computed(self, ready: ReadyBlock, options: MapOptions) -> NDArray[Any] | None:
        """Compute the stored_CHW of the block; None if memory is too small for more than one window."""
        model = self._model
        try:
            if isinstance(model, TileModel):
                return predict_tile_block(model, ready, options, self._job.content)
            if isinstance(model, ClassModel):
                return predict_class_block(model, ready, options)
            return predict_block(model, ready, options)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if options.batch_size == 1:
                size, half = options.grid.size, suited_half(torch.device(self._job.device))
                raise torch.OutOfMemoryError(
                    f"{self._job.device} has too little memory for the model and one window of {size} "
                    f"pixels; give a smaller --window, --precision {half}, or another --device"
                ) from error
        # Only now, when the error no longer holds what was computed so far.
        if self._job.device == "cuda":
            torch.cuda.empty_cache()
        return None


def batch_size_that_fits(job: MapJob, model: Model | None = None) -> int:
    """Find a batch size for this GPU (see `useful_batch`), with the model if it is in memory already."""
    model = model or model_here(job)
    device = next(model.parameters()).device
    window = len(job.schema.bands), job.options.grid.size, job.options.grid.size

    def compute(size: int) -> float:
        image_BCHW = torch.from_numpy(np.zeros((size, *window), job.schema.dtype)).to(device)
        seconds = list[float]()
        for _ in range(1 + TRIES):
            torch.cuda.synchronize(device)
            start = time.perf_counter()
            if isinstance(model, TileModel):
                with autocast(job.options.precision, device):
                    model.predict(image_BCHW)
            elif isinstance(model, ClassModel):
                class_windows(model, image_BCHW, job.options)
            else:
                predict_windows(model, image_BCHW, job.options)
            torch.cuda.synchronize(device)  # kernels fail only then
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])  # the first run also loads kernels

    with predicting(job.options.precision):
        found = useful_batch(compute, most_windows(job.options.grid.size))
    torch.cuda.empty_cache()
    return found


def model_here(job: MapJob) -> Model:
    """Load the checkpoint that the run began with, onto the job's device."""
    model, fingerprint = load_model(job.checkpoint, job.trust)
    if fingerprint != job.fingerprint:
        raise InputError(f"{job.checkpoint}: has changed since this run began; run the command again")
    return placed_on(model, job.options.precision, usable(job.device))
