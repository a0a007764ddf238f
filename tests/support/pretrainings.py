"""Small pre-trainings: tiles, and options under which much is to be remembered.

write_tiles(folder)                                18 tiles or so to learn from
config_of(dataset, "ibot", out, epochs=2)          options of one method, changed
"""

from pathlib import Path
from typing import Any

from regressors import CHIP_SCHEMA, visible_chip

from shards.format.key import split_of
from shards.read.dataset import Dataset
from shards.write.writer import DatasetWriter
from trainer.pretrain_config import RECIPES, PretrainConfig

SMALL: dict[str, Any] = {
    "width": 24,
    "depth": 2,
    "patch_size": 8,
    "batch_size": 4,
    "epochs": 3,
    "probe": "height_mean",
    "probe_tiles": 6,
    "probe_epochs": 2,
    "last_weight_decay": 0.4,
    "band_groups": ("nir", "*e*"),
}
METHODS: dict[str, dict[str, Any]] = {
    "mae": {
        **RECIPES["mae-tiny"],
        **SMALL,
        "recipe": "mae-tiny",
        "decoder_width": 24,
        "mask_groups": 0.3,
        "speckle_looks": 3,
    },
    "dino": {
        **RECIPES["dino-tiny"],
        **SMALL,
        "recipe": "dino-tiny",
        "prototypes": 24,
        "head_width": 32,
        "bottleneck": 16,
        "local_crops": 3,
        "brightness": 0.1,
        "band_dropout": 0.1,
        "group_dropout": 0.1,
        "vertical_flip": True,
        "temperature_warm_up": 2.0,
    },
}
METHODS["ibot"] = {**METHODS["dino"], "drop_path": 0.3, "koleo": 0.3, "ibot": 0.5, "ibot_tiles": 0.6}
"""Options under which much is to be remembered; "ibot": self-distillation with all that is optional."""


def write_tiles(folder: Path, whole: bool = False) -> None:
    """18 tiles or so to learn from, some with holes; with batches of 4 the last one is smaller.

    Args:
        folder: folder of the dataset.
        whole: whether no tile has holes instead.
    """
    with DatasetWriter(str(folder), CHIP_SCHEMA, {"command": "test"}, 10) as writer:
        for number in range(26):
            chip = visible_chip(number)
            if whole:
                chip.height_HW[5:7], chip.image_CHW[:, 20:22] = 1, 1000
            elif number % 3 == 0:
                chip.image_CHW[:, : number % 20, :9] = CHIP_SCHEMA.nodata
            writer.add(chip, split_of(chip.key, 0.3))
        writer.finish()


def config_of(dataset: Dataset, method: str, out: Path | str = "", **options: Any) -> PretrainConfig:
    return PretrainConfig.of(dataset.url, str(out), **{**METHODS[method], **options})
