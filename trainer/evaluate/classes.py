"""`treeline evaluate` of a model of pixel classes: its scores beside those of the two baselines."""

import torch
from torch import Tensor

from shards.errors import InputError
from shards.progress import progress
from shards.read.dataset import Dataset, open_dataset
from trainer.config import EvaluateConfig
from trainer.data.feed import Fed
from trainer.data.pixel_classes import NO_CLASS, PixelClasses, confusion
from trainer.devices.cards import chosen_here, computes
from trainer.devices.choice import Precision
from trainer.devices.precision import autocast, predicting
from trainer.evaluate.evaluated import (
    about_scores,
    chips_to_score,
    refuse_other_images,
    refuse_other_label,
)
from trainer.fit.classes import baseline_classes
from trainer.fit.scoring import Sums, add_up
from trainer.model.class_checkpoint import ClassCheckpoint, load_class_checkpoint
from trainer.model.frozen_backbone import placed_on
from trainer.score.class_baselines import COMMONEST
from trainer.score.class_evaluation import ClassEvaluation
from trainer.score.evaluation import LINEAR
from trainer.score.tile_baselines import MODEL
from trainer.score.tile_scores import ClassScore


def check_chips(checkpoint: ClassCheckpoint, dataset: Dataset) -> None:
    """Refuse chips whose images or classes are not those of the training.

    Raises:
        InputError: says what differs.
    """
    ours, theirs = checkpoint.model.schema, dataset.schema
    refuse_other_label(dataset.url, theirs, ours)
    if other := [pair for pair in theirs.class_names if pair not in ours.class_names]:
        known = ", ".join(f"{number} {name}" for number, name in ours.class_names)
        raise InputError(
            f"{dataset.url}: has the class {other[0][0]} {other[0][1]}, which the model does not know; it "
            f"knows {known}: choose another --data or --checkpoint"
        )
    refuse_other_images(dataset.url, theirs, ours)


def predict_classes(
    checkpoint: ClassCheckpoint, classes: PixelClasses, fed: Fed, precision: Precision = "float32"
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Predict the classes of a batch's pixels; the model is on the batch's device.

    Returns:
        place_BHW of the labelled pixels' classes, NO_CLASS elsewhere, and those of the model, the regression
        and the commonest class, all on the device.

    Raises:
        InputError: a label is none of the classes.
    """
    with autocast(precision, fed.image_BCHW.device):
        predicted_BHW, valid_BHW = checkpoint.model.predict(fed.image_BCHW)
    place_BHW = classes.places(fed.height_BHW, fed.batch.chips).masked_fill(~valid_BHW, NO_CLASS)
    return place_BHW, (predicted_BHW, *baseline_classes(checkpoint.baselines, fed.image_BCHW))


def evaluate_classes(config: EvaluateConfig) -> ClassEvaluation:
    """Score the checkpoint on the chips of a split.

    Raises:
        InputError: the split is empty, a label is no class, or the chips are not like those of the training.
    """
    device = torch.device(chosen_here(config.device, config.precision))
    asked = computes(config.precision, device)
    checkpoint = load_class_checkpoint(config.checkpoint, trust=config.trust)
    dataset = open_dataset(config.data, config.reading.read_options)
    check_chips(checkpoint, dataset)
    chips = chips_to_score(config, dataset)
    model = placed_on(checkpoint.model, config.precision, device)
    classes = PixelClasses(model.schema, dataset)
    asked.say()
    with predicting(config.precision), progress("evaluate", chips.size, "chips") as advance:

        def sums_of(fed: Fed) -> Sums:
            place_BHW, compared = predict_classes(checkpoint, classes, fed, config.precision)
            advance(fed.batch.size)
            found = torch.tensor(len(fed.batch.chips))
            return found, *(confusion(one_BHW, place_BHW, classes.count) for one_BHW in compared)

        met, *confusions = add_up(sums_of, dataset.batches(chips, config.batch_size), dataset.schema, device)
    if not confusions[0].any():
        raise InputError(
            f"{config.data}: no pixel of these chips has an image and a class; choose another --split or "
            "--where"
        )
    names = (MODEL, LINEAR, COMMONEST)
    scores = {name: ClassScore(one.numpy()) for name, one in zip(names, confusions, strict=True)}
    about = about_scores(config, checkpoint.fingerprint, dataset, int(met), asked.precision)
    return ClassEvaluation(
        model.schema.label, tuple(name for _, name in model.schema.class_names), scores, about
    )
