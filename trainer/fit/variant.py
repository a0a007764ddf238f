"""What a variant of training does otherwise, as values; the notebook's faults are the only one so far."""

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
    """Parts of a training that variants do otherwise."""

    pretrained_bands: tuple[str, ...]
    """For each band, the one whose pretrained patch weights it starts from."""
    dropout: float
    """Share (0..1) of the decoder's channels that is dropped."""
    choose_chips: Callable[[Dataset], tuple[Chips, Chips]]
    """Training chips and validation chips of a dataset."""
    new_objective: Callable[[Regressor, Learning], Objective[Any]]


def ordinary(config: TrainConfig) -> Variant:
    """Return the variant that does as `config` says."""
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
