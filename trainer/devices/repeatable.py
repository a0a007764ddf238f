"""Ways to make torch compute: the same bits in every run, or by compiled code."""

import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from shards.errors import InputError

_CUBLAS, _WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""Variable that gives cuBLAS buffers of fixed size, and its value. Without it several streams do not give the
same bits (cuBLAS's documentation, "Results reproducibility"), and torch refuses. Eight buffers of 4 MiB is
the faster of the two settings that torch accepts."""


def prepare_repeatable() -> None:
    """Set what `repeatable` needs; call it before the first use of a GPU, when cuBLAS reads it."""
    os.environ.setdefault(_CUBLAS, _WORKSPACE)


Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Compute the same bits in every run on the same device and number of ranks, if `wanted`.

    Raises:
        RuntimeError: torch has no repeatable algorithm for an operation; raised when a step needs it.
    """
    if not wanted:
        yield
        return
    prepare_repeatable()
    before, cudnn = torch.get_deterministic_debug_mode(), torch.backends.cudnn
    benchmark, cudnn.benchmark = cudnn.benchmark, False  # it would choose algorithms by timing them
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        cudnn.benchmark = benchmark


def check_compiler(device: torch.device) -> None:
    """Refuse to compile on a machine without a compiler.

    Raises:
        InputError: this machine lacks the compiler that torch.compile needs for `device`.
    """
    # The names that Triton (for a GPU) and torch's Inductor (for a CPU) look for.
    if device.type == "cuda":
        kind, names = "C", [os.environ.get("CC", "gcc"), "gcc", "clang"]
    else:
        kind, names = "C++", [os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")]
    if not any(shutil.which(name) for name in names):
        raise InputError(
            f"--compile: no {kind} compiler here ({' or '.join(dict.fromkeys(names))}); install one, or "
            "leave --compile out"
        )


def side_by_side(compute: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Compute on a CPU, each item on one thread and as many items at a time as there are threads.

    A batch that threads share has other bits for another number of threads (up to 1e-5 m of a height). The
    caller has one thread between items, too: otherwise its idle threads would spin beside those that compute.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            coming: deque[Future[Result]] = deque()
            for item in items:
                coming.append(pool.submit(compute, item))
                if len(coming) > threads:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
    finally:
        torch.set_num_threads(threads)
