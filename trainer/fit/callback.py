"""What a training tells as it goes: steps, epochs, and when to save."""

from typing import Any, Protocol

Fit = Any
"""The training, `trainer.fit.loop.Fit`, which knows this module and not the other way round."""


class Callback(Protocol):
    """Callback of the training loop, invoked on every rank."""

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        """React to a step over `chips` chips (of all ranks) with this loss, once that is known."""

    def may_save(self, step: int) -> bool:
        """Tell whether `after_step` may save the state or meet other ranks when `step` steps are done."""

    def after_epoch(self, fit: Fit, record: dict[str, Any], is_best: bool) -> None:
        """React to an epoch that is done and scored, while the model still has the scored weights."""

    def save(self, fit: Fit) -> None:
        """Save the state; the loop calls this at the end of an epoch."""
