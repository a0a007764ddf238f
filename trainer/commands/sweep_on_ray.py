"""The trials of a sweep on Ray Tune: several at a time, the hopeless stopped early.

Which trials there are does not depend on Ray (`trainer.commands.sweep.draw_trials`); Tune counts through
them, and its asynchronous successive halving (arXiv:1810.05934) ends those whose score is not among the best
third of what others had after as many epochs.
"""

import os
from typing import Any

from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler

from shards.storage.objects import whole_url
from trainer.commands.sweep import Done, Ending, run_trial
from trainer.commands.train_on_ray import OWN_ERRORS, Driver
from trainer.config import SweepConfig, TrainConfig
from trainer.devices.choice import Kind

MAX_FAILURES = 3
"""Number of times that a trial resumes after losing its process or machine."""
REDUCTION = 3
"""One in this many trials continues from each rung; the next rung is at this many times the epochs."""
GRACE = 5
"""No trial is stopped in the first 1/GRACE of its epochs, when the learning rate still goes up."""

TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # of the two ways in which Tune reports, the one that can be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # runs keep their own metrics
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command, not only Tune
}


def trials_on_ray(config: SweepConfig, trials: list[TrainConfig], done: Done, device: Kind) -> None:
    """Run the trials on the cluster, `config.workers` at a time; see `trainer.commands.sweep.RunTrials`.

    Raises:
        InputError: options that do not go together.
        DatasetError: a damaged shard.
    """
    os.environ |= TUNE_ENVIRONMENT
    trainable = tune.with_parameters(_trial, trials=trials, driver=Driver.here(), device=device)
    watcher = _Watcher(done)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1, "gpu": int(device == "cuda")}),
        param_space={"place": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(
            metric="val_rmse",
            mode="min",
            max_concurrent_trials=config.workers,
            scheduler=ASHAScheduler(
                time_attr="epochs",
                max_t=config.epochs,
                grace_period=max(1, config.epochs // GRACE),
                reduction_factor=REDUCTION,
            ),
            reuse_actors=True,  # a new process takes some ten seconds to begin
        ),
        run_config=tune.RunConfig(
            name="ray",
            # Ray's own short notes: in a place that every node reaches, as the trials are.
            storage_path=whole_url(config.out),
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            # Without the results as JSON Tune complains that it cannot find them again.
            callbacks=[watcher, JsonLoggerCallback()],
            verbose=0,
        ),
    )
    results = tuner.fit()
    if watcher.own_error:
        raise watcher.own_error
    if results.errors:
        raise results.errors[0]


def _trial(options: dict[str, int], trials: list[TrainConfig], driver: Driver, device: Kind) -> None:
    """Run one trial, in a process of its own; its last report says how it ended, if nothing stopped it."""
    driver.follow()

    def report(epochs: int, val_rmse: float | None) -> None:
        tune.report({"epochs": epochs, "val_rmse": _number(val_rmse)})

    try:
        ending = run_trial(trials[options["place"]], report, device)
        ended = [ending.kind, ending.why]
    except tuple(OWN_ERRORS.values()) as error:
        ended = [type(error).__name__, str(error)]  # it would come again: no failure that Tune is to repeat
    # Without "epochs" the scheduler has nothing to decide.
    tune.report({"val_rmse": _number(None), "ended": ended})


def _number(val_rmse: float | None) -> float:
    return float("nan") if val_rmse is None else val_rmse


class _Watcher(tune.Callback):
    """Callback that tells the driver of every trial that has ended."""

    def __init__(self, done: Done) -> None:
        self._done = done
        self.own_error: Exception | None = None
        """A mistake of the user's or damaged data, found by a trial."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note how a trial ended; Tune calls it also for a trial that its scheduler has stopped."""
        kind, why = trial.last_result.get("ended", ("stopped", ""))
        if kind in OWN_ERRORS:
            self.own_error = OWN_ERRORS[kind](why)
        else:
            self._done(trial.config["place"], Ending(kind, why))

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune stores its callbacks, and a progress bar cannot be stored."""
        return {}
