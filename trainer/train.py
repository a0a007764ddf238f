"""`treeline train`: what one rank does, from the dataset's URL to checkpoints. No Ray here.

Below <out>:

    config.yaml          the resolved options; can be fed back with --config
    best/ last/          checkpoints
    metrics.jsonl        one line an epoch
    tensorboard/         the same numbers, for TensorBoard
"""

import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

import shards
from shards.errors import InputError
from shards.order import subset
from shards.progress import Advance, progress
from shards.reader import Dataset, open_dataset
from shards.storage import check_writable, exists, is_local, join, local_path, publish, publish_folder
from trainer.backbone import new_backbone
from trainer.baselines import Baselines, fit_baselines
from trainer.checkpoint import Checkpoint
from trainer.config import TrainConfig, read_options
from trainer.decoder import DecoderConfig
from trainer.loop import Learning, fit
from trainer.model import Regressor
from trainer.ranks import Ranks

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
_BASELINE_BATCH = 256


def check(config: TrainConfig) -> Dataset:
    """Find the user's mistakes before any process is started or anything is written.

    Raises:
        InputError: no dataset, no training chip, bands that it lacks, or an output that cannot be used.
    """
    for name, least in (("global_batch", 1), ("epochs", 1), ("seed", 0)):
        if getattr(config, name) < least:
            option = "--batch-size" if name == "global_batch" else f"--{name}"
            raise InputError(f"{option} {getattr(config, name)}: give {least} or more")
    dataset = open_dataset(config.data, read_options(config))
    dataset.schema.band_positions(config.bands)
    if not dataset.schema.label:
        raise InputError(f"{config.data}: has no heights to learn from; ingest it with --heights")
    if not dataset.manifest.samples("train"):
        raise InputError(
            f"{config.data}: no chip is in the training split; give it a share with treeline split"
        )
    chips = dataset.chips("train", config.limit, config.where)
    if not chips.size:
        chosen = f"--where {config.where!r}" if config.where else f"--limit {config.limit}"
        raise InputError(f"{config.data}: {chosen} leaves no training chip; choose more")
    if config.balance_heights:
        dataset.height_weights(chips, config.balance_heights)
    if exists(join(config.out, CONFIG)):
        raise InputError(
            f"{config.out}: already holds a training run; choose another --out or delete it first"
        )
    check_writable(config.out)
    return dataset


def train(config: TrainConfig, ranks: Ranks) -> None:
    """Train as one of `ranks`; the first one writes."""
    dataset = open_dataset(config.data, read_options(config))
    torch.manual_seed(config.seed)
    regressor = new_regressor(dataset, config).to(ranks.device)
    train_chips = dataset.chips("train", config.limit, config.where)
    edges = config.balance_heights
    weights = dataset.height_weights(train_chips, edges) if edges else None
    learning = Learning(dataset, train_chips, dataset.chips("val"), ranks, weights)
    with ExitStack() as stack:
        run: Run | None = None
        advance: Advance = _silent
        if ranks.is_first:
            sample = train_chips[subset(train_chips.size, config.baseline_chips)]
            baselines = fit_baselines(dataset.batches(sample, _BASELINE_BATCH), dataset.schema.nodata)
            run = stack.enter_context(Run(config, dataset, regressor, baselines))
            total = config.epochs * train_chips.size
            advance = stack.enter_context(progress("train", total, "chips"))
        fit(regressor, learning, config, advance, run.record if run else _unrecorded)
    for trouble in dataset.troubles():
        print(f"treeline: rank {ranks.rank}: {trouble}", file=sys.stderr, flush=True)


def new_regressor(dataset: Dataset, config: TrainConfig) -> Regressor:
    """The untrained regressor that `config` asks for, ready for the dataset's images."""
    backbone = new_backbone(config.backbone, config.bands, config.new_band_from)
    backbone.requires_grad_(config.train_backbone)
    # The mask token is for pre-training; a parameter without a gradient would stall the ranks' averaging.
    backbone.embeddings.mask_token.requires_grad_(False)
    decoder = DecoderConfig(config.decoder_widths, config.norm, config.dropout)
    return Regressor(dataset.schema, config.bands, dataset.statistics, backbone, decoder)


class Run:
    """What a training run leaves behind, written as it goes."""

    def __init__(
        self, config: TrainConfig, dataset: Dataset, regressor: Regressor, baselines: Baselines
    ) -> None:
        self._out, self._regressor, self._baselines = config.out, regressor, baselines
        self._trained_on = {
            "data": dataset.url,
            "fingerprint": dataset.manifest.fingerprint,
            "treeline": shards.__version__,
        }
        self._records: list[dict[str, Any]] = []
        publish(join(config.out, CONFIG), config_yaml(config).encode())

    def __enter__(self) -> "Run":
        # TensorBoard appends to its log, which object stores cannot: elsewhere it is sent when done.
        self._scratch = None if is_local(self._out) else tempfile.TemporaryDirectory(prefix="treeline-")
        self._log_folder = (
            self._scratch.name if self._scratch else str(local_path(join(self._out, TENSORBOARD)))
        )
        self._log = SummaryWriter(self._log_folder)
        return self

    def __exit__(self, *error: object) -> None:
        self._log.close()
        if self._scratch:
            publish_folder(join(self._out, TENSORBOARD), self._log_folder)
            self._scratch.cleanup()

    def record(self, record: dict[str, Any], is_best: bool) -> None:
        """Write an epoch's numbers and checkpoints."""
        self._records.append(record)
        lines = "".join(json.dumps(line) + "\n" for line in self._records)
        publish(join(self._out, METRICS), lines.encode())
        for name, value in record.items():
            if name != "epoch" and value is not None:
                self._log.add_scalar(name, value, record["epoch"])
        checkpoint = Checkpoint(self._regressor, self._trained_on, record, self._baselines)
        for name in ("best", "last") if is_best else ("last",):
            checkpoint.save(join(self._out, name))


def config_yaml(config: TrainConfig) -> str:
    """The resolved options as YAML, to be fed back with --config."""
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
    return yaml.safe_dump(values, sort_keys=False)


def _unrecorded(record: dict[str, Any], is_best: bool) -> None:
    """The other ranks write nothing."""


def _silent(count: int, note: str = "") -> None:
    """The other ranks show no progress."""
