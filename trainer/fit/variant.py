"""Variants of training: the parts that they replace. The notebook's faults are the only variant so far."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shards.read.dataset import Dataset
from shards.read.order import Chips
from trainer.config import TrainConfig
from trainer.fit.heights import HeightObjective
from trainer.fit.learning import Learning
from trainer.fit.loss import parse_loss
from trainer.fit.objective import Objective
from trainer.model.regressor import Regressor


@dataclass(frozen=True)
class Variant:
    """Parts of a training that variants replace."""

    pretrained_bands: tuple[str, ...]
    """Bands whose pretrained patch weights the regressor's bands start from, one for each."""
    dropout: float
    """Share (0..1) of the decoder's channels that is dropped."""
    choose_chips: Callable[[Dataset], tuple[Chips, Chips]]
    """Function that returns a dataset's training chips and validation chips."""
    new_objective: Callable[[Regressor, Learning], Objective[Any]]
    """Function that makes the objective."""


def ordinary(config: TrainConfig) -> Variant:
    """Return the variant that follows `config` in everything."""
    return Variant(
        config.bands,
        config.dropout,
        lambda dataset: (
            dataset.chips("train", config.limit, config.where),
            dataset.chips("val", where=config.validated_where),
        ),
        lambda regressor, learning: height_objective(regressor, learning, config),
    )


def height_objective(regressor: Regressor, learning: Learning, config: TrainConfig) -> HeightObjective:
    """Return the objective that `config` asks for."""
    return HeightObjective(
        regressor, learning, parse_loss(config.loss), config.augment, config.baseline_chips
    )
