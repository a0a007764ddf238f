"""Unsigned pixels of 16 bits, which satellites deliver, become floats before anything else is done with them.

CUDA cannot index uint16, and a CPU can: only what is asked of torch shows it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dispatched import OnlyMoved
from pretrainings import config_of
from regressors import CHIP_SCHEMA, local_backbone, small_config, visible_chip

from shards.format.key import split_of
from shards.read.dataset import Dataset, open_dataset
from shards.write.writer import DatasetWriter
from trainer.commands.pretrain import new_fit as new_pretraining
from trainer.commands.train import new_fit
from trainer.config import TrainConfig
from trainer.devices.ranks import Ranks
from trainer.run_folder.state_callback import StateCallback


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("unsigned")
    schema = replace(CHIP_SCHEMA, dtype="uint16", nodata=65535)
    with DatasetWriter(str(folder), schema, {"command": "test"}, 10) as writer:
        for chip in map(visible_chip, range(12)):
            missing_CHW = chip.image_CHW == CHIP_SCHEMA.nodata
            image_CHW = np.where(missing_CHW, 65535, chip.image_CHW).astype(np.uint16)
            writer.add(replace(chip, image_CHW=image_CHW), split_of(chip.key, 0.3))
        writer.finish()
    return open_dataset(str(folder))


def training(**options: Any) -> Callable[[Dataset, Path], TrainConfig]:
    return lambda dataset, folder: small_config(
        dataset, local_backbone(folder / "backbone"), epochs=1, **options
    )


WAYS = {
    "heights": training(bands=("red", "nir")),
    "all bands": training(bands=CHIP_SCHEMA.bands, brightness=0.1, band_dropout=0.2),
    "tiles": training(task="tile-value", label="height_mean", bands=("nir",), head="class"),
}


def fits(dataset: Dataset, folder: Path) -> Iterator[tuple[str, Any]]:
    for name, config in WAYS.items():
        yield name, new_fit(config(dataset, folder), Ranks())
    for method in ("mae", "ibot"):
        yield method, new_pretraining(config_of(dataset, method, epochs=1, probe_epochs=1), Ranks())


def test_no_way_to_a_model_indexes_them(dataset: Dataset, tmp_path: Path) -> None:
    for name, fit in fits(dataset, tmp_path):
        if hasattr(fit.objective, "prepare"):
            fit.objective.prepare()
        with OnlyMoved() as watch:
            fit.run(StateCallback())
        assert watch.met > 0, name


def test_what_cuda_lacks_is_seen() -> None:
    numbers = torch.arange(6).to(torch.uint16)
    with OnlyMoved(), pytest.raises(AssertionError, match="index"):
        numbers[torch.tensor([0, 2])]
