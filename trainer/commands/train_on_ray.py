"""The start of training: in this process, or on Ray workers."""

import json
import os
import re
import warnings
from collections.abc import Callable, Set
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from shards.errors import DatasetChangedError, DatasetError, InputError
from shards.format.manifest import StoredObject
from shards.progress import progress
from shards.read.dataset import Dataset
from shards.storage.objects import exists, join, list_files, publish, read_bytes, remove_file, whole_url
from shards.storage.one_writer import one_writer
from shards.version import COMMIT, UNKNOWN, commit
from trainer.commands.batch_of_device import with_batch_of_device
from trainer.commands.pretrain import (
    as_it_began as pretraining_as_it_began,
)
from trainer.commands.pretrain import (
    check as check_pretraining,
)
from trainer.commands.pretrain import (
    pretrain,
)
from trainer.commands.train import (
    as_it_began,
    planned_tokens,
    prepared,
    train,
    with_bands_of_backbone,
)
from trainer.commands.train_check import check
from trainer.config import TrainConfig
from trainer.data.token_filling import begin, by_shard, compute, finish
from trainer.data.token_store import TokenFile, TokenPlan
from trainer.devices.cards import chosen_here, computes, usable
from trainer.devices.choice import Choice, Kind
from trainer.devices.choice_on_ray import chosen_on_ray
from trainer.devices.ranks import Ranks
from trainer.model.frozen_backbone import placed_on
from trainer.model.regressor import Regressor
from trainer.pretrain_config import PretrainConfig

Cluster = Callable[[], AbstractContextManager[None]]
"""Connection to a cluster, for as long as work runs there."""
FAILED = "failed.json"
"""File that a worker leaves whose error would come again: Ray restarts all workers, and they end at once."""
FAILING = "failing-"
"""Beginning of a file's name that a worker leaves, with its rank: the error at which it stopped at last."""
OWN_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (InputError, DatasetError, DatasetChangedError, FloatingPointError, torch.OutOfMemoryError)
}
"""Errors that would come again, by name."""
MAX_FAILURES = 20
"""Number of times that a run resumes after losing a worker or a machine. Machines that are taken away with a
notice are not counted."""


@dataclass(frozen=True)
class Driver:
    """Facts about the driver that its workers share."""

    folder: str
    """Working folder; paths may be relative to it."""
    commit: str
    """Commit of its code, which results record."""

    @classmethod
    def here(cls) -> "Driver":
        """Describe this process."""
        return cls(os.getcwd(), commit())

    def follow(self) -> None:
        """Work as the driver does: in its folder, if this machine has it, and with its commit."""
        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        if self.commit != UNKNOWN:
            os.environ[COMMIT] = self.commit


def launch(
    config: TrainConfig, given: Set[str] | None = None, cluster: Cluster = lambda: nullcontext()
) -> None:
    """Train with `config.workers` Ray workers, or in this process if that is 0.

    Args:
        config: the options.
        given: names of the options that the user gave; default: all that differ from default and recipe.
        cluster: connects to the cluster, once nothing is wrong with the options; default: this is done.

    Raises:
        InputError: a mistake in the options; found before anything is started.
    """
    with one_writer(config.out):
        _launch(config, given, cluster)


def _launch(config: TrainConfig, given: Set[str] | None, cluster: Cluster) -> None:
    """Train into a folder that only this process writes."""
    config = with_bands_of_backbone(as_it_began(config, given), given)
    device = None if config.worker_range[1] else chosen_here(config.device, config.fit.precision)
    dataset = check(config, device)
    if device:
        found = computes(config.fit.precision, device)
        found.say()
        config = config.decided_by(found)
        train(with_batch_of_device(config, device, dataset), Ranks(device=torch.device(device)))
        return
    with cluster():
        choice = _choice(config)
        config = config.decided_by(choice.computes)
        config = with_batch_of_device(config, choice.device, dataset)
        if config.tokens.token_store:
            _fill_token_store(config, choice.device)
        run_on_workers(config, train, choice.device)


def launch_pretraining(
    config: PretrainConfig, given: Set[str] | None = None, cluster: Cluster = lambda: nullcontext()
) -> None:
    """Pre-train with `config.workers` Ray workers, or in this process if that is 0; see `launch`."""
    with one_writer(config.out):
        _launch_pretraining(config, given, cluster)


def _launch_pretraining(config: PretrainConfig, given: Set[str] | None, cluster: Cluster) -> None:
    """Pre-train into a folder that only this process writes."""
    config = pretraining_as_it_began(config, given)
    device = None if config.worker_range[1] else chosen_here(config.device, config.fit.precision)
    dataset = check_pretraining(config, device)
    if device:
        found = computes(config.fit.precision, device)
        found.say()
        config = config.decided_by(found)
        pretrain(with_batch_of_device(config, device, dataset), Ranks(device=torch.device(device)))
        return
    with cluster():
        choice = _choice(config)
        config = config.decided_by(choice.computes)
        run_on_workers(with_batch_of_device(config, choice.device, dataset), pretrain, choice.device)


def _choice(config: TrainConfig | PretrainConfig) -> Choice:
    """Decide on what the workers train; a GPU each for the fewest, if they are to have some."""
    least = max(1, config.worker_range[0])
    choice = chosen_on_ray(config.device, least, precision=config.fit.precision)
    choice.computes.say()
    return choice


def run_on_workers(config: TrainConfig | PretrainConfig, train: Callable[..., None], device: Kind) -> None:
    """Run `train(config, ranks, notice)` on every Ray worker, and again where one is lost.

    Raises:
        InputError, DatasetError, FloatingPointError, torch.OutOfMemoryError: as a worker raised it.
        RuntimeError: a worker failed twice in the same way, at the same step.
    """
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    least, most = config.worker_range
    count = most if least == most else (least, most)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"config": config, "driver": Driver.here(), "train": train, "device": device},
        # Ray 2.60 takes a pair, too, but does not say so in the type of this name.
        scaling_config=ScalingConfig(num_workers=count, use_gpu=device == "cuda"),  # type: ignore[arg-type]
        run_config=RunConfig(
            name="ray",
            # Ray's own short notes: in a place that every node reaches, as the checkpoints are.
            storage_path=whole_url(config.out),
            # What it asks of the cluster, and when, is for those who mend Ray.
            logging_config=LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    _forget_failure(config)
    trainer.fit()
    if failure := _forget_failure(config):
        raise failure


def _fill_token_store(config: TrainConfig, device: Kind) -> None:
    """Compute what the store lacks, one task a shard, on as many workers as there is room for."""
    import ray
    from ray.util import ActorPool

    least, most = config.worker_range
    free = int(ray.available_resources().get("GPU" if device == "cuda" else "CPU", 0))
    # Actors: a backbone is loaded once for many objects, and its memory is free again before training.
    in_any_case: Any = ray.remote(
        num_cpus=1,
        num_gpus=int(device == "cuda"),
        max_restarts=MAX_FAILURES,
        max_task_retries=MAX_FAILURES,
    )
    worker = in_any_case(_TokenWorker)
    actors = [worker.remote(config, Driver.here(), device)]
    try:
        plan = ray.get(actors[0].plan.remote())
        pieces = by_shard(begin(plan))
        count = min(max(least, min(most, free), 1), len(pieces))
        actors += [worker.remote(config, Driver.here(), device) for _ in range(count - 1)]
        objects: list[StoredObject | None] = []
        with progress("tokens", sum(file.chips for piece in pieces for file in piece), "chips") as advance:
            computed = ActorPool(actors).map_unordered(
                lambda actor, piece: actor.compute.remote(piece), pieces
            )
            for chips, stored in computed:
                objects += stored
                advance(chips)
        if pieces:
            finish(plan, objects)
    finally:
        for actor in actors:
            ray.kill(actor)


class _TokenWorker:
    """A process with a backbone, which computes objects of a token store."""

    def __init__(self, config: TrainConfig, driver: Driver, device: Kind) -> None:
        driver.follow()
        self._config, self._device = config, device

    @cached_property
    def _prepared(self) -> tuple[Dataset, Regressor, TokenPlan]:
        device = usable(self._device)
        dataset, regressor = prepared(self._config)
        plan = planned_tokens(self._config, dataset, regressor)
        return dataset, placed_on(regressor, plan.precision, device), plan

    def plan(self) -> TokenPlan:
        """Say which store it is, and what it is to hold."""
        return self._prepared[2]

    def compute(self, piece: list[TokenFile]) -> tuple[int, list[StoredObject | None]]:
        """Compute a shard's files; return the number of their chips and the stored objects."""
        dataset, regressor, plan = self._prepared
        return sum(file.chips for file in piece), list(compute(plan, piece, regressor, dataset))


def _worker(options: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    # Of torch, about memory layouts that cost nothing here.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    context = ray.train.get_context()
    # A worker without a GPU of its own sees all of its machine's.
    device = ray.train.torch.get_device() if options["device"] == "cuda" else torch.device("cpu")
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), device)
    config: TrainConfig | PretrainConfig = options["config"]
    options["driver"].follow()
    url = join(config.out, FAILED)
    if exists(url):
        return
    try:
        usable(device)
        options["train"](config, ranks, lambda: ray.train.get_preemption_info() is not None)
    except tuple(OWN_ERRORS.values()) as error:
        publish(url, _description(error))
        raise
    except Exception as error:
        _note_failure(config.out, ranks.rank, error)
        raise


def _description(error: Exception, *notes: str) -> bytes:
    """Describe an error with its notes, and more of them."""
    return json.dumps([type(error).__name__, str(error), *getattr(error, "__notes__", ()), *notes]).encode()


def _note_failure(out: str, rank: int, error: Exception) -> None:
    """Note an error that may be gone next time; if it was there last time, at the same step, end the run."""
    url = join(out, f"{FAILING}{rank}.json")
    noted = re.sub(rb"0x[0-9a-f]+", b"0x", _description(error))  # addresses in memory differ each time
    with suppress(InputError, OSError):  # storage that fails now must not hide the error
        if exists(url) and read_bytes(url) == noted:
            publish(join(out, FAILED), _description(error, "it failed so twice in a row, so that is the end"))
        publish(url, noted)


def _forget_failure(config: TrainConfig | PretrainConfig) -> Exception | None:
    """Take the error that a worker left, if one did."""
    for path in list_files(config.out, ".json") if exists(config.out) else []:
        if path.startswith(FAILING):
            remove_file(join(config.out, path))
    url = join(config.out, FAILED)
    if not exists(url):
        return None
    name, text, *notes = json.loads(read_bytes(url))
    remove_file(url)
    failure = OWN_ERRORS[name](text) if name in OWN_ERRORS else RuntimeError(f"{name}: {text}")
    for note in notes:
        failure.add_note(note)
    return failure
