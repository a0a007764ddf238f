"""The choice of a training's chips, by the options; and of the tiles that have a label."""

import numpy as np

from shards.errors import InputError
from shards.read.dataset import Dataset
from shards.read.order import Chips, subset
from trainer.options import ChipOptions


def limited(dataset: Dataset, chips: Chips, options: ChipOptions) -> Chips:
    """Choose as many of `chips` as --limit allows, ascending; with --per of each of a column's values.

    A smaller choice is part of any larger one with the same seed. Chips without a value of --per are one
    group.

    Raises:
        InputError: there is no such column.
    """
    if options.limit is None:
        return chips
    if not options.per:
        return chips[subset(chips.size, options.limit_of(chips.size), options.label_seed)]
    columns = dataset.index.column_names
    if options.per not in columns:
        raise InputError(
            f"--per {options.per}: {dataset.url} has no such column; it has {', '.join(columns)}"
        )
    values = np.array(dataset.index[options.per].take(chips).to_pylist(), dtype=object)
    groups = [
        chips[values == value] for value in sorted(set(values), key=lambda value: (value is None, value))
    ]
    chosen = [group[subset(group.size, options.limit_of(group.size), options.label_seed)] for group in groups]
    return np.sort(np.concatenate([chips[:0], *chosen]))


def training_chips(dataset: Dataset, options: ChipOptions) -> Chips:
    """Return the chips of the training split that --where and --limit choose, ascending."""
    return limited(dataset, dataset.chips("train", where=options.where), options)


def met_in_an_epoch(chips: Chips, options: ChipOptions, batch_size: int) -> Chips:
    """Repeat chips, ascending, until an epoch of them has the steps that --epoch-steps asks for."""
    steps = -(-chips.size // batch_size)
    if steps >= options.epoch_steps:
        return chips
    return np.repeat(chips, -(-options.epoch_steps * batch_size // chips.size))
