"""An exponential moving average of the weights that learn: smoother than they are, often better.

average = Average(regressor, decay=0.999)
average.update()                    after each step of the optimiser
with average.swapped(): ...         evaluate and save with the averages
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from shards.errors import InputError

UPDATES = "updates"
"""Name of the number of updates among the averages."""


class Average:
    """The running average of a module's parameters that learn; buffers and frozen weights stay as they are.

    After update t (from 0) each average is decay_t * average + (1 - decay_t) * weight, where
    decay_t = min(decay, (1 + t) / (10 + t)): early averages forget the random start soon. The rule is that of
    TensorFlow's ExponentialMovingAverage (tf.train.ExponentialMovingAverage, `num_updates`).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Args:
        module: on its device, and after it was decided what learns; not one wrapped for several ranks.
        decay: share (0..1, not 1) of the old average that an update keeps.

        Raises:
            InputError: there is no such decay.
            ValueError: weights that learn are of half precision: an average of these would stand still.
        """
        if not 0 <= decay < 1:
            raise InputError(f"--average {decay}: choose a decay of 0 or more and below 1, 0.999 say")
        learning = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        learning = {name: weight for name, weight in learning.items() if weight.is_floating_point()}
        for name, weight in learning.items():
            if weight.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"{name}: averages need weights of float32 or float64, not {weight.dtype}")
        self._decay, self._updates, self._is_swapped = decay, 0, False
        self._names = list(learning)
        self._weights: list[Tensor] = list(learning.values())
        self._averages = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights as they are now into the averages; call it after each step."""
        self._refuse_while_swapped()
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        if self._weights:
            torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
        self._updates += 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the averages in place of the module's weights; afterwards it is as it was, bit for bit.

        Contents change places, tensor by tensor: memory for the largest one is all that it takes, and who
        holds a parameter (an optimiser, say) still holds the right one.
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
        """Return what a run resumes from: averages by name, and the number of updates; no copies."""
        self._refuse_while_swapped()
        averages = dict(zip(self._names, self._averages, strict=True))
        return {**averages, UPDATES: torch.tensor(self._updates)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from what `state_dict` gave.

        Raises:
            InputError: it is of other weights.
        """
        expected = {name: value.shape for name, value in self.state_dict().items()}
        if expected != {name: value.shape for name, value in state.items()}:
            raise InputError("the saved averages are of other weights; go on with the options of that run")
        for name, average in zip(self._names, self._averages, strict=True):
            average.copy_(state[name])
        self._updates = int(state[UPDATES])

    @torch.no_grad()
    def _exchange(self) -> None:
        for weight, average in zip(self._weights, self._averages, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def _refuse_while_swapped(self) -> None:
        if self._is_swapped:
            raise RuntimeError("the averages are in the module; leave `swapped` first")
