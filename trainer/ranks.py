"""The processes that train together; one of them, or none, is all that most code needs to know."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


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

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of every rank's `values`, on every rank."""
        if self.world_size == 1:
            return values
        # NCCL sums what is on the GPU only.
        total = values.to(self.device, copy=True)
        torch.distributed.all_reduce(total)
        return total.to(values.device)

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` with gradients averaged over ranks in its backward pass."""
        return DistributedDataParallel(module) if self.world_size > 1 else module

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        """While it lasts, gradients of what `wrap` gave add up here alone, for the next pass to average."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()
