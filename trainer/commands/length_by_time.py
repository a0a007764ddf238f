"""The length of a training by the clock: its speed is measured once, and the number of steps is then fixed.

config = with_measured_length(config)           what an earlier process of this run decided
fit = new_fit(open_ended(config), ...)
decided = run_by_time(config, fit, callback)    trains; or measures, saves the state, and returns the options

What is decided stands in config.yaml. All that follows is an ordinary run, which begins at the state that was
saved: how it goes depends on no clock. A process that is killed while it measures leaves no length, so the
next one measures again, from the last state if there is one.
"""

import time
from typing import Any, TypeVar

from shards.said import say
from shards.storage.objects import exists, join
from trainer.config import TrainConfig
from trainer.fit.callback import Callback
from trainer.fit.loop import Fit
from trainer.pretrain_config import PretrainConfig
from trainer.run_folder.options_file import CONFIG, read_options
from trainer.run_folder.state_callback import StateCallback
from trainer.run_folder.state_parts import STATE

Config = TypeVar("Config", TrainConfig, PretrainConfig)
FIRST_STEPS = 5
"""Steps that are not measured: memory is taken and kernels are chosen in them."""
LEAST_STEPS, LEAST_SECONDS, LEAST_SHARE = 5, 3.0, 0.03
"""Steps, seconds and share of the whole time for which speed is measured, all three at least."""
MANY_EPOCHS = 10**9
"""Epochs of a training whose length is not known yet."""
SCORING = 1 / 3
"""Time of scoring a chip as a share of learning from it, until an epoch was scored: a forward pass alone."""


def with_measured_length(config: Config) -> Config:
    """Return the options with the length that this run decided on before, if it has a state to go on from."""
    if not is_open(config) or not exists(join(config.out, CONFIG)) or not exists(join(config.out, STATE)):
        return config
    stored = read_options(join(config.out, CONFIG))
    if not stored.get("steps"):
        return config
    return config.with_options(steps=stored["steps"], epochs=stored["epochs"])


def open_ended(config: Config) -> Config:
    """Return the options to make a fit with; while its length is open, no epoch is the last one."""
    return config.with_options(epochs=MANY_EPOCHS) if is_open(config) else config


def run_by_time(config: Config, fit: Fit, callback: StateCallback) -> Config | None:
    """Train to the end and return None; or until the length is known, and return the options with it."""
    if not is_open(config):
        fit.run(callback)
        return None
    pace = _Pace(config, callback, fit)
    try:
        fit.run(pace)
    except _Measured:
        callback.save(fit)
        callback.wait()
        fit.learning.ranks.least(0)  # all ranks go on from this state, once it is there
        steps = pace.steps_in_all()
        if fit.learning.ranks.is_first:
            say(
                f"--minutes {config.fit.minutes:g}: trains for {steps:,} steps, at {pace.step_seconds:.3g} s "
                f"a step and {pace.scoring_seconds:.3g} s for scoring an epoch"
            )
        return config.with_options(steps=steps, epochs=-(-steps // fit.steps_per_epoch))
    return None  # it stopped because nothing improved any more


def is_open(config: TrainConfig | PretrainConfig) -> bool:
    """Tell whether the length is to be decided by the clock, and is not decided yet."""
    return bool(config.fit.minutes) and config.fit.steps is None


class _Measured(Exception):
    """The speed is known."""


class _Pace(Callback):
    """Callback that measures the speed; ranks share the clock of the one that began last."""

    def __init__(self, config: TrainConfig | PretrainConfig, inner: Callback, fit: Fit) -> None:
        self._inner, self._fit, self._began = inner, fit, time.monotonic()
        self._seconds, self._seen, self._stepping = 60 * config.fit.minutes, 0, 0.0
        self._last, self._scorings = 0.0, list[float]()
        fit.schedule.follow_clock(0.0)

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        """See Callback; end the run once the speed is known."""
        self._inner.after_step(fit, chips, loss)
        took = self._tick()
        self._seen += 1
        if self._seen > FIRST_STEPS:
            self._stepping += took
        is_long = self._stepping >= max(LEAST_SECONDS, LEAST_SHARE * self._seconds)
        is_over = self._last >= self._seconds and self._seen > FIRST_STEPS
        if is_over or (is_long and self._seen >= FIRST_STEPS + LEAST_STEPS):
            raise _Measured
        # As if the next step took as long.
        fit.schedule.follow_clock((self._last + took) / self._seconds)

    def may_save(self, step: int) -> bool:
        """See Callback: steps are timed one by one."""
        return True

    def after_epoch(self, fit: Fit, record: dict[str, Any], is_best: bool) -> None:
        """See Callback."""
        self._inner.after_epoch(fit, record, is_best)
        self._scorings.append(self._tick())

    def save(self, fit: Fit) -> None:
        """See Callback."""
        self._inner.save(fit)

    @property
    def step_seconds(self) -> float:
        """Seconds of a step."""
        return self._stepping / max(1, self._seen - FIRST_STEPS)

    @property
    def scoring_seconds(self) -> float:
        """Seconds between two epochs: the longest so far, or an estimate."""
        if self._scorings:
            return max(self._scorings)
        batches = self._fit.learning.val_chips.size / self._fit.global_batch
        return SCORING * batches * self.step_seconds

    def steps_in_all(self) -> int:
        """Return the number of steps that fill the time, those that are done included."""
        return steps_in(
            self._seconds - self._last,
            self.step_seconds,
            self.scoring_seconds,
            self._fit.steps_per_epoch,
            self._fit.position.step,
        )

    def _tick(self) -> float:
        """Return the seconds since the last call, the same on all ranks."""
        now = self._fit.learning.ranks.least(round(1e6 * (time.monotonic() - self._began))) / 1e6
        took, self._last = now - self._last, now
        return max(0.0, took)


def steps_in(seconds: float, step: float, scoring: float, per_epoch: int, done: int) -> int:
    """Return the number of steps after which `seconds` are over, counting those that are done.

    Args:
        seconds: seconds that are left.
        step: seconds of a step.
        scoring: seconds at the end of each epoch, also of one that is cut short.
        per_epoch: steps of an epoch.
        done: steps that are done.
    """
    in_this = per_epoch - done % per_epoch
    to_its_end = in_this * step + scoring
    if seconds < to_its_end:
        return done + max(0, int((seconds - scoring) / step))
    seconds, done = seconds - to_its_end, done + in_this
    whole = int(seconds / (per_epoch * step + scoring))
    rest = seconds - whole * (per_epoch * step + scoring)
    return done + whole * per_epoch + max(0, int((rest - scoring) / step))
