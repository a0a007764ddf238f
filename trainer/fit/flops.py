"""How much arithmetic a step of training is, and how much of it a device can do: model FLOPs utilisation.

As in PaLM (Chowdhery et al. 2022, arXiv:2204.02311, appendix B) only what the model needs is counted: forward
and backward pass, once; what is computed again to save memory is not.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from trainer.model.regressor import Regressor

_CHIPS = 2
"""Batch norm takes no less."""

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
"""(part of the device's name, TFLOP/s dense in bfloat16 with tensor cores, TFLOP/s in float32 without them).

A multiply-add is two. From NVIDIA's data sheets, where figures "with sparsity" are twice these: H100 (2023),
H200 (2024), A100 (2021), L40S (2023), L4 (2023), V100 (2018), T4 (2019). The last three compute no bfloat16.
"""


def training_flops(regressor: Regressor, stored_tokens: bool = False) -> float:
    """Floating-point operations of one chip's forward and backward pass; a multiply-add is two.

    Counted by torch.utils.flop_counter (matrix products, convolutions, attention) on tensors without
    numbers: nothing is computed, and `regressor`, not yet wrapped or sharded, stays as it is.
    `stored_tokens`: the backbone is not asked.
    """
    tensors = {
        name: torch.empty_like(value, device="meta").requires_grad_(value.requires_grad)
        for name, value in (*regressor.named_parameters(), *regressor.named_buffers())
    }
    schema = regressor.schema
    image_BCHW = torch.empty((_CHIPS, *schema.image_shape), dtype=getattr(torch, schema.dtype), device="meta")
    was_training = regressor.training
    regressor.train()
    try:
        with _nothing_twice(regressor), FlopCounterMode(display=False) as counter:
            height_BHW, _ = functional_call(regressor, tensors, (image_BCHW,))
            height_BHW.float().sum().backward()
    finally:
        regressor.train(was_training)
    total = counter.get_total_flops()
    if stored_tokens:
        total -= sum(counter.get_flop_counts().get("Regressor.backbone", {}).values())
    return float(total / _CHIPS)


def peak_flops(device: torch.device, bf16: bool) -> float | None:
    """Of `device`, operations a second as published; None: a CPU, or a GPU that is not in the list.

    In float32 cuDNN computes convolutions in TF32 where it can, which is faster than this peak.
    """
    return published_peak(torch.cuda.get_device_name(device), bf16) if device.type == "cuda" else None


def published_peak(name: str, bf16: bool) -> float | None:
    """The same of the GPU that CUDA calls `name`."""
    if "MIG" in name:  # a part of a GPU
        return None
    for pattern, in_bfloat16, in_float32 in PEAKS:
        if re.search(pattern, name):
            tera = in_bfloat16 if bf16 else in_float32
            return None if tera is None else tera * 1e12
    return None


@contextmanager
def _nothing_twice(regressor: Regressor) -> Iterator[None]:
    """Without `tuning.recompute_activations` while it lasts."""
    blocks: list[nn.Module] = list(regressor.backbone.model.layer)
    ways = [vars(block).pop("forward", None) for block in blocks]
    try:
        yield
    finally:
        for block, way in zip(blocks, ways, strict=True):
            if way is not None:
                block.forward = way
