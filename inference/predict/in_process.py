"""Blocks predicted in this process, without Ray; threads prepare the next block and write the last one."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from inference.predict.block_tasks import BlockResult, BlockTask, MapJob, Reader
from inference.predict.map_options import BATCH_ON_CPU, MapOptions
from inference.predict.predictor import Model, Predictor, batch_size_that_fits, model_here
from inference.predict.ready_block import ReadyBlock
from inference.predict.scene_map import SceneMap, complete
from inference.tiling.halo import Halo
from shards.errors import InputError
from trainer.devices.cards import computes
from trainer.devices.choice import Computes, Kind, Precision


class InProcess:
    """Engine that predicts in this process; see `inference.predict.engine.Engine`."""

    readers, maps_at_once = 1, 2

    def __init__(self, device: Kind = "cpu", model: Model | None = None) -> None:
        """Predict on `device`, with `model` if it is in memory there already."""
        self.device, self.model = device, model
        self._found: dict[MapOptions, int] = {}
        """Batch sizes that were found, by what was asked for."""

    def computes(self, precision: Precision) -> Computes:
        """Return what this machine's device makes of a precision."""
        return computes(precision, self.device)

    def batch_size(self, job: MapJob) -> int:
        """Find a batch size that fits this machine."""
        if job.device == "cpu":
            return BATCH_ON_CPU
        self.model = self.model or model_here(job)  # which then also predicts
        if job.options not in self._found:
            self._found[job.options] = batch_size_that_fits(job, self.model)
        return self._found[job.options]

    def complete(self, scene_map: SceneMap, job: MapJob) -> str:
        """Assemble a map."""
        return complete(scene_map, job)

    def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
        """Predict block after block; once a scene cannot be read, skip the rest of its blocks."""
        reader, ledger = Reader(job), job.ledger
        failed: dict[str, str] = {}
        predictor: Predictor | None = None

        def read(task: BlockTask) -> tuple[Halo | ReadyBlock | None, float]:
            start = time.perf_counter()
            pixels: Halo | ReadyBlock | None = None
            if task.scene not in failed:
                try:
                    pixels = reader(task)
                    if predictor:  # it is loaded while the first block is read
                        pixels = predictor.ready(task.block, pixels)
                except InputError as error:
                    failed[task.scene] = str(error)
            return pixels, time.perf_counter() - start

        with ThreadPoolExecutor(1) as readers, ThreadPoolExecutor(1) as writers:
            ahead = ((task, readers.submit(read, task)) for task in tasks)
            coming = next(ahead, None)
            if coming:
                predictor = Predictor(job, self.model)
            writing: deque[tuple[BlockResult, Future[None]]] = deque()
            while coming and predictor:
                asked = time.perf_counter()
                task, reading = coming
                pixels, seconds_read = reading.result()
                coming = next(ahead, None)
                came = time.perf_counter()
                if pixels is None:
                    yield BlockResult(task, error=failed[task.scene])
                    continue
                if isinstance(pixels, Halo):
                    pixels = predictor.ready(task.block, pixels)
                made = predictor(pixels)
                seconds = seconds_read, time.perf_counter() - came, came - asked
                done = BlockResult(task, *seconds, batch_size=made.batch_size)
                smaller = made.batch_size < job.options.batch_size
                write = writers.submit(ledger.write, task.name, task.block, made.stored_CHW, smaller)
                writing.append((done, write))
                if len(writing) > 1:
                    yield _written(*writing.popleft())
            while writing:
                yield _written(*writing.popleft())
            readers.submit(reader.close).result()


def _written(done: BlockResult, writing: Future[None]) -> BlockResult:
    writing.result()
    return done
