"""A small run with all that train, evaluate and predict leave, made once."""

from pathlib import Path

import pytest
from report_runs import Run, make_run


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> Run:
    return make_run(tmp_path_factory.mktemp("report"), backbone)
