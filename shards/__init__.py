"""What is stored: the dataset contract, its bytes, its statistics and its order. Imports no other package.

    from shards import ChipReader, Part, open_dataset

Names for readers of datasets are imported from here, whatever room they live in; each is loaded when it is
first asked for, so that `import shards` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shards.errors import DatasetError, InputError
    from shards.format.schema import Chip, Schema
    from shards.read.dataset import Batch, ChipReader, Dataset, Part, open_dataset
    from shards.read.read_options import ReadOptions
    from shards.read.reader_state import ReaderState
    from shards.write.writer import DatasetWriter

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "Chip",
    "ChipReader",
    "Dataset",
    "DatasetError",
    "DatasetWriter",
    "InputError",
    "Part",
    "ReadOptions",
    "ReaderState",
    "Schema",
    "open_dataset",
]
_HOMES = {
    "shards.errors": ("DatasetError", "InputError"),
    "shards.format.schema": ("Chip", "Schema"),
    "shards.read.dataset": ("Batch", "ChipReader", "Dataset", "Part", "open_dataset"),
    "shards.read.read_options": ("ReadOptions",),
    "shards.read.reader_state": ("ReaderState",),
    "shards.write.writer": ("DatasetWriter",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'shards' has no attribute {name!r}")
