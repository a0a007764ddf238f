"""Transfer of small arrays to the device, without waiting for it."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return the array as a tensor on `device`; on a GPU the copy is queued, and nobody waits for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor.to(device)
    # Only from pinned memory is a copy queued; torch keeps that memory until the copy is done.
    return tensor.pin_memory().to(device, non_blocking=True)
