"""Operations of a training step and the peak of a device, for model FLOPs utilisation.

As in PaLM (Chowdhery et al. 2022, arXiv:2204.02311, appendix B) only what the model needs counts: the forward
and the backward pass, once. Recomputation that saves memory does not count.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from trainer.model.pixel_model import PixelModel

_CHIPS = 2
"""Number of chips to count with: batch norm needs at least two."""

PEAKS = (
    (r"H100.*HBM3|GH200", 989.4, 66.9),
    (r"H100 PCIe", 756.0, 51.0),
    (r"H100 NVL", 835.0, 60.0),
    (r"H200 NVL", 836.0, 60.0),
    (r"H200", 989.4, 66.9),
    (r"A100", 312.0, 19.5),
    (r"L40S", 362.05, 91.6),
    (r"L4$", 121.0, 30.3),
    (r"V100-SXM2", None, 15.7),
    (r"V100-PCIE", None, 14.0),
    (r"T4$", None, 8.1),
)
"""Peaks: (part of the device's name, dense TFLOP/s in bfloat16 with tensor cores, in float32 without them).

A multiply-add is two operations. The figures are from NVIDIA's data sheets, where those "with sparsity" are
twice as large: H100 (2023), H200 (2024), A100 (2021), L40S (2023), L4 (2023), V100 (2018), T4 (2019). The
last three entries have no bfloat16.
"""


def training_flops(model: PixelModel, stored_tokens: bool = False) -> float:
    """Count the floating-point operations of one chip's forward and backward pass; a multiply-add is two.

    torch.utils.flop_counter counts (matrix products, convolutions, attention) on tensors without memory, so
    nothing is computed.

    Args:
        model: neither wrapped nor sharded yet; it does not change.
        stored_tokens: whether tokens come from a store, so that the backbone does not run.
    """
    tensors = {
        name: torch.empty_like(value, device="meta").requires_grad_(value.requires_grad)
        for name, value in (*model.named_parameters(), *model.named_buffers())
    }
    schema = model.schema
    image_BCHW = torch.empty((_CHIPS, *schema.image_shape), dtype=getattr(torch, schema.dtype), device="meta")
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


def peak_flops(device: torch.device, bf16: bool) -> float | None:
    """Return the published peak of `device` in operations a second; None for a CPU or an unlisted GPU.

    In float32 cuDNN computes convolutions in TF32 where it can, which is faster than this peak.
    """
    return published_peak(torch.cuda.get_device_name(device), bf16) if device.type == "cuda" else None


def published_peak(name: str, bf16: bool) -> float | None:
    """Return the published peak of the GPU that CUDA calls `name`; None if it is not listed."""
    if "MIG" in name:  # a part of a GPU
        return None
    for pattern, in_bfloat16, in_float32 in PEAKS:
        if re.search(pattern, name):
            tera = in_bfloat16 if bf16 else in_float32
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
