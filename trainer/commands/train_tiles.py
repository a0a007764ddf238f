"""`treeline train --task tile-value|tile-class`: what differs from training on heights."""

import numpy as np
import torch

from shards.errors import InputError
from shards.read.dataset import Dataset, open_dataset
from trainer.config import TrainConfig
from trainer.data.choice import limited, met_in_an_epoch
from trainer.data.labels import TileLabels, tile_labels
from trainer.devices.ranks import Ranks
from trainer.fit.labels import LabelObjective
from trainer.fit.learning import Learning
from trainer.fit.loop import Fit
from trainer.model.make import new_tile_model
from trainer.model.tile_model import TileHead
from trainer.weights.weights_apart import set_apart

LEAST = 2
"""Fewest labelled tiles from which anything can be learnt."""


def labels_of(config: TrainConfig, dataset: Dataset) -> TileLabels:
    """Read the labels that are to be learnt."""
    target = config.target
    return tile_labels(dataset, target.label, has_classes=target.task == "tile-class")


def labelled_tiles(
    config: TrainConfig, dataset: Dataset, labels: TileLabels
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labelled tiles to train on, and those to validate on, ascending.

    --limit is a share of the labelled training tiles; validation tiles are never limited.

    Raises:
        InputError: too few tiles have a label, or all have the same one.
    """
    name, chosen = labels.name, config.chips
    found = labels.labelled(dataset.chips("train", where=chosen.where))
    train = limited(dataset, found, chosen)
    if train.size < LEAST:
        choice = f"--limit {chosen.limit} leaves" if found.size >= LEAST else "there are"
        raise InputError(
            f"--label {name}: {choice} {train.size} labelled training tile{'' if train.size == 1 else 's'} "
            f"of {config.data}; {LEAST} or more are needed"
        )
    if np.ptp(labels.values_N[train]) == 0:
        raise InputError(
            f"--label {name}: all {train.size:,} training tiles have the same value; choose another column "
            "or more tiles"
        )
    val = labels.labelled(dataset.chips("val", where=chosen.validated_where))
    if dataset.manifest.samples("val") and not val.size:
        raise InputError(
            f"--label {name}: no validation tile of {config.data} has a label; choose others with "
            '--val-where ("" for all)'
        )
    return train, val


def check_tiles(config: TrainConfig, dataset: Dataset) -> None:
    """Find mistakes about labels of tiles before anything is started.

    Raises:
        InputError: a label is wrong, or too few tiles have one.
    """
    together = {
        "--compile": config.fit.compile,
        "--shard-model": config.fit.shard_model,
        "--recompute-activations": config.model.recompute_activations,
    }
    for option, is_given in together.items():
        if config.target.head == "attention" and is_given:
            raise InputError(f"{option}: does not go together with --head attention; leave one of them out")
    labelled_tiles(config, dataset, labels_of(config, dataset))


def new_tile_fit(config: TrainConfig, ranks: Ranks) -> Fit:
    """Make everything ready for the first step: the same weights in every process."""
    device = ranks.device_before_wrap(config.fit.shard_model)
    dataset = open_dataset(config.data, config.reading.read_options)
    labels = labels_of(config, dataset)
    train, val = labelled_tiles(config, dataset, labels)
    values_M, classes = labels.values_N[train], labels.classes
    spread = (0.0, 1.0) if classes else (float(values_M.mean()), float(values_M.std()))
    torch.manual_seed(config.fit.seed)
    head = TileHead(labels.name, config.target.head, classes, *spread)
    model = new_tile_model(dataset, config.model, head)
    set_apart(model, model.encoder.backbone, writes=ranks.is_first)
    model.to(device)
    met = met_in_an_epoch(train, config.chips, config.global_batch)
    learning = Learning(dataset, met, val, ranks)
    objective = LabelObjective(model, learning, labels, config.augment, config.objective.baseline_chips)
    return Fit(model, learning, objective, config.optimiser, config.fit, config.global_batch)
