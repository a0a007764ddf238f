"""`treeline evaluate`: a regressor's scores on chips, beside those of the two baselines."""

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from shards.progress import progress
from shards.read.dataset import Dataset, open_dataset
from shards.read.order import Chips
from trainer.config import EvaluateConfig
from trainer.data.feed import Fed
from trainer.devices.cards import chosen_here, computes
from trainer.devices.exact_sums import exact_sums
from trainer.devices.precision import autocast, predicting
from trainer.devices.score_sums import class_sums, density
from trainer.evaluate.evaluated import (
    about_scores,
    chips_to_score,
    refuse_other_images,
    refuse_other_label,
)
from trainer.evaluate.ground_blocks import blocks_of_ground
from trainer.fit.heights import baseline_heights, measured_heights
from trainer.fit.sample_panel import predicted_heights
from trainer.fit.scoring import Sums, add_up
from trainer.model.frozen_backbone import placed_on
from trainer.model.height_checkpoint import load_checkpoint
from trainer.score.baselines import MEAN
from trainer.score.chip_scores import BLOCK, ChipScores
from trainer.score.evaluation import LINEAR, REGRESSOR, Evaluation
from trainer.score.examples import Examples, example_rows
from trainer.score.metrics import Score

NAMES = (REGRESSOR, LINEAR, MEAN)
"""Names of the predictions that are compared."""
FACTS = ("key", "split", "source", "sensor", "acquired", "scene", "x", "y", "crs")
"""Columns of the index that stand beside a chip's sums."""


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
    met, by_chip = list[Chips](), list[Tensor]()
    with predicting(config.precision), progress("evaluate", chips.size, "chips") as advance:

        def sums_of(fed: Fed) -> Sums:
            with autocast(config.precision, device):
                predicted_BHW, valid_BHW = regressor.predict(fed.image_BCHW)
            compared = predicted_BHW.float(), *baseline_heights(baselines, fed.image_BCHW)
            measured_BHW = measured_heights(fed, valid_BHW)
            sums_BPKS = class_sums(compared, measured_BHW)
            advance(fed.batch.size)
            met.append(fed.batch.chips)
            by_chip.append(sums_BPKS.sum(2))  # stays on the device, which need not be waited for
            return exact_sums(sums_BPKS), density(compared[0], measured_BHW)

        sums_PKSL, density_PM = add_up(
            sums_of, dataset.batches(chips, config.batch_size), dataset.schema, device
        )
        regressors, *others = (sums_KSL.numpy() for sums_KSL in sums_PKSL)
        scores = {REGRESSOR: Score.of(regressors, density_PM.numpy())}
        scores |= {name: Score.of(one) for name, one in zip(NAMES[1:], others, strict=True)}
        met_N, sums_NPS = np.concatenate(met), torch.cat(by_chip).cpu().numpy()
        facts, said = _facts(dataset, met_N)
        chip_scores = ChipScores.of(facts, sums_NPS)
        rows = sorted(row for rows in example_rows(chip_scores).values() for row in rows)
        # Again: keeping all would take much memory.
        with autocast(config.precision, device):
            predicted_BHW = predicted_heights(regressor, dataset.gather(met_N[rows]).image_BCHW, device)
    keys = chip_scores.rows["key"].take(pa.array(rows, pa.int64())).to_pylist()
    examples = Examples(tuple(keys), predicted_BHW.astype(np.float16))
    about = about_scores(config, checkpoint.fingerprint, dataset, met_N.size, asked.precision)
    about["intervals"] = {"over": said, **chip_scores.intervals(NAMES)}
    return Evaluation(scores, about, chip_scores, examples)


def _facts(dataset: Dataset, chips: Chips) -> tuple[pa.Table, str]:
    """Return what is known of these chips, and the blocks of ground that they lie in; say what blocks are."""
    region = dataset.manifest.split_rule.get("region_column") or "key"
    facts = dataset.index.select(list(dict.fromkeys((*FACTS, region)))).take(chips)
    blocks, said = blocks_of_ground(dataset, chips)
    return facts.append_column(BLOCK, pa.array(blocks, pa.string())), said
