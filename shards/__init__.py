"""The dataset contract: its format, statistics, order, reading and writing. Imports no other package.

Start at `format.manifest` for what a dataset is, `write.writer` for how one is made and `read.dataset` for
how one is read. Code that reads datasets imports from here, so that rooms can change:

    from shards import ChipReader, Part, ReadOptions, open_dataset
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shards.read.chip_reader import ChipReader
    from shards.read.dataset import Batch, Dataset, open_dataset
    from shards.read.order import Part
    from shards.read.read_options import ReadOptions

__all__ = ["Batch", "ChipReader", "Dataset", "Part", "ReadOptions", "open_dataset"]
__version__ = "0.1.0"

_HOME = {
    "Batch": "shards.read.dataset",
    "ChipReader": "shards.read.chip_reader",
    "Dataset": "shards.read.dataset",
    "Part": "shards.read.order",
    "ReadOptions": "shards.read.read_options",
    "open_dataset": "shards.read.dataset",
}
"""Module of each public name. It is imported on first use: `import shards` alone loads no NumPy."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
