"""Makers of what the tests of embeddings need: SAR tiles of regions, and encoders that learned nothing."""

from pathlib import Path
from typing import Any

import torch
from regressors import SMALL_BACKBONE

from ingest.config import SyntheticConfig
from ingest.synthetic.sar_source import SarSource
from ingest.work.run import ingest
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import join, publish
from trainer.model.backbone import build_backbone
from trainer.model.pretrained import Pretrained


def sar_tiles(folder: Path, chips: int, **options: Any) -> Dataset:
    """Tiles of 32 pixels in four regions, split into bands of ground: train, val and test."""
    split: dict[str, Any] = {
        "split_by": "bands",
        "split_bands": 5,
        "shares": (0.6, 0.2, 0.2),
        "region_column": "region",
    }
    config = SyntheticConfig(out=str(folder), chips=chips, chip_size=32, sar="seasonal", **split, **options)
    ingest(SarSource(config), config)
    return open_dataset(str(folder))


def write_untrained(folder: Path, dataset: Dataset, patch_size: int = 8, seed: int = 0) -> str:
    """A pre-training run of no steps on the dataset: teacher and student have other weights."""
    torch.manual_seed(seed)
    bands = dataset.schema.all_bands
    shape = {**SMALL_BACKBONE, "num_channels": len(bands), "patch_size": patch_size, "image_size": 32}
    backbones = {name: build_backbone(shape) for name in ("teacher", "student")}
    trained_on = {"data": dataset.url, "fingerprint": dataset.manifest.fingerprint}
    pretrained = Pretrained(
        "dino", dataset.schema, bands, dataset.statistics, backbones, trained_on, {"epoch": 0, "loss": 1.0}
    )
    for name, data in pretrained.files().items():
        publish(join(str(folder), name), data)
    return str(folder)
