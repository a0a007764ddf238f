"""The device of Ray workers, decided in the driver from what the cluster has."""

import sys

from shards.errors import InputError
from trainer.devices.choice import Choice, Kind, Precision, Wanted, choose


def chosen_on_ray(
    wanted: Wanted, workers: int, share: float = 1.0, precision: Precision = "float32"
) -> Choice:
    """Decide on what the workers compute, and say where GPUs stay idle or `precision` brings nothing.

    Args:
        wanted: --device.
        workers: number of workers that there must be room for.
        share: GPUs, or share of one, of each worker.
        precision: the precision that is wanted.

    Raises:
        InputError: too few GPUs, none where some are wanted, some that the installed torch cannot use, or
            that only emulate `precision`.
    """
    import ray

    of_nodes = {node["NodeID"]: int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]}
    with_gpus = {name: count for name, count in of_nodes.items() if count}
    choice = choose(wanted, workers, tuple(with_gpus.values()), share)
    if choice.remark:
        print(f"treeline: {choice.remark}", file=sys.stderr, flush=True)
    if choice.device == "cuda":
        _look_at(list(with_gpus), "cuda", precision)
    elif precision != "float32":
        _look_at(list(of_nodes), "cpu", precision)
    return choice


def _look_at(nodes: list[str], device: Kind, precision: Precision) -> None:
    """Look at the GPUs or CPUs of these machines before anything is started on them."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Without a GPU of its own a task sees all of its machine's, and waits for none. Its process ends with it:
    # otherwise it would keep the memory that looking at a GPU takes.
    look = ray.remote(num_cpus=0, num_gpus=0, max_calls=1, max_retries=0)(_looked)
    found = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            device, precision
        )
        for node in nodes
    ]
    remarks = dict[str, None]()
    for one in found:
        try:
            why, remark = ray.get(one)
        except RayError:  # the machine was lost: workers look again
            continue
        if why:
            raise InputError(why)
        remarks |= {remark: None} if remark else {}
    for remark in remarks:
        print(f"treeline: {remark}", file=sys.stderr, flush=True)


def _looked(device: Kind, precision: Precision) -> tuple[str, str]:
    """Return why this machine is of no use, and what is to be said of it."""
    from trainer.devices.cards import all_cards, on_cards, on_cpu, why_unusable  # with torch: takes seconds

    if device == "cpu":
        return "", on_cpu(precision)
    why = why_unusable(precision=precision)
    return why, "" if why else on_cards(all_cards(), precision)
