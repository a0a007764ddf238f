"""An exponential moving average of the weights that learn; it is smoother than they are, and often better.

average = Average(regressor, decay=0.999)
average.update()                    after each step of the optimiser
with average.swapped(): ...         evaluate and save with the averages

torch.optim.swa_utils.AveragedModel would not do: it deep-copies the whole module, a frozen backbone of
billions of weights included, and evaluation would run that copy instead of the model that is compiled and
sharded.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from shards.errors import InputError

UPDATES = "updates"
"""Name, among the averages, of the number of updates."""


class Average:
    """Running average of a module's parameters that learn, and of batch norm's running statistics.

    Statistics belong to the weights that they were measured with, so they are averaged alike. Other buffers
    and frozen weights have no average.

    After update t (from 0) each average is decay_t * average + (1 - decay_t) * weight, where
    decay_t = min(decay, (1 + t) / (10 + t)), so early averages soon forget the random start. TensorFlow has
    the same rule (tf.train.ExponentialMovingAverage, `num_updates`).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Args:
        module: a module on its device, after the choice of what learns; not one wrapped for several ranks.
        decay: share (0..1, not 1) of the old average that an update keeps.

        Raises:
            InputError: the decay is out of range.
            ValueError: weights that learn have half precision, in which an average would stand still.
        """
        if not 0 <= decay < 1:
            raise InputError(f"--average {decay}: choose a decay of 0 or more and below 1, for example 0.999")
        learning = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        learning = {name: weight for name, weight in learning.items() if weight.is_floating_point()}
        for name, weight in learning.items():
            if weight.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"{name}: averages need weights of float32 or float64, not {weight.dtype}")
        self._decay, self._updates, self._is_swapped = decay, 0, False
        # Apart, since weights may be sharded, and statistics are not.
        self._kinds: list[dict[str, Tensor]] = [dict(learning), _running_statistics(module)]
        self._averages = [{name: one.detach().clone() for name, one in kind.items()} for kind in self._kinds]

    @torch.no_grad()
    def update(self) -> None:
        """Add the present weights to the averages; call this after each step."""
        self._refuse_while_swapped()
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for kind, averages in zip(self._kinds, self._averages, strict=True):
            if kind:
                torch._foreach_lerp_(list(averages.values()), list(kind.values()), 1 - decay)
        self._updates += 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Swap the averages with the module's weights for a while; afterwards all is bit for bit as before.

        Contents swap tensor by tensor, so memory for the largest tensor is enough, and whatever holds a
        parameter (for example the optimiser) still holds the right one.
        """
        self._refuse_while_swapped()
        self._exchange()
        self._is_swapped = True
        try:
            yield
        finally:
            self._exchange()
            self._is_swapped = False

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a run needs to resume, not copied: averages by name, and the number of updates."""
        self._refuse_while_swapped()
        weights, statistics = self._averages
        return {**weights, **statistics, UPDATES: torch.tensor(self._updates)}

    def begin_as(self, names: Collection[str]) -> None:
        """Prepare to resume from averages of these names; states of before have none of running statistics.

        A run begun then goes on as it began: without them.
        """
        if not self._averages[1].keys() & set(names):
            self._kinds[1], self._averages[1] = {}, {}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from what `state_dict` returned.

        Raises:
            InputError: the averages belong to other weights.
        """
        expected = {name: value.shape for name, value in self.state_dict().items()}
        if expected != {name: value.shape for name, value in state.items()}:
            raise InputError(
                "the saved averages belong to other weights; resume with the options of that run"
            )
        for averages in self._averages:
            for name, average in averages.items():
                average.copy_(state[name])
        self._updates = int(state[UPDATES])

    @torch.no_grad()
    def _exchange(self) -> None:
        for kind, averages in zip(self._kinds, self._averages, strict=True):
            for name, tensor in kind.items():
                kept = tensor.clone()
                tensor.copy_(averages[name])
                averages[name].copy_(kept)

    def _refuse_while_swapped(self) -> None:
        if self._is_swapped:
            raise RuntimeError("the averages are in the module; leave `swapped` first")


def _running_statistics(module: nn.Module) -> dict[str, Tensor]:
    return {
        f"{place}.{name}".removeprefix("."): statistic
        for place, layer in module.named_modules()
        if isinstance(layer, _BatchNorm)
        for name, statistic in (("running_mean", layer.running_mean), ("running_var", layer.running_var))
        if statistic is not None
    }
