"""The interface of a model in training, as the loop, its states and its ranks see it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from trainer.devices.choice import Precision
from trainer.devices.sharding import Blocks


@dataclass
class WeightsApart:
    """Weights that never change: a run writes them once, and its checkpoints leave them out until it ends."""

    file: str
    """Name of their file in the run's folder; "" on a rank that does not write it."""
    names: frozenset[str]
    """Names of the weights."""
    weights: dict[str, Tensor]
    """Weights by name, on the CPU; empty once they are written, and on a rank that does not write them."""


class Learner(nn.Module, ABC):
    """A model that learns."""

    apart: WeightsApart | None = None
    """Weights that its checkpoints leave out; default: none."""
    followers: tuple[str, ...] = ()
    """Prefixes of the names of weights that follow others without a gradient, as a teacher's do."""

    @abstractmethod
    def blocks(self) -> Blocks:
        """Name the parts that are gathered one at a time when ranks share the model."""

    @abstractmethod
    def compiled(self) -> Sequence[nn.Module]:
        """Name the parts that --compile compiles."""

    def round_frozen(self, precision: Precision) -> None:
        """Round weights that never change to `precision`, once.

        `state_dict` returns the exact ones; those that are set apart have no values there.
        """

    def round_together(self, precision: Precision) -> None:
        """Round weights that learn to `precision`, one part at a time; see trainer.devices.rounding."""

    def set_precision(self, precision: Precision, is_compiled: bool) -> None:
        """Prepare an unsharded model for passes in `precision`; compiled code rounds weights itself."""
        self.round_frozen(precision)
        if not is_compiled:
            self.round_together(precision)

    def changing(self) -> dict[str, Tensor]:
        """Return the tensors that training changes: weights that learn or follow others, and buffers."""
        weights: dict[str, Tensor] = {
            name: weight
            for name, weight in self.named_parameters()
            if weight.requires_grad or name.startswith(self.followers)
        }
        stored = self.state_dict(keep_vars=True).keys()
        return weights | {name: buffer for name, buffer in self.named_buffers() if name in stored}
