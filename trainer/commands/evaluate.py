"""`treeline evaluate`: a regressor's scores on chips, beside those of the two baselines."""

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
from trainer.devices.cards import chosen_here, computes
from trainer.devices.precision import autocast, predicting
from trainer.devices.score_sums import height_sums
from trainer.fit.heights import baseline_heights, measured_heights
from trainer.fit.scoring import Sums, add_up
from trainer.model.frozen_backbone import placed_on
from trainer.model.height_checkpoint import load_checkpoint
from trainer.score.baselines import MEAN
from trainer.score.evaluation import LINEAR, REGRESSOR, Evaluation
from trainer.score.metrics import Score


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Score the checkpoint on the chips of a split.

    Raises:
        InputError: the split is empty, or its chips are not what the regressor was trained on.
    """
    device = torch.device(chosen_here(config.device, config.precision))
    asked = computes(config.precision, device)
    checkpoint = load_checkpoint(config.checkpoint, trust=config.trust)
    dataset = open_dataset(config.data, config.reading.read_options)
    trained_schema = checkpoint.regressor.schema
    refuse_other_label(config.data, dataset.schema, trained_schema)
    refuse_other_images(config.data, dataset.schema, trained_schema)
    chips = chips_to_score(config, dataset)
    regressor = placed_on(checkpoint.regressor, config.precision, device)
    baselines = checkpoint.baselines
    asked.say()
    with predicting(config.precision), progress("evaluate", chips.size, "chips") as advance:

        def sums_of(fed: Fed) -> Sums:
            with autocast(config.precision, device):
                predicted_BHW, valid_BHW = regressor.predict(fed.image_BCHW)
            compared = predicted_BHW.float(), *baseline_heights(baselines, fed.image_BCHW)
            advance(fed.batch.size)
            found = torch.tensor(len(fed.batch.chips))
            return found, *height_sums(compared, measured_heights(fed, valid_BHW))

        met, sums_PKSL, density_PM = add_up(
            sums_of, dataset.batches(chips, config.batch_size), dataset.schema, device
        )
    regressors, *others = (sums_KSL.numpy() for sums_KSL in sums_PKSL)
    scores = {REGRESSOR: Score.of(regressors, density_PM.numpy())}
    scores |= {name: Score.of(one) for name, one in zip((LINEAR, MEAN), others, strict=True)}
    about = about_scores(config, checkpoint.fingerprint, dataset, int(met), asked.precision)
    return Evaluation(scores, about)
