"""The processes that train together, each a rank; most code needs to know only its own."""

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
from torch.nn.parallel import DistributedDataParallel

from shards.said import say
from trainer.devices.choice import Precision
from trainer.devices.clock import COMMUNICATION, Clock
from trainer.devices.sharding import Blocks, shard

PendingSum = Callable[[], Tensor]
"""Function that waits for a sum over ranks and returns it; to be called once."""

WHOLE_ON_ONE = "treeline: --shard-model: the only worker holds the whole model; give --workers 2 or more"


@dataclass(frozen=True)
class Ranks:
    """This process among all that train together; if there are several, the process group is open."""

    rank: int = 0
    """Number of this process, from 0."""
    world_size: int = 1
    """Number of processes."""
    device: torch.device = torch.device("cpu")
    """Device on which this process computes."""
    seconds_now: Callable[[], float] = time.perf_counter
    """Clock for everything that is not on a GPU."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which does what is done only once."""
        return self.rank == 0

    def device_before_wrap(self, shards: bool) -> torch.device:
        """Return the device on which a model waits for `wrap`, which shares it out over ranks if `shards`."""
        # A model goes from the CPU to its ranks in parts: no GPU needs room for the whole.
        return torch.device("cpu") if shards and self.world_size > 1 else self.device

    @cached_property
    def clock(self) -> Clock:
        """Clock of this process's time."""
        return Clock(self.device, self.seconds_now)

    def least(self, number: int) -> int:
        """Return the smallest of all ranks' numbers, on every rank."""
        if self.world_size == 1:
            return number
        numbers = torch.tensor([number], device=self.device)
        torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MIN)
        return int(numbers)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of all ranks' `values`, on every rank."""
        if self.world_size == 1:
            return values
        # NCCL sums only what is on the GPU.
        total = values.to(self.device, copy=True)
        self.clock.start(COMMUNICATION)
        torch.distributed.all_reduce(total)
        self.clock.stop(COMMUNICATION)
        return total.to(values.device)

    def begin_sum(self, values: Tensor) -> PendingSum:
        """Begin to sum all ranks' `values`; ranks go on computing until they ask for the sum."""
        if self.world_size == 1:
            return lambda: values
        total = values.to(self.device, copy=True)
        adding = torch.distributed.all_reduce(total, async_op=True)
        assert adding is not None, "this process is one of the group"

        def end() -> Tensor:
            self.clock.start(COMMUNICATION)
            adding.wait()  # on a GPU the stream waits, not the host
            self.clock.stop(COMMUNICATION)
            return total.to(values.device)

        return end

    def gathered(self, rows: Tensor) -> tuple[Tensor, int]:
        """Return the rows of all ranks one after another, and the number of this rank's first one among them.

        Ranks may have different numbers of rows; every rank must call this.
        """
        if self.world_size == 1:
            return rows, 0
        counts = torch.zeros(self.world_size, dtype=torch.int64, device=rows.device)
        counts[self.rank] = len(rows)
        lengths = self.sum(counts).tolist()
        first = sum(lengths[: self.rank])
        # A sum with zeros: exact, and unlike torch's all-gather it takes parts of different lengths.
        everyone = rows.new_zeros((sum(lengths), *rows.shape[1:]))
        everyone[first : first + len(rows)] = rows
        return self.sum(everyone), first

    def wrap(
        self, module: nn.Module, blocks: Blocks | None = None, precision: Precision = "float32"
    ) -> nn.Module:
        """Make `module` average its gradients over ranks in the backward pass.

        Args:
            module: a module on its device; with `blocks` on the CPU, from where its parts go to their ranks.
            blocks: parts that are gathered one at a time. If given, each rank holds only a part of every
                weight from now on; make the optimiser afterwards. Default: each rank holds all weights.
            precision: precision in which shared-out blocks compute.

        Returns:
            the module to call in training.
        """
        if self.world_size == 1:
            if blocks is not None:
                say(WHOLE_ON_ONE, of="")
            return module
        if blocks is not None:
            shard(module, blocks, self.device, precision)
            return module
        there = *module.named_parameters(), *module.named_buffers()
        # Tensors without memory cannot be sent: those of a backbone whose tokens are stored.
        if absent := [name for name, tensor in there if tensor.is_meta]:
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, absent)
        # Batch norm's statistics are the same on every rank, and all other buffers are constants.
        parallel = DistributedDataParallel(module, forward_sync_buffers=False, gradient_as_bucket_view=True)
        parallel.register_comm_hook(self.clock, _average)
        return parallel

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """Let a wrapped module's gradients add up on this rank alone; the next pass outside averages them.

        A sharded module averages its gradients even so: no rank has room for all of them.
        """
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def _average(clock: Clock, bucket: GradBucket) -> Future[Tensor]:
    """Average as without a hook, and start the clock when this rank has all its gradients.

    The loop stops it.
    """
    if bucket.is_last():
        clock.start(COMMUNICATION)
    return allreduce_hook(None, bucket)  # type: ignore[arg-type]  # None: all ranks


ALONE = Ranks()


class Meeting:
    """Point where background threads of all ranks meet while training communicates in its own thread."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        """Open the meeting; every rank must do so at the same time, while the process group is open."""
        self.rank, self._world_size = ranks.rank, ranks.world_size
        # A process group of its own, since messages of two threads in one group would be mixed up.
        self._group = torch.distributed.new_group(backend="gloo") if ranks.world_size > 1 else None

    def tell(self, number: int) -> list[int]:
        """Wait for all ranks, and return the number that each of them told (an all-gather)."""
        if self._group is None:
            return [number]
        told = [torch.zeros(1, dtype=torch.int64) for _ in range(self._world_size)]
        torch.distributed.all_gather(told, torch.tensor([number]), group=self._group)
        return [int(one) for one in told]

    def tell_text(self, text: str) -> list[str]:
        """Wait for all ranks, and return the ASCII text that each of them told."""
        lengths = self.tell(len(text))
        if self._group is None:
            return [text]
        padded = bytearray(text.encode("ascii").ljust(max(1, *lengths)))
        told = [torch.empty(len(padded), dtype=torch.uint8) for _ in lengths]
        torch.distributed.all_gather(told, torch.frombuffer(padded, dtype=torch.uint8), group=self._group)
        return [
            bytes(one.numpy())[:length].decode("ascii") for one, length in zip(told, lengths, strict=True)
        ]
