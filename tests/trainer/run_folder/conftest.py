"""Datasets and options of runs with a frozen backbone."""

from pathlib import Path

import pytest
from classes import write_class_dataset
from frozen_runs import TASKS, config_of, write_tiles
from regressors import write_dataset

from shards.read.dataset import Dataset
from trainer.config import TrainConfig


@pytest.fixture(scope="package")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Datasets by task; all tasks without one learn from heights."""
    folder = tmp_path_factory.mktemp("datasets")
    return {
        "heights": write_dataset(folder / "heights", chips=22, val_share=0.2),
        "tiles": write_tiles(folder / "tiles"),
        "classes": write_class_dataset(folder / "classes", 24, 0.25),
    }


@pytest.fixture(params=TASKS)
def config(
    request: pytest.FixtureRequest, datasets: dict[str, Dataset], backbone: Path, tmp_path: Path
) -> TrainConfig:
    """A run of two epochs, one of each kind."""
    return config_of(request.param, datasets, backbone, tmp_path / "run")
