"""Does the tasks of an ingest on Ray workers. Ingest's only module that imports Ray."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray

from ingest.work.plan import Task
from ingest.work.task import Work, do_task

STOP_SECONDS = 60.0
RETRIES = 20
"""How often a task is begun again because its worker or its machine was lost: it writes the same again.
Its own errors are not retried."""


def do_on_ray(
    work: Work, tasks: Iterator[tuple[pa.Table, Task]], workers: int
) -> Iterator[tuple[int, Counter[str]]]:
    """Do the tasks, `workers` at a time; gives candidates read and refused for each as it ends."""
    sent = ray.put(work)
    running: list[Any] = []
    try:
        for table, task in tasks:
            # No more are handed over than may run: Ray would run them wherever a core is free.
            if len(running) >= workers:
                done, running = ray.wait(running)
                yield from ray.get(done)
            running.append(_do.remote(sent, os.getcwd(), table, task))
        while running:
            done, running = ray.wait(running)
            yield from ray.get(done)
    finally:
        for task_ref in running:
            ray.cancel(task_ref)
        if running:  # until they have stopped: what they write may be removed now
            ray.wait(running, num_returns=len(running), timeout=STOP_SECONDS)


@ray.remote(num_cpus=1, max_retries=RETRIES)
def _do(work: Work, folder: str, table: pa.Table, task: Task) -> tuple[int, Counter[str]]:
    if os.path.isdir(folder):
        os.chdir(folder)  # where the driver is: paths may be relative
    read, refused = 0, Counter[str]()

    def tell(count: int, reasons: Counter[str]) -> None:
        nonlocal read
        read += count
        refused.update(reasons)

    do_task(work, table, task, tell)
    return read, refused
