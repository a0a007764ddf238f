"""Blocks predicted in this process, without Ray; two threads read the next block and write the last one."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from inference.predict.block_tasks import BlockResult, BlockTask, MapJob, Reader
from inference.predict.predictor import Predictor, batch_size_that_fits
from inference.predict.scene_map import SceneMap, complete
from inference.tiling.halo import Halo
from shards.errors import InputError
from trainer.devices.choice import Kind


class InProcess:
    """Engine that predicts in this process; see `inference.predict.engine.Engine`."""

    readers, maps_at_once = 1, 2

    def __init__(self, device: Kind = "cpu") -> None:
        self.device = device

    def batch_size(self, job: MapJob) -> int:
        """Find a batch size that fits this machine."""
        return batch_size_that_fits(job)

    def complete(self, scene_map: SceneMap, job: MapJob) -> str:
        """Assemble a map."""
        return complete(scene_map, job)

    def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
        """Predict block after block; once a scene cannot be read, skip the rest of its blocks."""
        reader, ledger = Reader(job), job.ledger
        failed: dict[str, str] = {}

        def read(task: BlockTask) -> tuple[Halo | None, float]:
            start, halo = time.perf_counter(), None
            if task.scene not in failed:
                try:
                    halo = reader(task)
                except InputError as error:
                    failed[task.scene] = str(error)
            return halo, time.perf_counter() - start

        with ThreadPoolExecutor(1) as readers, ThreadPoolExecutor(1) as writers:
            ahead = ((task, readers.submit(read, task)) for task in tasks)
            coming = next(ahead, None)
            predictor = Predictor(job) if coming else None
            writing: deque[tuple[BlockResult, Future[None]]] = deque()
            while coming and predictor:
                asked = time.perf_counter()
                task, reading = coming
                halo, seconds_read = reading.result()
                coming = next(ahead, None)
                came = time.perf_counter()
                if halo is None:
                    yield BlockResult(task, error=failed[task.scene])
                    continue
                made = predictor(task.block, halo)
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
