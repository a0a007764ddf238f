"""The cells of a matrix as tasks on Ray, several at a time; each finished one is kept."""

from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from shards.errors import one_line
from trainer.commands.matrix import Done
from trainer.commands.matrix_cell import CellJob, run_cell
from trainer.commands.train_on_ray import MAX_FAILURES, Driver


def cells_on_ray(jobs: list[CellJob], workers: int, done: Done) -> None:
    """Run the cells on the cluster, `workers` at a time; see `trainer.commands.matrix.RunCells`."""
    # A cell that loses its machine begins again elsewhere, from its last state.
    task: Any = ray.remote(num_cpus=1, max_retries=MAX_FAILURES)(_cell)
    waiting, running, driver = jobs[::-1], dict[Any, CellJob](), Driver.here()
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop()
            running[task.options(num_gpus=int(job.device == "cuda")).remote(job, driver)] = job
        ended, _ = ray.wait(list(running))
        for reference in ended:
            job = running.pop(reference)
            done(job, _ending(reference, job))


def _ending(reference: Any, job: CellJob) -> str:
    """Return why a cell failed, or ""; one whose process is lost again and again fails alone."""
    try:
        why: str = ray.get(reference)
    except RayTaskError as error:
        error.add_note(f"in the cell {job.cell.title}")
        raise
    except RayError as error:
        why = f"{type(error).__name__}: {one_line(error)[:200]}"
    return why


def _cell(job: CellJob, driver: Driver) -> str:
    driver.follow()
    return run_cell(job)
