"""The device of Ray workers, decided in the driver from what the cluster has."""

from dataclasses import replace

from shards.errors import InputError
from shards.said import say
from trainer.devices.choice import Choice, Computes, Precision, Wanted, choose, on_cpu


def chosen_on_ray(
    wanted: Wanted, workers: int, share: float = 1.0, precision: Precision = "float32"
) -> Choice:
    """Decide on what the workers compute, and say where GPUs stay idle.

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
        say(choice.remark)
    computes = _look_at(list(with_gpus), precision) if choice.device == "cuda" else on_cpu(precision)
    return replace(choice, computes=computes)


def _look_at(nodes: list[str], precision: Precision) -> Computes:
    """Look at the GPUs of these machines before anything is started on them.

    Returns:
        What they make of `precision` together: where only some have TF32, results are in TF32.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Without a GPU of its own a task sees all of its machine's, and waits for none. Its process ends with it:
    # otherwise it would keep the memory that looking at a GPU takes.
    look = ray.remote(num_cpus=0, num_gpus=0, max_calls=1, max_retries=0)(_looked)
    found = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(precision)
        for node in nodes
    ]
    in_precisions, remarks = set[Precision](), dict[str, None]()
    for one in found:
        try:
            why, computes = ray.get(one)
        except RayError:  # the machine was lost: workers look again
            continue
        if why:
            raise InputError(why)
        in_precisions.add(computes.precision)
        remarks |= dict.fromkeys(computes.remarks)
    is_other = in_precisions and precision not in in_precisions
    return Computes("float32" if is_other else precision, tuple(remarks))


def _looked(precision: Precision) -> tuple[str, Computes]:
    """Return why this machine's GPUs are of no use, and what they make of `precision`."""
    from trainer.devices.cards import all_cards, on_cards, why_unusable  # with torch: takes seconds

    why = why_unusable(precision=precision)
    return why, Computes(precision) if why else on_cards(all_cards(), precision)
