"""Transfer of small arrays to the device and of numbers from it, for which the host need not wait."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return the array as a tensor on `device`; the copy to a GPU is queued, and the host does not wait."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor.to(device)
    # Only from pinned memory is a copy queued; torch keeps that memory until the copy is done.
    return tensor.pin_memory().to(device, non_blocking=True)


def rows_where(values_NX: Tensor, is_kept_N: NDArray[np.bool_]) -> Tensor:
    """Return the rows that are kept. The host knows their number, so it does not wait for the device."""
    if is_kept_N.all():
        return values_NX
    return values_NX.index_select(0, to_device(np.flatnonzero(is_kept_N), values_NX.device))


class FromDevice:
    """Numbers on their way to the host, which waits for them only when it reads them."""

    def __init__(self, numbers_N: Tensor) -> None:
        """Queue the copy, behind what computes the numbers."""
        self._numbers_N, self._arrival = numbers_N, None
        if numbers_N.device.type == "cuda":
            # Only into pinned memory is a copy queued.
            self._numbers_N = torch.empty(numbers_N.shape, dtype=numbers_N.dtype, pin_memory=True)
            self._numbers_N.copy_(numbers_N, non_blocking=True)
            self._arrival = torch.cuda.current_stream(numbers_N.device).record_event()

    def read(self) -> list[float]:
        """Wait until the numbers are there, and return them."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return [float(number) for number in self._numbers_N.tolist()]
