"""Who reads datasets imports from `shards` itself, and pays for what is used."""

import subprocess
import sys

import pytest

import shards
from shards.read.chip_reader import ChipReader
from shards.read.dataset import open_dataset
from shards.read.order import Part
from shards.read.read_options import ReadOptions


def test_readers_import_from_the_package() -> None:
    assert shards.ChipReader is ChipReader
    assert shards.Part is Part
    assert shards.ReadOptions is ReadOptions
    assert shards.open_dataset is open_dataset
    for name in shards.__all__:
        assert getattr(shards, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        shards.no_such_name  # noqa: B018


def test_importing_the_package_loads_no_numpy() -> None:
    code = "import sys, shards; sys.exit('numpy' in sys.modules or 'shards.read' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
