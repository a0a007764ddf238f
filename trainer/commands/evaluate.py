"""`treeline evaluate`: a regressor's scores on chips, beside those of the two baselines."""

import sys
from itertools import chain

import torch

from shards.errors import InputError
from shards.format.band_values import difference
from shards.progress import progress
from shards.read.dataset import open_dataset
from shards.version import made_by_code
from trainer.config import EvaluateConfig
from trainer.data.feed import Fed
from trainer.devices.ranks import device_here
from trainer.fit.heights import height_sums, measured_heights, score_of
from trainer.fit.scoring import Sums, add_up
from trainer.model.checkpoint import load_checkpoint
from trainer.score.baselines import MEAN
from trainer.score.evaluation import LINEAR, REGRESSOR, Evaluation


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Score the checkpoint on the chips of a split.

    Raises:
        InputError: the split is empty, or its chips are not what the regressor was trained on.
    """
    checkpoint = load_checkpoint(config.checkpoint)
    dataset = open_dataset(config.data, config.reading.read_options)
    trained_schema = checkpoint.regressor.schema
    if dataset.schema.label != trained_schema.label:
        raise InputError(
            f"{config.data}: chips have {dataset.schema.label or 'no label'}, but the checkpoint was trained "
            f"on {trained_schema.label}; choose another --data"
        )
    if differs := difference(dataset.schema, trained_schema):
        raise InputError(
            f"{config.data}: chips {differs}; they must be as in training, so choose another --data or "
            "--checkpoint"
        )
    chips = dataset.chips(config.split, config.limit, config.where)
    if not chips.size:
        where = f" where {config.where}" if config.where else ""
        raise InputError(
            f"{config.data}: no chip is in the split {config.split!r}{where}; choose another --split"
            f"{' or --where' if where else ''}"
        )
    device = device_here()
    regressor, baselines = checkpoint.regressor.to(device), checkpoint.baselines
    with progress("evaluate", chips.size, "chips") as advance:

        def sums_of(fed: Fed) -> Sums:
            predicted_BHW, valid_BHW = regressor.predict(fed.image_BCHW)
            linear_BHW = torch.from_numpy(baselines.linear(fed.batch.image_BCHW))
            measured_BHW = measured_heights(fed, valid_BHW)
            compared = (predicted_BHW, linear_BHW, linear_BHW * 0 + baselines.mean_height)
            advance(fed.batch.size)
            found = torch.tensor(len(fed.batch.chips))
            return found, *chain(*(height_sums(of_one_BHW, measured_BHW) for of_one_BHW in compared))

        met, *sums = add_up(sums_of, dataset.batches(chips, config.batch_size), dataset.schema, device)
    pairs = zip(sums[::2], sums[1::2], strict=True)
    scores = {name: score_of(*pair) for name, pair in zip((REGRESSOR, LINEAR, MEAN), pairs, strict=True)}
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
        "chips": int(met),
        **made_by_code(),
    }
    return Evaluation(scores, about)
