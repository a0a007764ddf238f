"""Datasets and options of runs with a frozen backbone."""

from pathlib import Path

import pytest
from frozen_runs import TASKS, config_of, write_datasets

from shards.read.dataset import Dataset
from trainer.config import TrainConfig


@pytest.fixture(scope="package")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Datasets by task; all tasks without one learn from heights."""
    return write_datasets(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(params=TASKS)
def config(
    request: pytest.FixtureRequest, datasets: dict[str, Dataset], backbone: Path, tmp_path: Path
) -> TrainConfig:
    """A run of two epochs, one of each kind."""
    return config_of(request.param, datasets, backbone, tmp_path / "run")
