"""The tiles that small pre-trainings learn from."""

import pytest
from pretrainings import write_tiles

from shards.read.dataset import Dataset, open_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("tiles")
    write_tiles(folder)
    return open_dataset(str(folder))
