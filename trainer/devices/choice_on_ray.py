"""The device of Ray workers, decided in the driver from what the cluster has."""

import sys

from shards.errors import InputError
from trainer.devices.choice import Choice, Wanted, choose


def chosen_on_ray(wanted: Wanted, workers: int, share: float = 1.0) -> Choice:
    """Decide on what the workers of the connected cluster compute, and say so where GPUs stay idle.

    Args:
        wanted: --device.
        workers: number of workers that there must be room for.
        share: GPUs, or share of one, of each worker.

    Raises:
        InputError: too few GPUs, none where some are wanted, or some that the installed torch cannot use.
    """
    import ray

    of_nodes = {node["NodeID"]: int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]}
    with_gpus = {name: count for name, count in of_nodes.items() if count}
    choice = choose(wanted, workers, tuple(with_gpus.values()), share)
    if choice.remark:
        print(f"treeline: {choice.remark}", file=sys.stderr, flush=True)
    if choice.device == "cuda":
        _refuse_unusable(list(with_gpus))
    return choice


def _refuse_unusable(nodes: list[str]) -> None:
    """Look at the GPUs of these machines before anything is started on them."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Without a GPU of its own a task sees all of its machine's, and waits for none. Its process ends with it:
    # otherwise it would keep the memory that looking at a GPU takes.
    look = ray.remote(num_cpus=0, num_gpus=0, max_calls=1, max_retries=0)(_why_unusable)
    found = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in nodes
    ]
    for one in found:
        try:
            why = ray.get(one)
        except RayError:  # the machine was lost: workers look again
            continue
        if why:
            raise InputError(why)


def _why_unusable() -> str:
    from trainer.devices.cards import why_unusable  # with torch, which takes seconds to import

    return why_unusable()
