"""Blocks predicted on Ray workers with Ray Data.

read on any CPU -> predict on actors that each hold a regressor -> write to the ledger on any CPU. Blocks
stream through: Ray Data holds readers back while the actors are busy. Other tasks assemble the maps.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from inference.config import PredictConfig
from inference.predict.block_tasks import BlockResult, BlockTask, MapJob, Reader
from inference.predict.map_options import BATCH_ON_CPU
from inference.predict.scene_map import SceneMap, complete
from inference.tiling.halo import Halo
from inference.workers_on_ray import WORKER_CPUS, workers_that_fit
from shards.errors import InputError
from shards.storage.objects import whole_url
from trainer.devices.choice import Computes, Precision

READ_AT_ONCE = 2
"""Number of reading tasks, and of writing tasks, per worker. They ask for no core, so none waits for one."""
TASKS_AT_ONCE = 10_000
"""Blocks that the driver hands to Ray Data at a time, so that its memory does not grow with the scenes."""
MAPS_FOR_EACH_WORKER = 2
"""Maps assembled at a time, per worker. One core assembles a map faster than most GPUs predict its blocks."""


class OnRay:
    """Engine that predicts on Ray workers; see `inference.predict.engine.Engine`."""

    def __init__(self, config: PredictConfig) -> None:
        """Size the work to the cluster.

        Raises:
            InputError: too few GPUs for all workers, none where --device wants some, or unusable ones.
        """
        fitting = workers_that_fit(config.workers, config.gpus_per_worker, config.device, config.precision)
        self._workers, self._gpus, self.device, self._computes = fitting
        self.readers = READ_AT_ONCE * self._workers
        self.maps_at_once = MAPS_FOR_EACH_WORKER * self._workers

    def computes(self, precision: Precision) -> Computes:
        """Return what the workers' devices make of the precision of the options."""
        return self._computes

    def batch_size(self, job: MapJob) -> int:
        """Find a batch size that fits a worker's share of a GPU."""
        if job.device == "cpu":
            return BATCH_ON_CPU
        import ray

        from inference.predict.predictor import batch_size_that_fits

        find: Any = ray.remote(batch_size_that_fits).options(num_gpus=self._gpus)
        found = int(ray.get(find.remote(_with_whole_paths(job))))
        share = max(1, int(found * self._gpus)) if 0 < self._gpus < 1 else found
        return 1 << (share.bit_length() - 1)  # the largest power of 2 up to that

    def complete(self, scene_map: SceneMap, job: MapJob) -> str:
        """Have any machine assemble a map."""
        import ray

        # Without SPREAD all tasks that ask for no core run on the driver's machine.
        assemble: Any = ray.remote(complete).options(num_cpus=0, scheduling_strategy="SPREAD")
        whole = replace(scene_map, url=whole_url(scene_map.url))
        return str(ray.get(assemble.remote(whole, _with_whole_paths(job))))

    def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
        """Predict the blocks on workers that each hold the regressor in memory."""
        steps, coming = _Steps(_with_whole_paths(job)), iter(tasks)
        while rows := [{"task": task.to_row()} for task in islice(coming, TASKS_AT_ONCE)]:
            yield from self._stream(rows, steps)

    def _stream(self, rows: list[dict[str, Any]], steps: "_Steps") -> Iterator[BlockResult]:
        import ray.data

        done = (
            ray.data.from_items(rows, override_num_blocks=len(rows))
            .map(steps.read, num_cpus=0, compute=ray.data.TaskPoolStrategy(size=self.readers))
            .map(
                _Predict,  # type: ignore[arg-type]
                fn_constructor_args=(steps.job,),
                compute=ray.data.ActorPoolStrategy(size=self._workers),
                num_gpus=self._gpus,
                num_cpus=WORKER_CPUS,
            )
            .map(steps.write, num_cpus=0, compute=ray.data.TaskPoolStrategy(size=self.readers))
        )
        for row in done.iter_rows():
            yield BlockResult(
                BlockTask.from_row(row["task"]),
                float(row["seconds_read"]),
                float(row["seconds_predicted"]),
                float(row["seconds_waited"]),
                int(row["batch_size"]),
                str(row["error"]),
            )


@dataclass(frozen=True)
class _Steps:
    """Steps on CPUs. A row is a task; `read` adds a halo, which the worker replaces by the block."""

    job: MapJob

    def read(self, row: dict[str, Any]) -> dict[str, Any]:
        """Add to the row the pixels that the block is computed from, or the error."""
        start = time.perf_counter()
        halo, error = None, ""
        try:
            halo = _reader(self)(BlockTask.from_row(row["task"])).to_row()
        except InputError as unreadable:
            error = str(unreadable)
        return {**row, "halo": halo, "error": error, "seconds_read": time.perf_counter() - start}

    def write(self, row: dict[str, Any]) -> dict[str, Any]:
        """Move the block from the row into the ledger."""
        stored = row.pop("stored")
        if not row["error"]:
            task = BlockTask.from_row(row["task"])
            shape = -1, len(task.block.rows), len(task.block.columns)
            stored_CHW = np.frombuffer(stored, self.job.content.dtype).reshape(shape)
            smaller = row["batch_size"] < self.job.options.batch_size
            self.job.ledger.write(task.name, task.block, stored_CHW, smaller)
        return row


@lru_cache(maxsize=1)
def _reader(steps: _Steps) -> Reader:
    """Return the same reader for all rows that a Ray process reads, so that the scene stays open."""
    return Reader(steps.job)


class _Predict:
    """Worker with one regressor in memory, which predicts block after block."""

    def __init__(self, job: MapJob) -> None:
        # Imported only here: processes that read or write start without torch, which takes seconds to import.
        from inference.predict.predictor import Predictor

        self._predictor = Predictor(job)
        self._ready = time.perf_counter()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Replace the row's halo by the predicted block."""
        came = time.perf_counter()
        halo, stored, batch_size = row.pop("halo"), b"", 0
        if not row["error"]:
            ready = self._predictor.ready(BlockTask.from_row(row["task"]).block, Halo.from_row(halo))
            made = self._predictor(ready)
            stored, batch_size = made.stored_CHW.tobytes(), made.batch_size
        waited, self._ready = came - self._ready, time.perf_counter()
        seconds = {"seconds_predicted": self._ready - came, "seconds_waited": waited}
        return {**row, **seconds, "stored": stored, "batch_size": batch_size}


def _with_whole_paths(job: MapJob) -> MapJob:
    """Make local paths absolute, because Ray's processes work in folders of their own."""
    return replace(job, checkpoint=whole_url(job.checkpoint), out=whole_url(job.out))
