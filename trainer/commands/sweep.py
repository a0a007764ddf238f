"""`treeline sweep`: short trainings that differ in learning rate, loss and decoder, compared. No Ray here.

    sweep.json           every trial: what was drawn, its best score, how it ended; written again after each
    best.yaml            the winner's options, for `treeline train --config`
    trial-0001/ ...      each trial: an ordinary training run (trainer.run_folder.run_writer)

Trials are compared by the RMSE (metres) on the chips held out in their best epoch: losses of different kinds
cannot be compared.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from math import exp, inf, isfinite, log
from typing import Any, Literal

import numpy as np
import torch
import yaml

from shards.errors import InputError
from shards.format.sealed import json_bytes
from shards.nested import flat
from shards.own_parts import recorded
from shards.progress import progress
from shards.read.dataset import Dataset
from shards.said import say
from shards.storage.objects import exists, join, publish
from shards.storage.one_writer import one_writer
from shards.version import made_by_code
from trainer.commands.batch_of_device import with_batch_of_device
from trainer.commands.too_little_memory import saying_what_to_set
from trainer.commands.train import resumed_fit
from trainer.commands.train_check import check
from trainer.config import SweepConfig, TrainConfig
from trainer.devices.cards import usable
from trainer.devices.choice import IN_FLOAT32, Computes, Kind
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit
from trainer.losses.loss import parse_loss
from trainer.model.make import check_own_decoder
from trainer.run_folder.metrics_file import read_metrics
from trainer.run_folder.run_writer import RunOptions, RunWriter, config_yaml, run_options
from trainer.score.epochs import EPOCH

SWEEP = "sweep.json"
BEST = "best.yaml"
DRAWN = ("learning_rate", "loss", "decoder")
"""Options in which trials differ."""
FAILURES = (FloatingPointError, torch.OutOfMemoryError)
"""Errors that a trial's options can cause: the trial is listed as failed, and the others continue."""

Report = Callable[[int, float | None], None]
"""report(epochs, val_rmse): this many epochs are done and saved, the last with this score in metres.

It does not return if the trial is to stop.
"""


@dataclass(frozen=True)
class Ending:
    """End of a trial."""

    kind: Literal["done", "stopped", "failed"]
    why: str = ""
    """Reason of its failure, in one line."""


Done = Callable[[int, Ending], None]
"""done(place, ending): the trial at this place of the list has ended."""
RunTrials = Callable[[SweepConfig, list[TrainConfig], Done, Kind], None]
"""Function that runs every trial, in any order, on this kind of device."""


@dataclass(frozen=True)
class Trial:
    """A trial that has ended."""

    number: int
    """Number of the trial, from 1."""
    config: TrainConfig
    ending: Ending
    val_rmse: float | None
    """Lowest RMSE on validation chips of all epochs, in metres; None if there is no score."""
    best_epoch: int | None
    """Epoch of that score, from 1."""
    epochs: int
    """Number of epochs that were done."""

    @property
    def rank(self) -> tuple[bool, float, int]:
        """Sort key, best first: failed trials last; of equals the earlier first."""
        no_score = self.ending.kind == "failed" or self.val_rmse is None
        return no_score, inf if self.val_rmse is None else self.val_rmse, self.number

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON values."""
        scores = {"val_rmse": self.val_rmse, "best_epoch": self.best_epoch, "epochs": self.epochs}
        how = {"ended": self.ending.kind, "why": self.ending.why}
        return {**_drawn(self.number, self.config), **how, **scores}


def sweep(
    config: SweepConfig,
    base: TrainConfig,
    run_trials: RunTrials,
    device: Kind = "cpu",
    computes: Computes = IN_FLOAT32,
) -> list[Trial]:
    """Run all trials by `run_trials` and write what came of them; returns them, the best first.

    Args:
        config: what is searched.
        base: the options that are the same in every trial.
        run_trials: `trials_here`, or `trainer.commands.sweep_on_ray.trials_on_ray`.
        device: kind of device on which trials train.
        computes: what it makes of --precision, which is said once nothing is left to refuse.

    Raises:
        InputError: a mistake in the options; found before anything is started or written.
        FloatingPointError: no trial has a score.
    """
    with one_writer(config.out):
        return _sweep(config, base.decided_by(computes), run_trials, device, computes)


def _sweep(
    config: SweepConfig, base: TrainConfig, run_trials: RunTrials, device: Kind, computes: Computes
) -> list[Trial]:
    """Search in a folder that only this process writes."""
    dataset = check_sweep(config, base, None if config.workers else device)
    computes.say()
    base = base.decided_by(computes)
    # As for its first trial: all have equally many chips, and each its own device.
    first = with_batch_of_device(draw_trials(config, base)[0], device, dataset)
    base = base.with_options(batch_size=first.fit.batch_size)
    trials = draw_trials(config, base)
    ended: dict[int, Trial] = {}
    about = {
        "fingerprint": dataset.manifest.fingerprint,
        "where": base.chips.where,
        "val_where": base.chips.validated_where,
        "limit": config.limit,
        **made_by_code(),
        **recorded(config),
        "config": asdict(config),
    }
    _write(about, trials, ended)
    with progress("sweep", len(trials), "trials") as advance:

        def done(place: int, ending: Ending) -> None:
            ended[place] = _read_trial(place + 1, trials[place], ending)
            _write(about, trials, ended)
            advance(1, _metres(ranked(ended.values())[0]))

        run_trials(config, trials, done, device)
    best, *others = ranked(ended.values())
    if best.rank[0]:
        why = best.ending.why or "no height of the chips held out is measured; hold out others"
        raise FloatingPointError(f"{config.out}: no trial has a score; the first: {why}")
    publish(join(config.out, BEST), _best_yaml(best, base))
    return [best, *others]


def check_sweep(config: SweepConfig, base: TrainConfig, device: Kind | None) -> Dataset:
    """Find the user's mistakes before any process is started or anything is written; returns the dataset.

    Raises:
        InputError: an option out of its range, no chips to learn from or to score on, or --out is in use.
    """
    if base.fit.minutes:
        raise InputError(
            f"{config.train_config}: minutes: trainings to compare need one length; give --epochs"
        )
    for name, least in (("trials", 1), ("epochs", 1), ("workers", 0), ("seed", 0)):
        if getattr(config, name) < least:
            raise InputError(f"--{name} {getattr(config, name)}: give {least} or more")
    rates = config.learning_rate
    if len(rates) != 2 or not all(map(isfinite, rates)) or not 0 < rates[0] <= rates[1]:
        given = " ".join(f"{rate:g}" for rate in rates)
        raise InputError(f"--learning-rate {given}: give a lowest above 0 and a highest not below it")
    for name in ("loss_choices", "decoder_choices"):
        if not getattr(config, name):
            raise InputError(f"--{name.replace('_', '-')}: is empty; give one or more")
    for choice in config.loss_choices:
        parse_loss(tuple(choice.split()))
    for decoder in config.decoder_choices:
        check_own_decoder(base.with_options(decoder=decoder).model)
    if base.target.task != "height":
        raise InputError(
            f"{config.train_config}: task is {base.target.task}; a sweep compares heights alone, by their "
            "RMSE in metres; leave it out"
        )
    if exists(join(config.out, SWEEP)):
        raise InputError(f"{config.out}: already holds a sweep; choose another --out, or delete it first")
    dataset = check(draw_trials(config, base)[0], device)
    if not dataset.manifest.samples("val"):
        raise InputError(
            f"{config.data}: no chip is held out to compare trials on; hold some out with treeline split"
        )
    return dataset


def draw_trials(config: SweepConfig, base: TrainConfig) -> list[TrainConfig]:
    """Draw the trials' options, a function of the seed; the first n of more trials are the n trials.

    The learning rate is log-uniform in its range, loss and decoder are each equally likely.
    """
    low, high = config.learning_rate
    trials = []
    for place in range(config.trials):
        generator = np.random.default_rng((config.seed, place))
        rate = exp(generator.uniform(log(low), log(high)))
        loss = config.loss_choices[generator.integers(len(config.loss_choices))]
        decoder = config.decoder_choices[generator.integers(len(config.decoder_choices))]
        trial = base.with_options(
            data=config.data,
            out=join(config.out, f"trial-{place + 1:04d}"),
            limit=config.limit,
            epochs=config.epochs,
            workers=0,
            resume="no",
            # Four digits are enough to tell trials apart, and can be read.
            learning_rate=min(max(float(f"{rate:.4g}"), low), high),
            loss=tuple(loss.split()),
            decoder=decoder,
        )
        trials.append(trial)
    return trials


def trials_here(config: SweepConfig, trials: list[TrainConfig], done: Done, device: Kind = "cpu") -> None:
    """Run the trials in this process, one after the other, each to its end."""
    for place, trial in enumerate(trials):
        done(place, run_trial(trial, device=device))


def run_trial(
    config: TrainConfig, report: Report = lambda epochs, val_rmse: None, device: Kind = "cpu"
) -> Ending:
    """Train as one process, from the trial's last state if it has one.

    Args:
        config: the trial's options.
        report: called after every epoch but the last.
        device: kind of device to train on.

    Raises:
        InputError: options that do not go together.
        DatasetError: a damaged shard.
    """
    try:
        ranks = Ranks(device=usable(device))
        with saying_what_to_set(config, ranks):
            fit = resumed_fit(config, ranks)
            dataset = fit.learning.dataset
            with _TrialWriter(run_options(config, dataset, ranks.device), report) as writer:
                fit.run(writer)
                writer.finish(fit)
    except FAILURES as error:
        return Ending("failed", f"{type(error).__name__}: {error}")
    for trouble in dataset.troubles():
        say(f"{config.out}: {trouble}")
    return Ending("done")


class _TrialWriter(RunWriter):
    """Reports the trial's epochs, and shows no progress of its own."""

    def __init__(self, options: RunOptions, report: Report) -> None:
        super().__init__(options, advance=lambda count, note="": None)
        self._report = report

    def save(self, fit: Fit) -> None:
        """Save the state, and report if that was at an epoch's end; all is written before."""
        super().save(fit)
        # After its last epoch there is nothing left of a trial to be stopped.
        if fit.position.seen == 0 and fit.position.epoch < fit.options.epochs:
            self._background.wait()
            self._log.flush()
            self._report(fit.position.epoch, fit.records[-1]["val_rmse"])


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Sort trials, the best first."""
    return sorted(trials, key=lambda trial: trial.rank)


def table(trials: list[Trial]) -> str:
    """Format a line for each trial, in their order."""
    lines = [f"{'trial':>5}  {'val_rmse':>10}  {'epochs':>6}  {'rate':>9}  {'decoder':8}  loss"]
    for trial in trials:
        options, ending = flat(trial.config), trial.ending
        line = f"{trial.number:5}  {_metres(trial):>10}  {trial.epochs:6}  {options['learning_rate']:9.3g}  "
        line += f"{options['decoder']:8}  {' '.join(options['loss'])}"
        why = f": {ending.why}" if ending.why else ""
        lines.append(line if ending.kind == "done" else f"{line}  ({ending.kind}{why})")
    return "\n".join(lines)


def _metres(trial: Trial) -> str:
    return "-" if trial.val_rmse is None else f"{trial.val_rmse:.3f} m"


def _read_trial(number: int, config: TrainConfig, ending: Ending) -> Trial:
    """Read what the trial's run says of its epochs."""
    records = read_metrics(config.out)
    scores = [(one["val_rmse"], one[EPOCH]) for one in records if one["val_rmse"] is not None]
    val_rmse, best_epoch = min(scores, default=(None, None))
    return Trial(number, config, ending, val_rmse, best_epoch, len(records))


def _drawn(number: int, config: TrainConfig) -> dict[str, Any]:
    return {"number": number, "out": config.out, "options": _drawn_options(config)}


def _drawn_options(config: TrainConfig) -> dict[str, Any]:
    options = flat(config)
    return {name: options[name] for name in DRAWN}


def _write(about: dict[str, Any], trials: list[TrainConfig], ended: dict[int, Trial]) -> None:
    listed = [
        ended[place].to_json() if place in ended else {**_drawn(place + 1, trial), "ended": None}
        for place, trial in enumerate(trials)
    ]
    publish(join(about["config"]["out"], SWEEP), json_bytes({**about, "trials": listed}))


def _best_yaml(best: Trial, base: TrainConfig) -> bytes:
    """Write the winner's options, with all chips and as many epochs as `base` has: the search was short."""
    values = yaml.safe_load(config_yaml(base.with_options(**_drawn_options(best.config))))
    del values["out"]  # each training needs a place of its own
    return yaml.safe_dump(values, sort_keys=False).encode()
