"""Labels of whole tiles, from a column of the index: numbers, or classes.

    labels = tile_labels(dataset, "tree_percent", has_classes=False)
    labels.values_N[chips]                           NaN where a tile has no label

A column whose name ends in _percent holds shares: numbers from 0 to 100.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.errors import InputError
from shards.read.dataset import Dataset
from shards.read.order import Chips
from trainer.model.tile_model import PERCENT, unit_of

MOST_CLASSES = 256
"""Most classes that a column may have: more are a sign that it holds numbers or names."""


@dataclass(frozen=True)
class TileLabels:
    """Labels of a dataset's tiles."""

    name: str
    """Name of the column."""
    values_N: NDArray[np.float64]
    """Value, or number of the class, of each tile (N) of the dataset; NaN where it has none."""
    classes: tuple[str, ...] = ()
    """Names of the classes; (): the labels are numbers."""

    @property
    def unit(self) -> str:
        """Unit of the numbers: % or none that is known."""
        return unit_of(self.name)

    def labelled(self, chips: Chips) -> Chips:
        """Return those of `chips` that have a label."""
        return chips[np.isfinite(self.values_N[chips])]


def tile_labels(
    dataset: Dataset,
    name: str,
    has_classes: bool,
    classes: tuple[str, ...] = (),
    tiles: Chips | None = None,
) -> TileLabels:
    """Read the labels of a dataset's tiles.

    Args:
        dataset: the dataset.
        name: column of the index.
        has_classes: whether its values are classes.
        classes: the classes that there may be; default: all that there are, sorted.
        tiles: tiles whose labels are wanted; default: all. Those of others are not looked at.

    Raises:
        InputError: there is no such column, or a value cannot be a label; says which tile's.
    """
    column = _column(dataset, name)
    if tiles is not None:
        is_wanted_N = np.isin(np.arange(len(column)), tiles)
        column = pc.if_else(pa.array(is_wanted_N), column, pa.scalar(None, column.type))
    if has_classes:
        return _classes(dataset, name, column, classes)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise InputError(f"--label {name}: holds no numbers; choose another column, or --task tile-class")
    values_N = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    is_wrong_N = column.is_valid().to_numpy(zero_copy_only=False) & ~np.isfinite(values_N)
    if name.endswith(PERCENT):
        is_wrong_N |= (values_N < 0) | (values_N > 100)
    if is_wrong_N.any():
        place = int(np.flatnonzero(is_wrong_N)[0])
        allowed = "from 0 to 100" if name.endswith(PERCENT) else "that is finite"
        raise InputError(
            f"{dataset.url}: {name} of {_tile(dataset, place)} is {values_N[place]:g} "
            f"({is_wrong_N.sum():,} such in all), not a number {allowed}; label it again, or leave it empty"
        )
    return TileLabels(name, values_N)


def with_a_label(dataset: Dataset, name: str, chips: Chips) -> Chips:
    """Return those of `chips` that have a value in the column `name`, whatever it is.

    Raises:
        InputError: there is no such column.
    """
    is_known_N: NDArray[np.bool_] = _column(dataset, name).is_valid().to_numpy(zero_copy_only=False)
    known: Chips = chips[is_known_N[chips]]
    return known


def _column(dataset: Dataset, name: str) -> pa.Array:
    columns = dataset.index.column_names
    if not name:
        raise InputError("--label: is needed for tiles; give a column of the index, such as tree_percent")
    if name not in columns:
        raise InputError(f"--label {name}: {dataset.url} has no such column; it has {', '.join(columns)}")
    return dataset.index[name].combine_chunks()


def _tile(dataset: Dataset, place: int) -> str:
    key, split = (dataset.index[name][place].as_py() for name in ("key", "split"))
    return f"tile {key} (split {split})"


def _classes(dataset: Dataset, name: str, column: pa.Array, classes: tuple[str, ...]) -> TileLabels:
    if pa.types.is_floating(column.type):
        raise InputError(
            f"--label {name}: holds fractions, not classes; choose another column, or --task tile-value"
        )
    texts = pc.cast(column, pa.string())
    found = sorted(text for text in texts.unique().to_pylist() if text is not None)
    if all(text.lstrip("-").isdecimal() for text in found):
        found.sort(key=int)
    if len(found) > MOST_CLASSES:
        raise InputError(
            f"--label {name}: has {len(found):,} values, more than {MOST_CLASSES} classes; choose another "
            "column, or --task tile-value"
        )
    known = list(classes or found)
    if unknown := [text for text in found if text not in known]:
        place = pc.index(texts, unknown[0]).as_py()
        raise InputError(
            f"{dataset.url}: {name} of {_tile(dataset, place)} is {unknown[0]!r}, which the model does not "
            f"know; it knows {', '.join(known)}"
        )
    numbers = pc.index_in(texts, pa.array(known, pa.string())).cast(pa.float64())
    return TileLabels(name, numbers.to_numpy(zero_copy_only=False), tuple(known))
