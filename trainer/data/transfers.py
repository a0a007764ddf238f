"""Transfers of rows to a device from memory on the host that is used again and again.

    buffers = Buffers(CudaLink(device))
    rows_BS = buffers.memory(256, 51_200)      # to be filled; waits until its last transfer is done
    sent = buffers.send(rows_BS)               # queues the transfer, and returns at once
    rows_BS = sent.arrived()                   # on the device; what is queued next there waits for it

Copies are queued only from pinned memory. Pinning takes as long as copying, so a few buffers are pinned once.
What knows the device is small (`Link`): tests put one in its place that is slow and has no GPU.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BUFFERS = 3
"""Number of buffers: one that is filled, one whose transfer runs, one in hand should either be slow."""


class Done(Protocol):
    """End of a transfer."""

    def synchronize(self) -> None:
        """Wait on the host until the transfer is done."""


class Link(Protocol):
    """What transfers to a device need of it. Its methods may be called in any thread."""

    def memory(self, nbytes: int) -> Tensor:
        """Return memory on the host, of bytes, from which transfers are queued."""

    def send(self, rows_BS: Tensor) -> tuple[Tensor, Any]:
        """Queue a transfer; return the rows on the device, and its end (`Done`)."""

    def arrive(self, rows_BS: Tensor, done: Any) -> None:
        """Make what the device does from now on for this thread wait for the transfer."""


class CudaLink:
    """Transfers to a GPU, on a stream of their own, so that they run beside its computing."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def memory(self, nbytes: int) -> Tensor:
        """See Link."""
        with torch.cuda.device(self._stream.device):  # a new thread is on the first GPU
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def send(self, rows_BS: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """See Link."""
        done = torch.cuda.Event(blocking=True)  # the thread that waits for it leaves the core to others
        with torch.cuda.stream(self._stream):
            sent_BS = rows_BS.to(self._stream.device, non_blocking=True)
            done.record(self._stream)
        return sent_BS, done

    def arrive(self, rows_BS: Tensor, done: torch.cuda.Event) -> None:
        """See Link."""
        present = torch.cuda.current_stream(rows_BS.device)
        present.wait_event(done)
        # The memory belongs to the transfers' stream, which must not use it again while this stream needs it.
        rows_BS.record_stream(present)


@dataclass(frozen=True)
class Sent:
    """Rows on their way to a device."""

    rows_BS: Tensor
    done: Done
    link: Link

    def arrived(self) -> Tensor:
        """Return the rows on the device; what is queued there from now on waits for them."""
        self.link.arrive(self.rows_BS, self.done)
        return self.rows_BS


class Buffers:
    """Memory for batches on their way to a device, used in turn, each again when its transfer is done."""

    def __init__(self, link: Link, count: int = BUFFERS) -> None:
        """Args:
        link: the way to the device.
        count: number of buffers. Each grows to the largest batch.
        """
        self.link = link
        self._memory = [torch.empty(0, dtype=torch.uint8) for _ in range(count)]
        self._done: list[Done | None] = [None] * count
        self._turn = 0

    def memory(self, rows: int, span: int) -> NDArray[np.uint8]:
        """Return memory for a batch's rows (rows, span); see shards.read.arena.Memory.

        It is the caller's until `count` batches later.
        """
        turn, self._turn = self._turn, (self._turn + 1) % len(self._memory)
        if (done := self._done[turn]) is not None:
            done.synchronize()
            self._done[turn] = None
        if self._memory[turn].numel() < rows * span:
            self._memory[turn] = self.link.memory(rows * span)
        rows_BS: NDArray[np.uint8] = self._memory[turn][: rows * span].numpy().reshape(rows, span)
        return rows_BS

    def send(self, rows_BS: NDArray[np.uint8]) -> Sent:
        """Queue the transfer of rows; those that are not in this memory are copied to it first."""
        places = [
            place for place, one in enumerate(self._memory) if np.may_share_memory(one.numpy(), rows_BS)
        ]
        if not places:
            elsewhere_BS, rows_BS = rows_BS, self.memory(*rows_BS.shape)
            rows_BS[:] = elsewhere_BS
            places = [(self._turn - 1) % len(self._memory)]
        (place,) = places
        # Of the buffer itself: only then does torch know that it is pinned.
        sent_BS, done = self.link.send(self._memory[place][: rows_BS.size].view(rows_BS.shape))
        self._done[place] = done
        return Sent(sent_BS, done, self.link)


def buffers_for(device: torch.device) -> Buffers | None:
    """Return memory for batches on their way to a GPU; None for a CPU, which computes where they are read."""
    return Buffers(CudaLink(device)) if device.type == "cuda" else None
