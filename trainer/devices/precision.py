"""What a precision means: how numbers are rounded, and in which part of a command.

with computing(precision):                  # around all that a command computes: settings of the process
    with autocast(precision, device):       # around a forward pass, in the thread that runs it
        height_BHW = regressor(image_BCHW)
with predicting(precision): ...             # instead of computing, where nothing is learnt
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from trainer.devices.choice import Precision


@dataclass(frozen=True)
class Meaning:
    """Rounding of numbers."""

    name: str
    """Name in files that say what their numbers were computed in."""
    dtype: torch.dtype | None
    """Type to which torch's autocast rounds what goes into matrix products and convolutions; None: none."""
    tf32: bool
    """Whether a GPU may round what goes into float32 matrix products and convolutions to 11 bits (TF32)."""

    @property
    def is_half(self) -> bool:
        """Whether numbers have 16 bits."""
        return self.dtype is not None


MEANINGS: dict[Precision, Meaning] = {
    "float32": Meaning("float32", None, False),
    "tf32": Meaning("tf32", None, True),
    # What autocast leaves in float32 is left so because it needs the bits.
    "bf16": Meaning("bfloat16", torch.bfloat16, False),
    "fp16": Meaning("float16", torch.float16, False),
}
NAMED: dict[str, Precision] = {meaning.name: precision for precision, meaning in MEANINGS.items()}
"""Precisions by their name in files."""


@contextmanager
def computing(precision: Precision) -> Iterator[None]:
    """Allow TF32 only if `precision` means it, and restore torch's settings afterwards.

    By torch's defaults convolutions use TF32 and matrix products do not.
    """
    backends = torch.backends
    parts = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)  # type: ignore[attr-defined]
    before = [part.fp32_precision for part in parts]
    allowed = [found == "tf32" for found in before]
    _allow_tf32(MEANINGS[precision].tf32, MEANINGS[precision].tf32)
    try:
        yield
    finally:
        _allow_tf32(allowed[0], allowed[1])
        for part, found in zip(parts, before, strict=True):
            part.fp32_precision = found


@contextmanager
def predicting(precision: Precision) -> Iterator[None]:
    """Compute in `precision`, on a GPU only with algorithms of cuDNN that repeat their bits.

    Without `torch.backends.cudnn.deterministic` some transposed convolutions add in any order.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False  # benchmark would choose algorithms by timing them
    try:
        with computing(precision):
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def _allow_tf32(matmul: bool, convolution: bool) -> None:
    # The older of torch's two interfaces sets the newer one (fp32_precision) as well. The newer one does not
    # set the older, which then fails when it is read, as torch/_inductor/kernel/conv.py of 2.13.0 does.
    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.backends.cudnn.allow_tf32 = convolution


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which torch computes in 16 bits where that is safe, if `precision` has 16."""
    dtype = MEANINGS[precision].dtype
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def in_precision(
    forward: Callable[..., Any], device: torch.device, precision: Precision
) -> Callable[..., Any]:
    """Return a function that computes `forward` in `precision`; see `autocast`."""
    if not MEANINGS[precision].is_half:
        return forward

    def cast(*arguments: Any, **named: Any) -> Any:
        with autocast(precision, device):
            return forward(*arguments, **named)

    return cast
