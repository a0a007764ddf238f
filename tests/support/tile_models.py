"""Makers of what tests of tile tasks need: models with random weights, and their checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from regressors import BANDS, CHIP_SCHEMA, SMALL_BACKBONE, statistics_of, stored_images

from trainer.model.backbone import build_backbone
from trainer.model.encoder import Encoder
from trainer.model.tile_checkpoint import TileCheckpoint
from trainer.model.tile_model import TileHead, TileModel
from trainer.score.tile_baselines import fit_tile_baselines


def small_tile_model(head: TileHead, shape: dict[str, Any] = SMALL_BACKBONE) -> TileModel:
    """A model with random weights whose classes are equally likely over some tiles."""
    torch.manual_seed(0)
    side = CHIP_SCHEMA.chip_size
    statistics = statistics_of(dict.fromkeys(BANDS, (3000.0, 0.5, 0.2)))
    encoder = Encoder(CHIP_SCHEMA, BANDS, statistics, build_backbone(shape))
    model = TileModel(encoder, head)
    torch.nn.init.normal_(model.output.weight, 0.0, 3.0)
    if head.classes:
        outputs_BK, _ = model.eval().predict(torch.from_numpy(stored_images(20, side, side)))
        model.output.bias.data -= outputs_BK.mean(0)
    return model.eval()


def write_tile_checkpoint(folder: Path, model: TileModel) -> Path:
    """Write `model` as the checkpoint `folder`, with invented metrics and baselines; returns it."""
    generator = np.random.default_rng(0)
    classes = len(model.head.classes)
    true_M = np.arange(20) % classes if classes else generator.uniform(0, 9, 20)
    baselines = fit_tile_baselines(generator.normal(size=(20, 6)), true_M.astype(np.float64), classes)
    trained_on = {"data": "chips", "fingerprint": "0123456789abcdef", "treeline": "0"}
    checkpoint = TileCheckpoint(model, trained_on, {"epoch": 3, "loss": 0.5}, baselines)
    folder.mkdir(parents=True)
    for name, data in checkpoint.files().items():
        (folder / name).write_bytes(data)
    return folder
