"""Predicts blocks in this process, without Ray; the next one is read while one is predicted."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from inference.config import PredictConfig
from inference.halo import Halo
from inference.ledger import Ledger
from inference.method import Method
from inference.predictor import Predictor, batch_size_that_fits
from inference.tasks import Done, Reader, Task
from shards.errors import InputError


class Here:
    """See `inference.predict.Engine`."""

    def __init__(self, config: PredictConfig) -> None:
        self._config = config

    def batch_size(self, method: Method) -> int:
        """How many windows at a time suit this machine."""
        return batch_size_that_fits(self._config.checkpoint, method)

    def blocks(self, tasks: list[Task], method: Method) -> Iterator[Done]:
        """Do the tasks one after the other; of a scene that cannot be read no further one is tried."""
        predictor, ledger = Predictor(self._config.checkpoint, method), Ledger(self._config.out)
        reader = Reader(predictor.schema, self._config.bands, method)
        failed: dict[str, str] = {}

        def read(task: Task) -> tuple[Halo | None, float]:
            start, halo = time.perf_counter(), None
            if task.scene not in failed:
                try:
                    halo = reader(task)
                except InputError as error:
                    failed[task.scene] = str(error)
            return halo, time.perf_counter() - start

        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(read, tasks[0])
            for number, task in enumerate(tasks):
                asked = time.perf_counter()
                halo, seconds_read = coming.result()
                if number + 1 < len(tasks):
                    coming = thread.submit(read, tasks[number + 1])
                came = time.perf_counter()
                if halo is None:
                    yield Done(task, error=failed[task.scene])
                    continue
                stored_CHW = predictor(task.block, halo)
                predicted = time.perf_counter()
                ledger.write(task.name, task.block, stored_CHW)
                yield Done(task, seconds_read, predicted - came, came - asked)
            thread.submit(reader.close).result()
