"""Room for a backbone that does not learn: whether a device has memory for all of its blocks.

fits(block_bytes(backbone, precision), device)
"""

import torch
from torch import nn
from transformers import DINOv3ViTModel

from shards.said import say
from trainer.devices.choice import Precision
from trainer.devices.precision import MEANINGS

MOST_SHARE = 0.8
"""Largest share of the free memory that weights may take; the rest is for activations and kernels."""
BUS_BYTES = 25e9
"""Bytes a second over PCIe 4.0 x16 (31.5e9 by its specification, less overhead), to estimate the time."""


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a GPU; None on other devices, which have room for everything."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def block_bytes(backbone: DINOv3ViTModel, precision: Precision) -> int:
    """Count the bytes of a backbone's blocks once they are rounded (trainer.model.frozen_backbone)."""
    dtype = MEANINGS[precision].dtype or torch.float32
    layers = backbone.model.layer
    halved = {id(part) for one in layers.modules() if isinstance(one, nn.Linear) for part in one.parameters()}
    sizes = (one.numel() * (dtype.itemsize if id(one) in halved else 4) for one in layers.parameters())
    return sum(sizes)


def fits(needed: int, device: torch.device) -> bool:
    """Tell whether blocks of this many bytes fit on the device; print a line if they do not."""
    free = free_bytes(device)
    if free is None or needed <= MOST_SHARE * free:
        return True
    seconds = needed / BUS_BYTES
    say(
        f"the backbone's blocks take {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free on "
        f"{device}: they stay on the host, and each batch copies them there one by one, which takes "
        f"{seconds:,.1f} s over PCIe 4.0, so larger batches pay"
    )
    return False
