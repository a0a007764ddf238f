"""The scale of the loss in float16, whose smallest number is 6e-8: smaller gradients would become 0.

    loss = scale.times(loss); loss.backward()
    scale.unscale(weights)                      before the gradients' norm is measured
    scale.after_step(found_inf)                 on the device: nobody waits

The rule is that of torch.amp.GradScaler, and so are its numbers but the first: halved after a step whose
gradients were not finite, doubled after 2,000 steps in a row that were. GradScaler itself would not do: a
step here is left out as well where the loss or the norm of finite gradients is not finite, and the scale does
not fall below 1.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

START = 2.0**10
"""Scale of the first step. GradScaler's 2^16 is for gradients below 1. Losses of heights are in metres: the
largest gradient of an untrained regressor is about 12 (recipes treeline, tiny and notebook, trees of up to
24 m; docs/benchmarks.md), so float16 bears 2^12 at most. From 2^16 four steps and more would be left out,
which may be all of a short epoch. 2^10 leaves room for gradients five times as large."""
GROWTH, BACKOFF, GROWTH_STEPS = 2.0, 0.5, 2000
"""Factors on the scale, and steps after which it grows."""
LEAST = 1.0
"""Scale below which gradients that are not finite are no longer its fault."""


class LossScale:
    """Scale of the loss, the same on all ranks, as their gradients are."""

    def __init__(self, device: torch.device) -> None:
        """Begin with the scale of a new run."""
        self.scale = torch.full((), START, device=device)
        """The scale of the next backward pass."""
        self._good_steps = torch.zeros((), dtype=torch.int32, device=device)

    def times(self, loss: Tensor) -> Tensor:
        """Scale a loss, for its backward pass."""
        return loss * self.scale

    def unscale(self, weights: Iterable[Tensor]) -> None:
        """Divide the weights' gradients by the scale, a power of 2, which loses no bit."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, self.scale.reciprocal())

    def after_step(self, found_inf: Tensor) -> None:
        """Set the scale of the next step; `found_inf` is 1 where this one was left out, else 0."""
        torch._amp_update_scale_(self.scale, self._good_steps, found_inf, GROWTH, BACKOFF, GROWTH_STEPS)
        self.scale.clamp_(min=LEAST)

    def state(self) -> dict[str, Any]:
        """Return what a run needs to resume, as plain JSON values; this waits for the device."""
        return {"scale": float(self.scale), "good_steps": int(self._good_steps)}

    def restore(self, values: dict[str, Any]) -> None:
        """Resume from what `state` returned."""
        self.scale.fill_(values["scale"])
        self._good_steps.fill_(values["good_steps"])
