"""Operations of a training step and the peak of a device, for model FLOPs utilisation.

As in PaLM (Chowdhery et al. 2022, arXiv:2204.02311, appendix B) only what the model needs counts: the forward
and the backward pass, once. Recomputation that saves memory does not count.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from trainer.devices.choice import Precision
from trainer.model.pixel_model import PixelModel

_CHIPS = 2
"""Number of chips to count with: batch norm needs at least two."""


@dataclass(frozen=True)
class Peak:
    """Published peak of a GPU: dense operations in 10^12 a second, a multiply-add being two.

    bfloat16, float16 and TF32 are those of tensor cores, float32 that of the others. None where the GPU
    lacks the type.
    """

    float32: float
    tf32: float | None
    bf16: float | None
    fp16: float

    def of(self, precision: Precision) -> float | None:
        """Return the peak in `precision`; TF32 that the GPU lacks is float32."""
        if precision == "tf32" and self.tf32 is None:
            return self.float32
        found: float | None = getattr(self, precision)
        return found


PEAKS = (
    (r"H100.*HBM3|GH200", Peak(66.9, 494.7, 989.4, 989.4)),
    (r"H100 PCIe", Peak(51.0, 378.0, 756.0, 756.0)),
    (r"H100 NVL", Peak(60.0, 417.5, 835.0, 835.0)),
    (r"H200 NVL", Peak(60.0, 418.0, 836.0, 836.0)),
    (r"H200", Peak(66.9, 494.7, 989.4, 989.4)),
    (r"A100", Peak(19.5, 156.0, 312.0, 312.0)),
    (r"L40S", Peak(91.6, 183.0, 362.05, 362.05)),
    (r"L4$", Peak(30.3, 60.0, 121.0, 121.0)),
    (r"V100-SXM2", Peak(15.7, None, None, 125.0)),
    (r"V100-PCIE", Peak(14.0, None, None, 112.0)),
    (r"T4$", Peak(8.1, None, None, 65.0)),
)
"""Peaks by a part of the device's name.

The figures are from NVIDIA's data sheets, where those "with sparsity" are twice as large: H100 (2023), H200
(2024), A100 (2021), L40S (2023), L4 (2023), V100 (2018), T4 (2019).
"""


def training_flops(model: PixelModel, stored_tokens: bool = False, crop: int = 0) -> float:
    """Count the floating-point operations of one chip's forward and backward pass; a multiply-add is two.

    torch.utils.flop_counter counts (matrix products, convolutions, attention) on tensors without memory, so
    nothing is computed.

    Args:
        model: neither wrapped nor sharded yet; it does not change.
        crop: side in pixels of what is cut from each chip; 0: the whole chip.
        stored_tokens: whether tokens come from a store, so that the backbone does not run.
    """
    tensors = {
        name: torch.empty_like(value, device="meta").requires_grad_(value.requires_grad)
        for name, value in (*model.named_parameters(), *model.named_buffers())
    }
    schema = model.schema
    shape = (schema.image_shape[0], crop, crop) if crop else schema.image_shape
    image_BCHW = torch.empty((_CHIPS, *shape), dtype=getattr(torch, schema.dtype), device="meta")
    was_training = model.training
    model.train()
    try:
        with _no_recomputation(model), FlopCounterMode(display=False) as counter:
            height_BHW, _ = functional_call(model, tensors, (image_BCHW,))
            height_BHW.float().sum().backward()
    finally:
        model.train(was_training)
    total = counter.get_total_flops()
    if stored_tokens:
        total -= sum(counter.get_flop_counts().get("Regressor.backbone", {}).values())
    return float(total / _CHIPS)


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """Return the published peak of `device` in operations a second; None for a CPU or an unlisted GPU."""
    return published_peak(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def published_peak(name: str, precision: Precision) -> float | None:
    """Return the published peak of the GPU that CUDA calls `name`; None if it is not listed."""
    if "MIG" in name:  # a part of a GPU
        return None
    for pattern, peak in PEAKS:
        if re.search(pattern, name):
            tera = peak.of(precision)
            return None if tera is None else tera * 1e12
    return None


@contextmanager
def _no_recomputation(model: PixelModel) -> Iterator[None]:
    """Suspend `trainer.model.trainable.recompute_activations` for a while."""
    blocks: list[nn.Module] = list(model.backbone.model.layer)
    replaced = [vars(block).pop("forward", None) for block in blocks]
    try:
        yield
    finally:
        for block, forward in zip(blocks, replaced, strict=True):
            if forward is not None:
                block.forward = forward
