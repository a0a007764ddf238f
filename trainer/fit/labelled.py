"""What objectives have in common that learn from labels: of pixels, or of whole tiles.

LabelledObjective      baselines, which travel with states and checkpoints    heights, classes, labels
MeanObjective          besides, a loss that is a mean                         classes, labels
class_numbers          scores of classes to record                            classes, labels
"""

from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from shards.read.order import Chips
from trainer.data.feed import Fed
from trainer.devices.ranks import PendingSum
from trainer.fit.learning import Learning
from trainer.fit.objective import LossDecides, Numbers, Panel
from trainer.fit.scoring import Sums
from trainer.score.compared import Compared
from trainer.score.tile_scores import ClassScore

BATCH = 64
"""Chips at a time where nothing is learnt."""


class JsonBaselines(Protocol):
    """Baselines that can be stored."""

    def to_json(self) -> dict[str, Any]:
        """Return the baselines as plain JSON values."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Undo `to_json`."""


BaselinesT = TypeVar("BaselinesT", bound=JsonBaselines)


class LabelledObjective(LossDecides, Generic[BaselinesT]):
    """Part of an objective whose scores stand beside baselines."""

    baselines: BaselinesT | None = None
    """Baselines; None before `prepare`."""
    baselines_type: type[BaselinesT]
    """Type of the baselines."""

    @property
    def fitted(self) -> BaselinesT:
        """Baselines, once they are fitted or restored.

        Raises:
            ValueError: they are not.
        """
        if self.baselines is None:
            raise ValueError("there are no baselines yet: call `prepare` first")
        return self.baselines

    def state(self) -> dict[str, Any]:
        """See Objective."""
        return {"baselines": self.baselines.to_json() if self.baselines else None}

    def restore(self, values: dict[str, Any]) -> None:
        """See Objective."""
        stored = values["baselines"]
        self.baselines = self.baselines_type.from_json(stored) if stored else None

    def baseline_sums(self, fed: Fed) -> Sums:
        """Compute sums, exact where those of the model are, from which the baselines' scores follow."""
        raise NotImplementedError

    def compared(self, record: dict[str, Any], sums: Sums) -> Compared:
        """Compare the model of an epoch with the baselines.

        Args:
            record: scores of the epoch.
            sums: sums over the validation chips, as `baseline_sums` makes them.
        """
        raise NotImplementedError

    def summary(self, record: dict[str, Any]) -> str:
        """See Objective: the loss."""
        name = "val_loss" if "val_loss" in record else "loss"
        return f"{name} {record[name]:.4g}"


class MeanObjective(LabelledObjective[BaselinesT]):
    """Part of an objective whose loss is a mean over the pixels, or the tiles, that have a label."""

    learning: Learning
    """Chips to learn from, and the ranks that share them."""

    def begin_count(self, count: Tensor) -> PendingSum:
        """Begin to add up over ranks how many have a label; see Objective.known_sums."""
        return self.learning.ranks.begin_sum(torch.stack([torch.zeros_like(count), count]))

    def value(self, sums_K: Tensor, share_done: float) -> Tensor:
        """See Objective: the mean over all that have a label; 0 if none has."""
        return sums_K[0] / sums_K[1].clamp(min=1)

    def summary(self, record: dict[str, Any]) -> str:
        """See Objective: the loss and, of classes, the accuracy."""
        accuracy = record.get("val_accuracy")
        text = super().summary(record)
        return text if accuracy is None else f"{text}, accuracy {accuracy:.1%}"

    def panel(self, chips: Chips) -> Panel | None:
        """See Objective; there is none."""
        return None


def class_numbers(confusion_TP: Tensor) -> Numbers:
    """Return the scores of classes to record, from the counts of true and predicted ones."""
    score = ClassScore(confusion_TP.numpy())
    return {"accuracy": score.accuracy, "macro_f1": score.macro_f1, "count": score.count}
