"""The processes that train together; one of them, or none, is all that most code needs to know."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.futures import Future
from torch.nn import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel

from trainer.devices.clock import COMMUNICATION, Clock
from trainer.devices.sharding import Blocks, shard

BATCH_NORM_APART = (
    "treeline: batch norm sees each worker's chips alone on a CPU: what is learnt depends on the number of "
    "workers; give --norm group"
)


def device_here() -> torch.device:
    """Where a process computes that nobody gave a device: a GPU, if this machine has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Ranks:
    """This process among `world_size`; the process group is open where there are several."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
    """Where this process computes."""
    seconds_now: Callable[[], float] = time.perf_counter
    """Reads the clock that times what is not on a GPU."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @cached_property
    def clock(self) -> Clock:
        """Where this process's time goes."""
        return Clock(self.device, self.seconds_now)

    def least(self, number: int) -> int:
        """The least of every rank's numbers."""
        if self.world_size == 1:
            return number
        numbers = torch.tensor([number], device=self.device)
        torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MIN)
        return int(numbers)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of every rank's `values`, on every rank."""
        if self.world_size == 1:
            return values
        # NCCL sums what is on the GPU only.
        total = values.to(self.device, copy=True)
        self.clock.start(COMMUNICATION)
        torch.distributed.all_reduce(total)
        self.clock.stop(COMMUNICATION)
        return total.to(values.device)

    def wrap(self, module: nn.Module, blocks: Blocks | None = None) -> nn.Module:
        """Average `module`'s gradients over ranks in its backward pass.

        Args:
            module: on its device; with `blocks` on the CPU, from where its parts go to their ranks.
            blocks: the parts that are whole at a time, where each rank is to hold a part of every weight
                from now on; make the optimiser afterwards. Default: each rank holds all weights.

        Raises:
            InputError: the module cannot be sharded.
        """
        if self.world_size == 1:
            return module
        if any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()):
            if self.device.type == "cuda":
                SyncBatchNorm.convert_sync_batchnorm(module)
            elif self.is_first and blocks is None:
                print(BATCH_NORM_APART, file=sys.stderr, flush=True)
        if blocks is not None:
            shard(module, blocks, self.device)
            return module
        parallel = DistributedDataParallel(module)
        parallel.register_comm_hook(self.clock, _average)
        return parallel

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        """While it lasts, gradients of what `wrap` gave add up here alone, for the next pass to average.

        Not where it is sharded: no rank has room for all gradients.
        """
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def _average(clock: Clock, bucket: GradBucket) -> Future[Tensor]:
    """As without a hook; the clock starts when this rank has all its gradients: the loop stops it."""
    if bucket.is_last():
        clock.start(COMMUNICATION)
    return allreduce_hook(None, bucket)  # type: ignore[arg-type]  # None: all ranks


ALONE = Ranks()


class Meeting:
    """Where ranks wait for each other in threads of their own, while training exchanges what it has to."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        """Every rank makes one at the same time, while the process group is open."""
        self.rank, self._world_size = ranks.rank, ranks.world_size
        # A group of its own: what two threads send in one group would be mixed up.
        self._group = torch.distributed.new_group(backend="gloo") if ranks.world_size > 1 else None

    def tell(self, number: int) -> list[int]:
        """The number that each rank tells, when all have come."""
        if self._group is None:
            return [number]
        told = [torch.zeros(1, dtype=torch.int64) for _ in range(self._world_size)]
        torch.distributed.all_gather(told, torch.tensor([number]), group=self._group)
        return [int(one) for one in told]
