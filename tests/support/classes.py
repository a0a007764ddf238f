"""Makers of what tests of pixel classes need: chips whose class shows in their bands, models, checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from regressors import BANDS, NODATA, SCHEMA, SMALL_BACKBONE, SMALL_DECODER, statistics_of

from shards.format.key import split_of
from shards.format.schema import Chip, Schema
from shards.format.statistics import LabelSummary
from shards.read.dataset import Dataset, open_dataset
from shards.write.writer import DatasetWriter
from trainer.decoders.features import DecoderConfig
from trainer.model.backbone import build_backbone
from trainer.model.class_checkpoint import ClassCheckpoint
from trainer.model.class_model import ClassModel
from trainer.score.class_baselines import ClassBaselines

NAMES = ((2, "water"), (5, "trees"), (90, "moss"))
CLASS_SCHEMA = replace(SCHEMA, chip_size=32, label="cover", label_unit="", class_names=NAMES)


def class_chip(number: int, schema: Schema = CLASS_SCHEMA) -> Chip:
    """A chip of squares of one class; two of its rows have no label, two others no image.

    Moss is bright in nir. Blue and red are both bright or both dark on water, and only one of them is bright
    on trees, which no linear function of the bands tells apart.
    """
    generator = np.random.default_rng(number)
    place_HW = np.kron(generator.choice(3, (4, 4), p=[0.2, 0.5, 0.3]), np.ones((8, 8), np.int64))
    blue_HW = np.kron(generator.choice([-400, 400], (4, 4)), np.ones((8, 8)))
    red_HW = np.where(place_HW == 1, -blue_HW, blue_HW)
    by_band = [1000 + blue_HW, 1000 + 0 * red_HW, 1000 + red_HW, 500 + 900 * (place_HW == 2)]
    image_CHW = (np.stack(by_band) + generator.normal(0, 20, (4, 32, 32))).astype(np.int16)
    label_HW = np.array([key for key, _ in NAMES], np.float32)[place_HW]
    label_HW[5:7], image_CHW[:, 20:22] = np.nan, NODATA
    return Chip(f"chip_{number}", image_CHW, label_HW)


def write_class_dataset(
    folder: Path, chips: int, val_share: float = 0.0, schema: Schema = CLASS_SCHEMA
) -> Dataset:
    """A dataset of such chips in shards of ten."""
    with DatasetWriter(str(folder), schema, {"command": "test"}, 10) as writer:
        for chip in map(class_chip, range(chips)):
            writer.add(chip, split_of(chip.key, val_share))
        writer.finish()
    return open_dataset(str(folder))


def small_class_model(
    schema: Schema = CLASS_SCHEMA,
    decoder: DecoderConfig = SMALL_DECODER,
    shape: dict[str, Any] = SMALL_BACKBONE,
) -> ClassModel:
    """A model with random weights, in eval mode, whose classes vary over a scene."""
    torch.manual_seed(0)
    shares = dict(zip((name for _, name in schema.class_names), (0.2, 0.5, 0.3), strict=True))
    statistics = statistics_of(dict.fromkeys(BANDS, (3000.0, 0.5, 0.2)))
    label = LabelSummary(1, 2.0, 90.0, 5.0, 0.0, {"90": 90.0}, shares)
    decoder = replace(decoder, outputs=len(shares))
    backbone = build_backbone(shape)
    model = ClassModel(schema, BANDS, replace(statistics, height=label), backbone, decoder)
    torch.nn.init.normal_(model.decoder.output.weight, 0.0, 3.0)
    return model.eval()


def write_class_checkpoint(folder: Path, model: ClassModel) -> Path:
    """Write `model` as the checkpoint `folder`, with invented metrics and baselines; returns it."""
    trained_on = {"data": "chips", "fingerprint": "0123456789abcdef", "treeline": "0"}
    classes = len(model.numbers)
    baselines = ClassBaselines(np.full(classes, 1 / classes), np.ones((classes, 3)), (0, 1), 8)
    folder.mkdir(parents=True)
    for name, data in (
        ClassCheckpoint(model, trained_on, {"epoch": 3, "loss": 0.5}, baselines).files().items()
    ):
        (folder / name).write_bytes(data)
    return folder
