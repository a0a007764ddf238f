"""`treeline evaluate`: a regressor's scores on chips, beside those of the two baselines."""

from itertools import chain

import torch

from shards.progress import progress
from shards.read.dataset import open_dataset
from trainer.commands.evaluated import (
    about_scores,
    chips_to_score,
    refuse_other_images,
    refuse_other_label,
)
from trainer.config import EvaluateConfig
from trainer.data.feed import Fed
from trainer.devices.cards import chosen_here
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
    device = torch.device(chosen_here(config.device))
    checkpoint = load_checkpoint(config.checkpoint)
    dataset = open_dataset(config.data, config.reading.read_options)
    trained_schema = checkpoint.regressor.schema
    refuse_other_label(config.data, dataset.schema, trained_schema)
    refuse_other_images(config.data, dataset.schema, trained_schema)
    chips = chips_to_score(config, dataset)
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
    about = about_scores(config, checkpoint.fingerprint, dataset, int(met))
    return Evaluation(scores, about)
