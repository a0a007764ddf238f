"""GPUs of this machine: whether there are any, and whether torch and they compute what is wanted.

device = chosen_here(config.device, config.precision)       # a command that computes in its own process
computes(config.precision, device).say()                    # once nothing is left to refuse
device = usable("cuda")                                     # a worker, told by its driver
"""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob

import torch

from shards.errors import InputError
from shards.said import say
from trainer.devices.choice import (
    Computes,
    Kind,
    Precision,
    Wanted,
    WantedPrecision,
    by_hardware,
    gpus_in_words,
    on_cpu,
)

TORCH = "2.13.0"
"""Version of torch that constraints.txt names."""
REINSTALL = f"pip install --force-reinstall torch=={TORCH}"
"""Command that replaces any build of torch by the one on PyPI, which for Linux is that for CUDA 13.0."""
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


CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")
"""Names under which torch.cpu.get_capabilities tells of products in bfloat16: x86, then ARM."""


@dataclass(frozen=True)
class Card:
    """A GPU."""

    name: str
    capability: tuple[int, int]
    """Compute capability, major and minor."""

    def __str__(self) -> str:
        """Name it for a message."""
        return f"{self.name} (compute capability {self.capability[0]}.{self.capability[1]})"

    @property
    def computes_bf16(self) -> bool:
        """Whether it computes in bfloat16 and TF32 itself.

        As torch.cuda.is_bf16_supported(including_emulation=False) and is_tf32_supported of 2.13.0, which ask
        of the current GPU alone; AMD's cards, whose TF32 is another matter, count as torch counts them.
        """
        return torch.version.hip is not None or self.capability >= (8, 0)


def chosen_here(wanted: Wanted, precision: WantedPrecision = "float32") -> Kind:
    """Decide on what this process computes, and say where GPUs stay idle.

    Raises:
        InputError: there is no GPU where one is wanted, the installed torch has no kernels for it, or it
            only emulates `precision`.
    """
    kind = _kind_here(wanted)
    if kind == "cuda":
        refuse_emulated([card(0)], precision)
    return kind


def computes(precision: WantedPrecision, device: str | torch.device) -> Computes:
    """Return what a device of this machine makes of a precision; "auto" is decided."""
    there = torch.device(device)
    if precision == "auto":
        is_gpu = there.type == "cuda"
        return by_hardware(card(there.index or 0).computes_bf16 if is_gpu else cpu_computes_bf16())
    return on_cards([card(there.index or 0)], precision) if there.type == "cuda" else on_cpu(precision)


def cpu_computes_bf16() -> bool:
    """Tell whether this machine's CPU multiplies bfloat16 itself; others emulate it, slowly."""
    there = torch.cpu.get_capabilities()
    return any(there.get(name, False) for name in CPU_BF16)


def _kind_here(wanted: Wanted) -> Kind:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu":
        if count:
            _say(f"computes on a CPU (--device cpu), although this machine has {gpus_in_words(count)}")
        return "cpu"
    if count:
        refuse_without_kernels([card(0)])
        return "cuda"
    if wanted == "gpu":
        why, cure = _why_none()
        if _is_for_cpus():
            raise InputError(
                f"--device gpu: {why}; if this machine has an NVIDIA card: {cure}, else give --device cpu"
            )
        raise InputError(f"--device gpu: {why}; {cure}, or give --device cpu")
    if unseen := _unseen():
        there = f"although this machine has {gpus_in_words(unseen)}"
        _say("computes on a CPU, {}: {}; {}".format(there, *_why_none()))
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


def why_unusable(numbers: Sequence[int] | None = None, precision: WantedPrecision = "float32") -> str:
    """Explain in one line why torch cannot compute on GPUs of this machine; "" if it can.

    Args:
        numbers: the GPUs that are asked about; default: all.
        precision: the precision that is wanted.
    """
    if not torch.cuda.is_available():
        why, cure = _why_none()
        return f"{platform.node()}: {why}, but Ray counts a GPU there; {cure}, or give --device cpu"
    try:
        cards = all_cards() if numbers is None else [card(number) for number in numbers]
        refuse_without_kernels(cards)
        refuse_emulated(cards, precision)
    except InputError as error:
        return f"{platform.node()}: {error}"
    return ""


def all_cards() -> list[Card]:
    """Describe the GPUs of this machine."""
    return [card(number) for number in range(torch.cuda.device_count())]


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
        raise InputError(
            f"{one}: torch {torch.__version__} has no kernels for it, only {' '.join(built_for)}; "
            f"{_build_for(one)}, or give --device cpu (docs/gpu.md)"
        )


def refuse_emulated(cards: Sequence[Card], precision: WantedPrecision) -> None:
    """Refuse bf16 on GPUs that only emulate it: slowly, and without kernels for some convolutions.

    Raises:
        InputError: says which card, and which precision suits it.
    """
    for one in cards:
        if precision == "bf16" and not one.computes_bf16:
            raise InputError(
                f"--precision bf16: {one} only emulates it; give --precision fp16, or --device cpu "
                "(docs/gpu.md)"
            )


def on_cards(cards: Sequence[Card], precision: WantedPrecision) -> Computes:
    """Return what GPUs make of a precision together: where only some have TF32, results are in TF32."""
    if precision == "auto":
        return by_hardware(all(one.computes_bf16 for one in cards))
    # What has bfloat16 has TF32.
    without = [one for one in cards if precision == "tf32" and not one.computes_bf16]
    remarks = [f"--precision tf32: {one} has no TF32 and computes in float32" for one in without]
    in_float32 = without and len(without) == len(cards)
    return Computes("float32" if in_float32 else precision, tuple(dict.fromkeys(remarks)))


def suited_half(device: torch.device) -> Precision:
    """Return the precision of 16 bits that suits the device."""
    has_card = device.type == "cuda" and torch.cuda.is_available()
    if has_card and not card(device.index or 0).computes_bf16:
        return "fp16"
    return "bf16"


def _build_for(one: Card) -> str:
    if has_kernels(CODE_130, one.capability):
        return REINSTALL
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


def _is_for_cpus() -> bool:
    """Tell whether the installed torch has no code for GPUs."""
    return torch.version.cuda is None and torch.version.hip is None


def _why_none() -> tuple[str, str]:
    """Explain why torch has no GPU; return the cause and what to do."""
    if _is_for_cpus():
        cause = f"torch {torch.__version__} is built for CPUs alone"
        return cause, f"{REINSTALL} (for older cards see docs/gpu.md)"
    return "torch finds no GPU", "look at nvidia-smi"


def _unseen() -> int:
    """Count NVIDIA's GPUs that the system has and torch does not see, unless the user hid them."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        return 0
    return len(glob("/dev/nvidia[0-9]*"))


def _say(line: str) -> None:
    say(line)
