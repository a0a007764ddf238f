"""Ranks that train together, as processes of a test, which all end with it.

run_ranks(train, 2, (config, out))                 # train(0, config, out) and train(1, config, out)
in_group(rank, 2, rendezvous, lambda ranks: ...)   # within such a process
"""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from trainer.devices.ranks import Ranks

PROCESSES = multiprocessing.get_context("forkserver")
"""Makes processes of a parent that has imported what they need, which takes five seconds, once."""
PROCESSES.set_forkserver_preload(
    [
        "trainer.commands.train",
        "trainer.commands.pretrain",
        "transformers.models.dinov3_vit.modeling_dinov3_vit",
    ]
)
T = TypeVar("T")
TIMEOUT_SECONDS = 240


def run_ranks(target: Callable[..., None], world_size: int, arguments: tuple[Any, ...]) -> None:
    """Call `target` with each rank, in a process of its own on one thread, until all have returned."""
    processes = [
        PROCESSES.Process(target=_on_one_thread, args=(target, rank, *arguments), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        if any(process.exitcode for process in processes):
            break  # the others would wait for it
        time.sleep(0.05)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    assert codes == [0] * world_size


def _on_one_thread(target: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    target(*arguments)


def in_group(rank: int, world_size: int, rendezvous: Path, work: Callable[[Ranks], T]) -> T:
    """What `work` returns as one of a gloo group; nothing of it may hold the regressor or the group.

    torch 2.13 can wait for ever where a regressor is the last to let go of the group: its destructor then
    waits for a thread that waits for the interpreter.
    """
    torch.distributed.init_process_group("gloo", rendezvous.as_uri(), rank=rank, world_size=world_size)
    try:
        return work(Ranks(rank, world_size))
    finally:
        torch.distributed.destroy_process_group()
