"""The device that a command computes on, decided once from --device and the GPUs there are. No torch here.

choice = choose("auto", workers=4, gpus=(2, 2), share=1.0)
choice.device          for the workers, who look for nothing themselves
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shards.errors import InputError
from shards.roles import Replaces
from shards.said import say

Wanted = Literal["auto", "gpu", "cpu"]
"""Values of --device."""
Kind = Literal["cuda", "cpu"]
"""Kinds of device, as torch names them."""
Precision = Literal["float32", "tf32", "bf16", "fp16"]
"""Values of --precision; what they mean stands in trainer.devices.precision."""
WantedPrecision = Literal["auto", "float32", "tf32", "bf16", "fp16"]
"""Values of --precision where it can be left to the device."""
OF_BF16 = Replaces("bf16", no="float32", yes="bf16")
"""Role of --precision, which was a yes or no before."""
ROUNDING = 1e-4
"""Step in which Ray counts shares of a GPU: three workers of 0.3333 fit on one."""


OF_SIXTEEN_BITS: dict[Precision, str] = {
    "bf16": "on a CPU it may be slower than float32 (docs/gpu.md)",
    "fp16": "on a CPU it may be far slower than float32, 30 times where it was measured (docs/gpu.md)",
}
"""Remark on these precisions on any CPU: its instructions alone do not tell (docs/benchmarks.md)."""


@dataclass(frozen=True)
class Computes:
    """Precision that a device computes in, where another may have been asked for."""

    precision: Precision
    """Precision in which it computes, which is what results record."""
    remarks: tuple[str, ...] = ()
    """Lines for the user where that is another than the one asked for, or may be slow."""

    def say(self) -> None:
        """Print the remarks, once it is certain that the work begins."""
        for remark in self.remarks:
            say(remark)


IN_FLOAT32 = Computes("float32")


def by_hardware(has_bf16: bool) -> Computes:
    """Decide on a precision by whether all devices have bfloat16 in hardware."""
    if not has_bf16:
        return Computes("float32")
    return Computes("bf16", ("computes in bf16, which the device has in hardware (--precision auto)",))


def on_cpu(precision: Precision) -> Computes:
    """Return what CPUs make of a precision."""
    if precision == "tf32":
        return Computes("float32", ("--precision tf32: a CPU has no TF32 and computes in float32",))
    remark = OF_SIXTEEN_BITS.get(precision)
    return Computes(precision, (f"--precision {precision}: {remark}",) if remark else ())


@dataclass(frozen=True)
class Choice:
    """Device of each worker."""

    device: Kind
    share: float
    """GPUs, or share of one, of each worker; 0 on CPUs."""
    remark: str = ""
    """Line for the user; empty if there is nothing to say."""
    computes: Computes = IN_FLOAT32
    """Precision in which the workers compute, and why, where it is not --precision."""


def choose(wanted: Wanted, workers: int, gpus: Sequence[int], share: float = 1.0) -> Choice:
    """Decide on what the workers of a cluster compute.

    Args:
        wanted: --device.
        workers: number of workers that there must be room for.
        gpus: GPUs of each machine that has some.
        share: GPUs, or share of one, of each worker.

    Raises:
        InputError: there are too few GPUs, or none where some are wanted; says what to give instead.
    """
    given = f"--workers {workers}" + f" --gpus-per-worker {share:g}" * (share != 1)
    count = sum(gpus)
    cluster = f"the cluster has {gpus_in_words(count)}"
    if wanted != "cpu" and share > 1:
        raise InputError(f"--gpus-per-worker {share:g}: a worker computes on one GPU; give 1 or less")
    if wanted == "gpu" and share <= 0:
        raise InputError(
            f"--device gpu: {given} leaves workers no GPU; give a share above 0, or --device cpu"
        )
    if wanted == "cpu" or share <= 0:
        why = "--device cpu" if wanted == "cpu" else f"--gpus-per-worker {share:g}"
        return Choice("cpu", 0.0, f"computes on CPUs ({why}), although {cluster}" if count else "")
    if not count:
        if wanted == "gpu":
            raise InputError(
                "--device gpu: no machine of the cluster has a GPU; add some, or give --device cpu"
            )
        return Choice("cpu", 0.0)
    room = sum(gpus) * int((1 + ROUNDING) / share)
    if workers > room:
        raise InputError(
            f"{given}: {cluster}, room for {room} workers; give --workers {room}, or --device cpu"
        )
    return Choice("cuda", share)


def gpus_in_words(count: int) -> str:
    """Write a number of GPUs: no GPU, 1 GPU, 4 GPUs."""
    return f"{count or 'no'} GPU{'s' if count > 1 else ''}"
