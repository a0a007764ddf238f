"""The device of Ray workers, decided in the driver from what the cluster has."""

from dataclasses import replace

from shards.errors import InputError
from shards.said import say
from trainer.devices.choice import (
    IN_FLOAT32,
    Choice,
    Computes,
    Kind,
    Precision,
    Wanted,
    WantedPrecision,
    by_hardware,
    choose,
    on_cpu,
)


def chosen_on_ray(
    wanted: Wanted, workers: int, share: float = 1.0, precision: WantedPrecision = "float32"
) -> Choice:
    """Decide on what the workers compute, and say where GPUs stay idle.

    Args:
        wanted: --device.
        workers: number of workers that there must be room for.
        share: GPUs, or share of one, of each worker.
        precision: the precision that is wanted; "auto" is decided by all machines that may have workers.

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
    if choice.device == "cuda":
        computes = _look_at(list(with_gpus), precision, "cuda")
    elif precision == "auto":
        computes = _look_at(list(of_nodes), precision, "cpu")
    else:
        computes = on_cpu(precision)
    return replace(choice, computes=computes)


def _look_at(nodes: list[str], precision: WantedPrecision, device: Kind) -> Computes:
    """Look at the devices of these machines before anything is started on them.

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
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            precision, device
        )
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
    if precision == "auto":
        return by_hardware(in_precisions == {"bf16"})
    is_other = in_precisions and precision not in in_precisions
    return Computes("float32" if is_other else precision, tuple(remarks))


def _looked(precision: WantedPrecision, device: Kind) -> tuple[str, Computes]:
    """Return why this machine's GPUs are of no use, and what its devices make of `precision`."""
    from trainer.devices.cards import all_cards, computes, on_cards, why_unusable  # with torch: takes seconds

    if device == "cpu":
        return "", computes(precision, device)
    why = why_unusable(precision=precision)
    return why, IN_FLOAT32 if why else on_cards(all_cards(), precision)
