"""Number of Ray workers that a cluster has room for, and their share of its GPUs."""

from typing import NamedTuple

from shards.errors import InputError

WORKER_CPUS = 0.5
"""Two workers fit on one core; otherwise a worker restarted after losing its machine would wait forever."""


class Workers(NamedTuple):
    """Workers that fit."""

    number: int
    gpus: float
    """GPUs, or share of one, of each; 0 on a cluster without GPUs."""


def workers_that_fit(workers: int, gpus_per_worker: float) -> Workers:
    """Size the work to the connected cluster.

    Raises:
        InputError: the cluster has GPUs, but not enough for all workers.
    """
    import ray

    resources = ray.cluster_resources()
    gpus, wanted = resources.get("GPU", 0), workers * gpus_per_worker
    if 0 < gpus < wanted:
        raise InputError(
            f"--workers {workers} --gpus-per-worker {gpus_per_worker:g}: needs {wanted:g} GPUs, and the "
            f"cluster has {gpus:g}; give --gpus-per-worker {gpus / workers:.2g} or fewer workers"
        )
    # Workers without room would wait forever.
    number = min(workers, max(1, int(resources.get("CPU", 0) / WORKER_CPUS)))
    return Workers(number, gpus_per_worker if gpus else 0.0)
