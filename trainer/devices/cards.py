"""GPUs of this machine: whether there are any, and whether the installed torch has kernels for them.

device = chosen_here(config.device)        # a command that computes in its own process
device = usable("cuda")                    # a worker, told by its driver
"""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob

import torch

from shards.errors import InputError
from trainer.devices.choice import Kind, Wanted, gpus_in_words

TORCH = "2.13.0"
"""Version of torch that constraints.txt names."""
INDEX_126 = "https://download.pytorch.org/whl/cu126"
"""Index of builds for CUDA 12.6, the last for cards below 7.5, as PyTorch's installation page names it."""
CODE_126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CODE_130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
"""Code in the builds of torch 2.13.0 for CUDA 12.6, and 13.0 (on PyPI), on x86_64 under Linux.

Source: PYTORCH_RELEASES_CODE_CC in torch/cuda/__init__.py of 2.13.0; 12.0 comes with PTX according to
pytorch/pytorch#182849.
"""
EMBEDDED = {(5, 3), (6, 2), (7, 2), (8, 7), (10, 1)}
"""Capabilities of embedded boards, on which code of a lower minor version does not run (source: as above)."""


@dataclass(frozen=True)
class Card:
    """A GPU."""

    name: str
    capability: tuple[int, int]
    """Compute capability, major and minor."""


def chosen_here(wanted: Wanted) -> Kind:
    """Decide on what this process computes, and say so where GPUs stay idle.

    Raises:
        InputError: there is no GPU where one is wanted, or the installed torch has no kernels for it.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu":
        if count:
            _say(f"computes on a CPU (--device cpu), although this machine has {gpus_in_words(count)}")
        return "cpu"
    if count:
        refuse_without_kernels([card(0)])
        return "cuda"
    if wanted == "gpu":
        raise InputError(f"--device gpu: {_why_none()}; mend that, or give --device cpu")
    if unseen := _unseen():
        _say(f"computes on a CPU, although this machine has {gpus_in_words(unseen)}: {_why_none()}")
    return "cpu"


def usable(device: str | torch.device) -> torch.device:
    """Return the device that the driver decided on, in the process that is to compute on it.

    Raises:
        InputError: torch cannot use it here.
    """
    there = torch.device(device)
    if there.type == "cuda" and (why := why_unusable([there.index or 0])):
        raise InputError(why)
    return there


def why_unusable(numbers: Sequence[int] | None = None) -> str:
    """Explain in one line why torch cannot compute on GPUs of this machine; "" if it can.

    Args:
        numbers: the GPUs that are asked about; default: all.
    """
    if not torch.cuda.is_available():
        return (
            f"{platform.node()}: {_why_none()}, but Ray counts a GPU there; mend that, or give --device cpu"
        )
    try:
        refuse_without_kernels(
            [card(number) for number in (range(torch.cuda.device_count()) if numbers is None else numbers)]
        )
    except InputError as error:
        return f"{platform.node()}: {error}"
    return ""


def card(number: int) -> Card:
    """Describe a GPU of this machine."""
    return Card(torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number))


def refuse_without_kernels(cards: Sequence[Card]) -> None:
    """Refuse GPUs on which the first kernel would fail, although torch finds them.

    Raises:
        InputError: says which build of torch has kernels for them, and how to install it.
    """
    # AMD's cards are not meant: their code has other names, and fits or not in another way.
    built_for = [code for code in torch.cuda.get_arch_list() if code.startswith(("sm_", "compute_"))]
    for one in cards:
        if not built_for or has_kernels(built_for, one.capability):
            continue
        major, minor = one.capability
        raise InputError(
            f"{one.name} (compute capability {major}.{minor}): torch {torch.__version__} has no kernels for "
            f"it, only {' '.join(built_for)}; {_build_for(one)}, or give --device cpu (docs/gpu.md)"
        )


def _build_for(one: Card) -> str:
    if has_kernels(CODE_130, one.capability):
        return f"pip install --force-reinstall torch=={TORCH}"
    if has_kernels(CODE_126, one.capability):
        # With the build's name, or pip would be content with any build of this version.
        return f"pip install torch=={TORCH}+cu126 --index-url {INDEX_126}"
    return f"no build of torch {TORCH} has them: use another card"


def has_kernels(built_for: Sequence[str], capability: tuple[int, int]) -> bool:
    """Tell whether code for `built_for` (sm_80, sm_90a, compute_120) runs on a card of this capability.

    Machine code (sm) runs on its own version and on higher minor ones of the same major one, with "a" on its
    own alone. PTX (compute) is compiled for any later card. Source: CUDA C++ Programming Guide, "Application
    Compatibility".
    """
    return any(_runs(code, capability) for code in built_for)


def _runs(code: str, capability: tuple[int, int]) -> bool:
    kind, _, version = code.partition("_")
    own = divmod(int(version.rstrip("af")), 10)
    if version.endswith("a") or (kind == "sm" and capability in EMBEDDED):
        return own == capability
    return own <= capability and (kind == "compute" or own[0] == capability[0])


def _why_none() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built for CPUs alone (docs/gpu.md)"
    return "torch finds no GPU (see nvidia-smi)"


def _unseen() -> int:
    """Count NVIDIA's GPUs that the system has and torch does not see, unless the user hid them."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        return 0
    return len(glob("/dev/nvidia[0-9]*"))


def _say(line: str) -> None:
    print(f"treeline: {line}", file=sys.stderr, flush=True)
