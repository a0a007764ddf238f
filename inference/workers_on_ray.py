"""Number of Ray workers that a cluster has room for, and the device of each."""

from typing import NamedTuple

from trainer.devices.choice import Computes, Kind, Precision, Wanted
from trainer.devices.choice_on_ray import chosen_on_ray

WORKER_CPUS = 0.5
"""Two workers fit on one core; otherwise a worker restarted after losing its machine would wait forever."""


class Workers(NamedTuple):
    """Workers that fit."""

    number: int
    gpus: float
    """GPUs, or share of one, of each; 0 on CPUs."""
    device: Kind
    computes: Computes
    """Precision in which the devices compute, and why, where it is not --precision."""


def workers_that_fit(workers: int, gpus_per_worker: float, wanted: Wanted, precision: Precision) -> Workers:
    """Size the work to the connected cluster.

    Raises:
        InputError: too few GPUs for all workers, none where --device wants some, or unusable ones.
    """
    import ray

    choice = chosen_on_ray(wanted, workers, gpus_per_worker, precision)
    # Workers without room would wait forever.
    number = min(workers, max(1, int(ray.cluster_resources().get("CPU", 0) / WORKER_CPUS)))
    return Workers(number, choice.share, choice.device, choice.computes)
