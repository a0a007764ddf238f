"""Runs that stop after a step, as one that is killed, and states that are compared bit for bit."""

from pathlib import Path
from typing import Any

import torch
from stopping_steps import Stopped as Stopped

from trainer.fit.loop import Fit
from trainer.run_folder.state import state_of
from trainer.run_folder.state_callback import StateCallback
from trainer.run_folder.state_parts import StateWriter, TrainingState


class Stopper(StateCallback):
    """Notes the losses, and stops after a step."""

    def __init__(self, at: int = 0, out: Path | None = None) -> None:
        """Saves the state below `out` when it stops; 0: it never does."""
        super().__init__()
        self.at, self.losses, self.out = at, list[float](), out

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        self.losses.append(loss)
        if len(self.losses) == self.at:
            StateWriter(str(self.out)).write(state_of(fit))
            raise Stopped

    def after_epoch(self, fit: Fit, record: dict[str, Any], is_best: bool) -> None:
        """Nothing is written here."""


def assert_equal_states(one: TrainingState, other: TrainingState) -> None:
    assert one.values == other.values
    assert one.tensors.keys() == other.tensors.keys()
    for name, rows in one.tensors.items():
        assert torch.equal(rows.tensor, other.tensors[name].tensor), name
