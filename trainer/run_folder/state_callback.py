"""Saving the state while training goes on: on every rank, now and then, and when a machine is taken away."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np

from shards.read.order import subset
from trainer.devices.sharding import is_sharded
from trainer.fit.loop import Fit
from trainer.fit.objective import Panel
from trainer.model.checkpoint import weights_of
from trainer.run_folder.background import Background
from trainer.run_folder.state import state_name, state_of
from trainer.run_folder.state_parts import StateWriter

NOTICE_STEPS = 20
"""Steps between two looks for a notice that this machine will be taken away: all ranks meet for it."""
PANEL_CHIPS = 4
"""Number of sample chips that are drawn after each epoch."""

Notice = Callable[[], bool]
"""Whether a machine of this run is about to be taken away; all ranks ask equally often."""


def no_notice() -> bool:
    """Say that nobody takes this machine away."""
    return False


class StateCallback:
    """Saves this rank's part of the state, now and then and on a notice. The first rank has a `RunWriter`."""

    def __init__(
        self,
        notice: Notice = no_notice,
        states: StateWriter | None = None,
        checkpoint_steps: int = 0,
    ) -> None:
        """Args:
        notice: asked now and then, on all ranks.
        states: where this rank's part of the state goes; default: it has none.
        checkpoint_steps: steps from one state to the next within an epoch; 0: only at its end.
        """
        self._notice, self._noticed = notice, False
        self._states, self._saved, self._checkpoint_steps = states, "", checkpoint_steps
        self._first: Callable[[], None] | None = None
        """What is to be written before the next state."""
        self._background = Background()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._background.__exit__(kind, error, trace)

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        """See Callback."""
        if self._checkpoint_steps and fit.position.step % self._checkpoint_steps == 0:
            self.save(fit)
        if fit.position.step % NOTICE_STEPS == 0 and not self._noticed and self._notice():
            self._noticed = True
            self.save(fit)

    def after_epoch(self, fit: Fit, record: dict[str, Any], is_best: bool) -> None:
        """See Callback."""
        if is_sharded(fit.regressor):  # what the first rank draws and writes takes all ranks
            panel_of(fit)
            weights_of(fit.regressor, keep=False)

    def save(self, fit: Fit) -> None:
        """Save all that is needed to resume, in the background, unless that was done at this step already."""
        states, name = self._states, state_name(fit.position)
        if states and name != self._saved:
            self._background.wait()  # first, so that no two states are held at a time
            first, self._first = self._first, None
            state, self._saved = state_of(fit), name

            def write() -> None:
                if first:
                    first()
                states.write(state)

            self._background.do(write)


def panel_of(fit: Fit) -> Panel | None:
    """Draw some validation chips, or training chips; where the regressor is sharded every rank calls it."""
    chips = fit.learning.val_chips if fit.learning.val_chips.size else fit.learning.train_chips
    chosen = np.sort(chips[subset(chips.size, PANEL_CHIPS)])
    return fit.objective.panel(chosen)
