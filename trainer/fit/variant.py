"""Variants of training: the parts that they replace. The notebook's faults are the only variant so far."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shards.read.dataset import Dataset
from shards.read.order import Chips
from trainer.config import TrainConfig
from trainer.data.choice import training_chips
from trainer.fit.heights import HeightObjective
from trainer.fit.learning import Learning
from trainer.fit.objective import Objective
from trainer.model.regressor import Regressor
from trainer.options import ModelOptions


@dataclass(frozen=True)
class Variant:
    """Parts of a training that variants replace."""

    model: ModelOptions
    """Backbone and decoder."""
    pretrained_bands: tuple[str, ...]
    """Bands whose pretrained patch weights the regressor's bands start from, one for each."""
    choose_chips: Callable[[Dataset], tuple[Chips, Chips]]
    """Function that returns a dataset's training chips and validation chips."""
    new_objective: Callable[[Regressor, Learning], Objective[Any]]
    """Function that makes the objective."""


def ordinary(config: TrainConfig) -> Variant:
    """Return the variant that follows `config` in everything."""
    chips = config.chips
    return Variant(
        config.model,
        config.model.bands,
        lambda dataset: (
            training_chips(dataset, chips),
            dataset.chips("val", where=chips.validated_where),
        ),
        lambda regressor, learning: HeightObjective(regressor, learning, config.objective, config.augment),
    )
