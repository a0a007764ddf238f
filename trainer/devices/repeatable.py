"""How torch is asked to compute: the same bits in every run, in bfloat16, or by compiled code."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from shards.errors import InputError

_CUBLAS, _WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""cuBLAS gives the same bits on several streams only with buffers of fixed size (cuBLAS's documentation,
"Results reproducibility"), and torch insists on it: 8 of 4 MiB, the faster of the two that torch takes."""


def prepare_repeatable() -> None:
    """What `repeatable` needs before the first use of a GPU, since cuBLAS looks only then."""
    os.environ.setdefault(_CUBLAS, _WORKSPACE)


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """While it lasts, if `wanted`: the same bits in every run on the same device and number of ranks.

    Raises, in the step that would need it: RuntimeError, where torch has no such algorithm.
    """
    if not wanted:
        yield
        return
    prepare_repeatable()
    before, cudnn = torch.get_deterministic_debug_mode(), torch.backends.cudnn
    benchmark, cudnn.benchmark = cudnn.benchmark, False  # it would choose algorithms by their time
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        cudnn.benchmark = benchmark


def in_precision(module: nn.Module, device: torch.device, bf16: bool) -> Callable[..., Any]:
    """Return the forward pass of `module`, in bfloat16 where that is safe, if `bf16`."""
    if not bf16:
        return module

    def forward(*arguments: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            return module(*arguments)

    return forward


def check_compiler(device: torch.device) -> None:
    """Raises:
    InputError: this machine has not what torch.compile needs for `device`.
    """
    # Where Triton, for a GPU, and torch's Inductor, for a CPU, look for one.
    if device.type == "cuda":
        kind, names = "C", [os.environ.get("CC", "gcc"), "gcc", "clang"]
    else:
        kind, names = "C++", [os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")]
    if not any(shutil.which(name) for name in names):
        raise InputError(
            f"--compile: no {kind} compiler here ({' or '.join(dict.fromkeys(names))}); install one, or "
            "leave --compile out"
        )
