"""Choice of the chips that a training learns from, by --where, --limit, --per and --epoch-steps."""

import numpy as np

from shards.errors import InputError
from shards.read.dataset import Dataset
from shards.read.order import Chips, subset
from trainer.chip_options import ChipOptions


def limited(dataset: Dataset, chips: Chips, options: ChipOptions) -> Chips:
    """Choose the chips that --limit allows, ascending: of all, or with --per of each value of a column.

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
    column = dataset.index[options.per].take(chips).combine_chunks()
    code_N = column.dictionary_encode("encode").indices.to_numpy(zero_copy_only=False)  # nulls and NaN, too
    groups = [chips[code_N == code] for code in np.unique(code_N)]
    chosen = [group[subset(group.size, options.limit_of(group.size), options.label_seed)] for group in groups]
    return np.sort(np.concatenate([chips[:0], *chosen]))


def training_chips(dataset: Dataset, options: ChipOptions) -> Chips:
    """Return the chips of the training split that --where and --limit choose, ascending."""
    return limited(dataset, dataset.chips("train", where=options.where), options)


def met_in_an_epoch(chips: Chips, options: ChipOptions, batch_size: int) -> Chips:
    """Repeat the chips, ascending, until an epoch has at least --epoch-steps steps."""
    steps = -(-chips.size // batch_size)
    if steps >= options.epoch_steps:
        return chips
    return np.repeat(chips, -(-options.epoch_steps * batch_size // chips.size))
