"""The writer of a run's folder, which grows during training.

    config.yaml          the resolved options; can be fed back with --config
    checkpoints.json     names of the checkpoints: the last epoch's and the best ones
    epoch-0007/ ...      those checkpoints; RUN/best and RUN/last name them, too
    backbone-*           while the run lasts: weights of a frozen backbone (trainer.weights.weights_apart)
    metrics.jsonl        one line an epoch
    validation.json      at the end: the best checkpoint beside the baselines (verdict_file.py in this room)
    state.json, state/   all that is needed to resume (state.py and state_parts.py in this room)
    tensorboard/         the same numbers, and the speed, for TensorBoard
    mlflow.json          with --mlflow: the id of the MLflow run that has them, too

Each object is written whole or not at all, and checkpoints.json names a checkpoint when it is complete.
"""

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from shards.errors import InputError
from shards.format.manifest import write_json
from shards.nested import flat
from shards.own_parts import recorded
from shards.progress import Advance
from shards.read.dataset import Dataset
from shards.said import say
from shards.storage.objects import (
    exists,
    find_files,
    is_local,
    join,
    local_path,
    publish,
    publish_folder,
    remove_file,
    remove_folder,
    remove_unfinished,
    sizes_of,
)
from shards.version import made_by_code
from trainer.config import TrainConfig
from trainer.devices.cards import computes
from trainer.devices.learner import WeightsApart
from trainer.fit.loop import Fit
from trainer.options import KeepOptions
from trainer.pretrain_config import PretrainConfig
from trainer.run_folder.epoch_rate import EpochRate, epoch_rate, slow_end
from trainer.run_folder.metrics_file import METRICS, metrics_lines
from trainer.run_folder.mlflow_log import MlflowLog
from trainer.run_folder.options_file import CONFIG
from trainer.run_folder.state_callback import Notice, StateCallback, no_notice, panel_of
from trainer.run_folder.state_parts import StateWriter, remove_leftovers
from trainer.score.epochs import EPOCH, EPOCHS_FROM, epoch_of
from trainer.weights.checkpoint_sums import WEIGHTS, described
from trainer.weights.run_checkpoints import CHECKPOINTS
from trainer.weights.weights_apart import (
    REFERENCE,
    make_whole,
    reference_to,
    remove_unused,
    write_apart,
)

TENSORBOARD = "tensorboard"
NOTE_SECONDS = 1.0
"""Seconds between two looks at the loss, since each waits for the device."""
LARGE_BYTES = 10**9
"""Bytes above which a line announces what the end of a run writes."""
SLOW_SECONDS = 10.0
"""Seconds of an epoch above which a line says what is slow; in shorter ones that is their beginning."""
_EPOCH = re.compile(r"epoch-\d+/")


@dataclass(frozen=True)
class RunOptions:
    """Options of the run's writer."""

    out: str
    """Folder of the run."""
    data: str
    """Dataset, as the user named it."""
    resolved: dict[str, Any]
    """All options of the run, as plain YAML values."""
    trained_on: dict[str, Any]
    """Description of the training data and code, for the checkpoints."""
    keep: KeepOptions
    """Checkpoints, states and logs that the run keeps."""


def run_options(config: TrainConfig, dataset: Dataset, device: torch.device) -> RunOptions:
    """Return the options that the writer needs of a training's, on this device."""
    trained_on = {
        "data": dataset.url,
        "fingerprint": dataset.manifest.fingerprint,
        "where": config.chips.where,
        "limit": config.chips.limit,
        "val_where": config.chips.validated_where,
        **({"per": config.chips.per, "label_seed": config.chips.label_seed} if config.chips.limit else {}),
        "precision": computes(config.fit.computed_in, device).precision,
        **made_by_code(),
        **recorded(config),
    }
    return RunOptions(config.out, config.data, plain(config) | recorded(config), trained_on, config.keep)


class RunWriter(StateCallback):
    """Callback that writes a run's folder; only the first rank has it."""

    def __init__(
        self,
        options: RunOptions,
        advance: Advance,
        notice: Notice = no_notice,
        states: StateWriter | None = None,
    ) -> None:
        out = options.out
        super().__init__(notice, states or StateWriter(out), options.keep.checkpoint_steps)
        self._options, self._out, self._advance = options, out, advance
        self._note, self._noted = "", 0.0
        self._said = set[str]()
        # An earlier process may have been killed before it removed old checkpoints: those count, too.
        self._kept = {name.partition("/")[0] for name in find_files(out) if _EPOCH.match(name)}
        remove_leftovers(out)
        remove_unfinished(out, below=False)
        publish(join(out, CONFIG), as_yaml(options.resolved).encode())
        mlflow = options.keep.mlflow
        self._mlflow = MlflowLog(mlflow, out, options.resolved) if mlflow else None

    def __enter__(self) -> Self:
        # TensorBoard appends to its log. Object stores cannot, so a local copy is sent there instead.
        self._scratch = None if is_local(self._out) else tempfile.TemporaryDirectory(prefix="treeline-")
        self._log_folder = (
            self._scratch.name if self._scratch else str(local_path(join(self._out, TENSORBOARD)))
        )
        self._log = SummaryWriter(self._log_folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._log.close()
            if self._mlflow:
                self._mlflow.__exit__(kind, error, trace)
        finally:
            super().__exit__(kind, error, trace)
            if self._scratch:
                publish_folder(join(self._out, TENSORBOARD), self._log_folder)
                self._scratch.cleanup()

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        """Show progress, and see StateCallback."""
        position = fit.position
        is_end = position.seen >= fit.learning.train_chips.size
        if is_end or time.monotonic() - self._noted >= NOTE_SECONDS:
            self._noted = time.monotonic()
            self._note = f"epoch {position.epoch + 1}, {_standing(fit)}"
        self._advance(chips, self._note)
        super().after_step(fit, chips, loss)

    def after_epoch(self, fit: Fit, record: dict[str, Any], is_best: bool) -> None:
        """Write the epoch's numbers and its checkpoint."""
        rate = epoch_rate(fit.spent, fit.flops_per_chip, fit.learning.ranks, fit.options)
        numbers = {name: value for name, value in record.items() if name not in (EPOCH, EPOCHS_FROM)}
        numbers |= rate.numbers()
        logged_as = record[EPOCH]  # in the run's own numbering, since logs go on when a run is resumed
        for name, value in numbers.items():
            if value is not None:
                self._log.add_scalar(name, value, logged_as)
        if self._mlflow:
            self._mlflow.add(numbers, logged_as)
        objective = fit.objective
        line = rate.line(epoch_of(record), objective.summary(record), objective.learns_from)
        self._print(line, rate, epoch_of(record), fit.spent.seconds)
        self._draw(fit, logged_as)
        best = best_epochs(fit.records, self._options.keep.keep_best, fit.objective.standing)
        folder = folder_of(epoch_of(record))
        names = {"last": folder, "best": [folder_of(epoch) for epoch in best]}
        files, apart = fit.objective.checkpoint(record, self._options.trained_on), fit.model.apart
        if apart:
            files = described({REFERENCE: reference_to(apart, join(self._out, folder)), **files})
        lines = metrics_lines(fit.records)
        self._log.flush()
        # Written in one go with the state that follows, so that neither waits for the other.
        self._first = lambda: self._write_epoch(names, files, lines, apart)

    def finish(self, fit: Fit) -> None:
        """Make the checkpoints whole, at the end of training; if killed here, a run does it when resumed."""
        self._background.wait()
        referring = [folder for folder in sorted(self._kept) if exists(join(self._out, folder, REFERENCE))]
        if referring and fit.model.apart:
            write_apart(self._out, fit.model.apart)
            nbytes = sizes_of(self._out)[fit.model.apart.file]
            if len(referring) * nbytes > LARGE_BYTES:
                size = f"{len(referring)} x {nbytes / 1e9:,.1f} GB"
                say(f"makes its checkpoints whole ({size})")
        refused = list[InputError]()
        for folder in referring:
            remove_unfinished(join(self._out, folder))
            try:
                make_whole(join(self._out, folder, WEIGHTS))
            except InputError as error:  # a damaged one is no reason to leave the others
                refused.append(error)
        if refused:
            raise refused[0]
        remove_unused(self._out)

    def _print(self, line: str, rate: EpochRate, epoch: int, seconds: float) -> None:
        """Print the epoch's line to standard error, and once what holds the run up, if anything does.

        An open progress bar stays below them.
        """
        say(line, of="")
        slow = slow_end(rate, epoch, self._options.data, self._options.resolved)
        if slow and seconds > SLOW_SECONDS and slow.what not in self._said:
            self._said.add(slow.what)
            say(f"{slow.what} is slow: {slow.why}")

    def _draw(self, fit: Fit, epoch: int) -> None:
        """Log a panel of sample chips, and histograms of the values in it."""
        panel = panel_of(fit)
        if panel is None:
            return
        self._log.add_image(panel.title, panel.rgb_HW3, epoch, dataformats="HWC")
        for name, values_N in panel.histograms.items():
            if values_N.size:
                self._log.add_histogram(name, values_N, epoch)

    def _write_epoch(
        self, names: dict[str, Any], files: dict[str, bytes], lines: bytes, apart: WeightsApart | None
    ) -> None:
        folder = names["last"]
        remove_unfinished(join(self._out, folder))
        if apart:  # first, so that every checkpoint that exists can be read
            write_apart(self._out, apart)
        for name, data in files.items():
            publish(join(self._out, folder, name), data)
        if apart:  # whole weights, if an earlier version stopped in this epoch
            remove_file(join(self._out, folder, WEIGHTS))
        write_json(join(self._out, CHECKPOINTS), names)
        publish(join(self._out, METRICS), lines)
        if self._scratch:
            publish_folder(join(self._out, TENSORBOARD), self._log_folder)
        self._kept.add(folder)
        for old in self._kept - {folder, *names["best"]}:
            remove_folder(join(self._out, old))
        self._kept &= {folder, *names["best"]}


def _standing(fit: Fit) -> str:
    """Say in a few words how the epoch goes."""
    if fit.sums_K is not None:
        return f"loss {fit.epoch_loss:.3f}, learning rate {fit.schedule.learning_rate:.2g}"
    if fit.position.overflowed:
        return (
            "no step yet: the scale of the loss in float16 is being lowered, which is expected "
            f"({fit.position.overflowed} steps left out, docs/gpu.md)"
        )
    return "no step yet"


def folder_of(epoch: int) -> str:
    """Return the name of the checkpoint of an epoch (from 1)."""
    return f"epoch-{epoch:04d}"


def best_epochs(
    records: list[dict[str, Any]], count: int, standing: Callable[[dict[str, Any]], float]
) -> list[int]:
    """Return the numbers (from 1) of the best epochs by standing, best first; ties go to the earlier."""
    scored = sorted((standing(record), epoch_of(record)) for record in records)
    return [epoch for _, epoch in scored[:count]]


def config_yaml(config: TrainConfig | PretrainConfig) -> str:
    """Write the resolved options as YAML, to be fed back with --config."""
    return as_yaml(plain(config))


def as_yaml(options: dict[str, Any]) -> str:
    """Write plain values as YAML, in their order."""
    return yaml.safe_dump(options, sort_keys=False)


def plain(config: Any) -> dict[str, Any]:
    """Return a configuration's resolved options as plain YAML and JSON values."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in flat(config).items()}
