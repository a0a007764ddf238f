"""`treeline evaluate`: a regressor's scores on chips, beside those of the two baselines."""

import sys
from typing import Any

import numpy as np
import torch

from shards.errors import InputError
from shards.progress import progress
from shards.reader import open_dataset
from shards.version import made_by_code
from trainer.checkpoint import Checkpoint, load_checkpoint
from trainer.config import EvaluateConfig, read_options
from trainer.evaluation import LINEAR, MEAN, REGRESSOR, Evaluation
from trainer.metrics import Score


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Score the checkpoint on the chips of a split.

    Raises:
        InputError: the split is empty, or its chips are not what the regressor was trained on.
    """
    checkpoint, dataset = load_checkpoint(config.checkpoint), open_dataset(config.data, read_options(config))
    trained_schema = checkpoint.regressor.schema
    if dataset.schema.label != trained_schema.label:
        raise InputError(
            f"{config.data}: chips have {dataset.schema.label or 'no label'}, but the checkpoint was trained "
            f"on {trained_schema.label}; choose another --data"
        )
    if (dataset.schema.bands, dataset.schema.dtype) != (trained_schema.bands, trained_schema.dtype):
        raise InputError(
            f"{config.data}: chips are {dataset.schema.dtype} {' '.join(dataset.schema.bands)}, but the "
            f"checkpoint was trained on {trained_schema.dtype} {' '.join(trained_schema.bands)}"
        )
    chips = dataset.chips(config.split, config.limit, config.where)
    if not chips.size:
        raise InputError(f"{config.data}: no chip is in the split {config.split!r}; choose another --split")
    scores = {name: Score.empty() for name in (REGRESSOR, LINEAR, MEAN)}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    regressor = checkpoint.regressor.to(device)
    met = 0
    with progress("evaluate", chips.size, "chips") as advance:
        for batch in dataset.batches(chips, config.batch_size):
            predicted_BHW, valid_BHW = regressor.predict(torch.from_numpy(batch.image_BCHW).to(device))
            measured_BHW = np.where(valid_BHW.cpu().numpy(), batch.height_BHW, np.nan)
            scores[REGRESSOR].add(predicted_BHW.cpu().numpy(), measured_BHW)
            _add_baselines(scores, checkpoint, batch.image_BCHW, measured_BHW)
            met += len(batch.chips)
            advance(batch.size)
    for trouble in dataset.troubles():
        print(f"treeline: {trouble}", file=sys.stderr, flush=True)
    about = {
        "checkpoint": config.checkpoint,
        "checkpoint_fingerprint": checkpoint.fingerprint,
        "data": config.data,
        "fingerprint": dataset.manifest.fingerprint,
        "split": config.split,
        "where": config.where,
        "limit": config.limit,
        "chips": met,
        **made_by_code(),
    }
    return Evaluation(scores, about)


def _add_baselines(
    scores: dict[str, Score], checkpoint: Checkpoint, image_BCHW: Any, height_BHW: Any
) -> None:
    linear_BHW = checkpoint.baselines.linear(image_BCHW)
    scores[LINEAR].add(linear_BHW, height_BHW)
    scores[MEAN].add(linear_BHW * 0 + checkpoint.baselines.mean_height, height_BHW)
