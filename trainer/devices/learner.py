"""The interface of a model in training, as the loop, its states and its ranks see it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from trainer.devices.choice import Precision
from trainer.devices.sharding import Blocks


@dataclass
class Apart:
    """Weights that never change, which a run writes once; its checkpoints leave them out until it ends."""

    file: str
    """Name of their file in the run's folder."""
    names: frozenset[str]
    """Names of the weights."""
    weights: dict[str, Tensor]
    """Weights by name, on the CPU, until they are written; only the first rank has them."""


class Learner(nn.Module, ABC):
    """A model that learns."""

    apart: Apart | None = None
    """Weights that its checkpoints leave out; default: none."""
    followers: tuple[str, ...] = ()
    """Beginnings of the names of weights that follow others without a gradient, as a teacher's do."""

    @abstractmethod
    def blocks(self) -> Blocks:
        """Name the parts that are gathered one at a time when ranks share the model."""

    @abstractmethod
    def compiled(self) -> Sequence[nn.Module]:
        """Name the parts that --compile compiles."""

    def hold_frozen(self, precision: Precision) -> None:
        """Hold the weights that never change as `precision` rounds them; `state_dict` stays exact."""

    def round_together(self, precision: Precision) -> None:
        """Round the weights that learn part by part, to `precision`; see trainer.devices.rounding."""

    def suit(self, precision: Precision, is_compiled: bool) -> None:
        """Prepare an unsharded model for passes in `precision`; code that is compiled rounds by itself."""
        self.hold_frozen(precision)
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
