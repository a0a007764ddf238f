"""Tasks of an ingest on Ray workers. Only this module of ingest imports Ray."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray

from ingest.work.plan import ShardTask
from ingest.work.task import TaskContext, do_task

STOP_SECONDS = 60.0
"""Most seconds to wait for cancelled tasks to stop."""
RETRIES = 20
"""Most times a task starts again after its worker or machine was lost; it writes the same bytes again. A task
that raised an error is not retried."""


def do_on_ray(
    context: TaskContext, tasks: Iterator[tuple[pa.Table, ShardTask]], workers: int
) -> Iterator[tuple[int, Counter[str]]]:
    """Do the tasks, `workers` at a time; yield each one's counts of candidates read and refused."""
    sent = ray.put(context)
    running: list[Any] = []
    try:
        for table, task in tasks:
            # Ray runs whatever it is given wherever a core is free, so it is given no more than may run.
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
        if running:  # wait until they stop: the caller may remove what they write
            ray.wait(running, num_returns=len(running), timeout=STOP_SECONDS)


@ray.remote(num_cpus=1, max_retries=RETRIES)
def _do(context: TaskContext, folder: str, table: pa.Table, task: ShardTask) -> tuple[int, Counter[str]]:
    if os.path.isdir(folder):
        os.chdir(folder)  # where the driver is: paths may be relative
    read, refused = 0, Counter[str]()

    def tell(count: int, reasons: Counter[str]) -> None:
        nonlocal read
        read += count
        refused.update(reasons)

    do_task(context, table, task, tell)
    return read, refused
