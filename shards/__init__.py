"""The dataset contract: its bytes, its statistics, its order. Imports no other package.

    from shards import ChipReader, Part, open_dataset

Code that reads datasets imports from here, whatever room a name lives in. Each is loaded on first use:
`import shards` alone costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shards.errors import DatasetError, InputError
    from shards.format.schema import Chip, Schema
    from shards.read.chip_reader import ChipReader
    from shards.read.dataset import Batch, Dataset, open_dataset
    from shards.read.order import Part
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
    "shards.read.chip_reader": ("ChipReader",),
    "shards.read.dataset": ("Batch", "Dataset", "open_dataset"),
    "shards.read.order": ("Part",),
    "shards.read.read_options": ("ReadOptions",),
    "shards.read.reader_state": ("ReaderState",),
    "shards.write.writer": ("DatasetWriter",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'shards' has no attribute {name!r}")
