"""The callback that saves states in training: on every rank, now and then, and before a machine is lost."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np

from shards.read.order import subset
from trainer.devices.sharding import is_sharded
from trainer.fit.loop import Fit
from trainer.fit.objective import Panel
from trainer.run_folder.background import Background
from trainer.run_folder.state import state_name, state_of
from trainer.run_folder.state_parts import StateWriter

NOTICE_STEPS = 20
"""Steps between two checks for a notice that a machine will be taken away; all ranks meet for each."""
PANEL_CHIPS = 4
"""Number of sample chips drawn after each epoch."""

Notice = Callable[[], bool]
"""Function that tells whether a machine of this run is about to be taken away; all ranks call it equally
often."""


def no_notice() -> bool:
    """Tell that no machine is about to be taken away."""
    return False


class StateCallback:
    """Callback that saves this rank's part of the state. The first rank has a `RunWriter` instead."""

    def __init__(
        self,
        notice: Notice = no_notice,
        states: StateWriter | None = None,
        checkpoint_steps: int = 0,
    ) -> None:
        """Args:
        notice: called now and then, on all ranks.
        states: writer of this rank's part of the state; default: the rank has none.
        checkpoint_steps: steps from one state to the next within an epoch; 0: only at its end.
        """
        self._notice, self._noticed = notice, False
        self._states, self._saved, self._checkpoint_steps = states, "", checkpoint_steps
        self._first: Callable[[], None] | None = None
        """Work to do before the next state is written."""
        self._background = Background()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._background.__exit__(kind, error, trace)

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        """See Callback.

        Raises:
            OSError: storage failed since the step before.
        """
        self._background.look()
        step = fit.position.step  # 0: all steps so far were left out, and the run may as well begin anew
        if self._checkpoint_steps and step and step % self._checkpoint_steps == 0:
            self.save(fit)
        if fit.position.step % NOTICE_STEPS == 0 and not self._noticed and self._notice():
            self._noticed = True
            self.save(fit)

    def may_save(self, step: int) -> bool:
        """See Callback."""
        is_notice_due = step % NOTICE_STEPS == 0 and self._notice is not no_notice
        return is_notice_due or bool(self._checkpoint_steps and step % self._checkpoint_steps == 0)

    def after_epoch(self, fit: Fit, record: dict[str, Any], is_best: bool) -> None:
        """See Callback."""
        if is_sharded(fit.model):  # the first rank's panel and checkpoint need all ranks
            panel_of(fit)
            fit.objective.gather()

    def finish(self, fit: Fit) -> None:
        """Do what is left when the training has ended."""

    def wait(self) -> None:
        """Wait until this rank has written what it saves."""
        self._background.wait()

    def save(self, fit: Fit) -> None:
        """Save the state in the background, unless that was done at this step already.

        Nor is it saved while nothing was learnt in the epoch: once its shards are mended, all are read again.
        """
        states, name = self._states, state_name(fit.position)
        if states and name != self._saved and not fit.has_learnt_nothing:
            self._background.wait()  # first, so that memory holds only one state at a time
            first, self._first = self._first, None
            state, self._saved = state_of(fit), name

            def write() -> None:
                if first:
                    first()
                states.write(state)

            self._background.do(write)


def panel_of(fit: Fit) -> Panel | None:
    """Draw some validation chips, or else training chips; every rank must call it if sharded."""
    chips = fit.learning.val_chips if fit.learning.val_chips.size else fit.learning.train_chips
    chosen = np.sort(chips[subset(chips.size, PANEL_CHIPS)])
    return fit.objective.panel(chosen)
