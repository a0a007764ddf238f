"""A device that is no GPU: transfers to it run beside the process, take their time, and need no card."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

SPOILT = 0xA5
"""Byte in memory that has nothing of worth: before it is filled, and after its transfer."""


class Transfer:
    """One transfer, which the device has or has not done yet."""

    def __init__(self, future: "Future[None]") -> None:
        self._future = future

    def synchronize(self) -> None:
        """Wait for it."""
        self._future.result()


class SlowLink:
    """Copies one transfer after the other, in a thread, and then spoils the memory that it came from.

    So bytes are wrong wherever memory is used again too early, read after its transfer, or read on the device
    before the transfer's end.
    """

    def __init__(self, seconds_of: Callable[[int], float] = lambda nbytes: 0.0, spoils: bool = True) -> None:
        """Args:
        seconds_of: seconds that a transfer of this many bytes takes.
        spoils: whether to spoil memory.
        """
        self._seconds_of, self._spoils = seconds_of, spoils
        self._device = ThreadPoolExecutor(1, thread_name_prefix="slow-link")
        self.pinned: list[int] = []
        """Bytes of each buffer that was asked for."""
        self.sent_by: set[str] = set()
        """Names of the threads that sent something."""

    def memory(self, nbytes: int) -> Tensor:
        """See Link."""
        self.pinned.append(nbytes)
        return torch.full((nbytes,), SPOILT, dtype=torch.uint8)

    def send(self, rows_BS: Tensor) -> tuple[Tensor, Transfer]:
        """See Link."""
        self.sent_by.add(threading.current_thread().name)
        arriving_BS = torch.full_like(rows_BS, SPOILT) if self._spoils else torch.empty_like(rows_BS)
        return arriving_BS, Transfer(self._device.submit(self._copy, rows_BS, arriving_BS))

    def arrive(self, rows_BS: Tensor, done: Transfer) -> None:
        """See Link; a GPU's queue would wait, and not the process."""
        done.synchronize()

    def _copy(self, rows_BS: Tensor, arriving_BS: Tensor) -> None:
        time.sleep(self._seconds_of(rows_BS.numel()))
        arriving_BS.copy_(rows_BS)
        if self._spoils:
            rows_BS.fill_(SPOILT)
