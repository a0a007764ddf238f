"""Errors of a device that has too little memory, under whatever name torch raises them."""

import re

import torch

TEXTS = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")
"""Parts of their texts, in lower case: CUDA's and NCCL's, those of cuBLAS and cuDNN, such as
CUBLAS_STATUS_ALLOC_FAILED, and those of torch's allocator on a CPU."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that the device's memory is too small for what was computed.

    Only torch's own allocator raises OutOfMemoryError. Libraries and the driver fail with RuntimeError, or
    with AcceleratorError, which is one.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in TEXTS)


def wanted_memory(error: BaseException) -> str:
    """Return how much an out-of-memory error says was wanted at last, such as 2.00 GiB; "" if it does not."""
    found = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    return found[1] if found else ""
