"""Sharding of a module over ranks, for backbones that do not fit into one GPU's memory.

shard(module, blocks, device)   in place, before the optimiser is made
rows_of(tensor)                 this rank's part of a parameter, a moment or an average
whole(tensor)                   all of it; every rank asks at the same time

Each weight is cut along its first axis (torch's FSDP2, after Zhao et al. 2023, arXiv:2304.11277). A block's
weights are gathered on every rank only while that block computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from trainer.devices.choice import Precision
from trainer.devices.precision import MEANINGS, in_precision


@dataclass(frozen=True)
class Blocks:
    """Parts of a module whose weights are gathered one part at a time."""

    layers: Sequence[nn.Module]
    """Parts that compute one after another."""
    last: nn.Module
    """Part whose output is the module's output."""
    methods: tuple[str, ...] = ()
    """Methods that compute with the module's weights, beside its forward pass."""
    matrices: Sequence[Sequence[nn.Module]] = ()
    """Parts of each layer that compute only with matrices, and in 16 bits if the precision has 16."""


@dataclass(frozen=True)
class Rows:
    """Consecutive rows, along the first axis, of a tensor; a tensor without axes is always whole."""

    tensor: Tensor
    """Rows themselves."""
    first: int
    """Number of the first row in the whole tensor."""
    shape: tuple[int, ...]
    """Shape of the whole tensor."""


def shard(module: nn.Module, blocks: Blocks, device: torch.device, precision: Precision = "float32") -> None:
    """Give each rank its part of every weight, on `device`, in place; only single blocks are ever gathered.

    Gradients are averaged over ranks and cut in the same way, and so are the moments of an optimiser made
    afterwards. With a `precision` of 16 bits ranks gather the layers' matrices in it, and average their
    gradients in float32. Autocast would keep rounded copies of all matrices from the forward to the backward
    pass, on every rank.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # FSDP2 takes contiguous weights only; the convolutions' inputs are still channels last.
    for weight in module.parameters():
        weight.data = weight.data.contiguous()
    # A copy, since FSDP2 warns about outputs that are views.
    blocks.last.register_forward_hook(lambda _, __, output: output.clone())
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    dtype = MEANINGS[precision].dtype
    if dtype is not None:
        # Inputs stay float32: autocast rounds them for each product, as in an unsharded model.
        policy = MixedPrecisionPolicy(dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for matrices in blocks.matrices:
            for part in matrices:
                part.forward = in_precision(part.forward, device, precision)
            fully_shard(list(matrices), mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    for part in (*blocks.layers, blocks.last, module):
        # Reshard after the root's forward pass too. Scoring has no backward pass that would drop the gathered
        # weights, so stale ones (from before a step, or of the average) would be used again.
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    for name in blocks.methods:
        register_fsdp_forward_method(module, name)


def is_sharded(module: nn.Module) -> bool:
    """Tell whether `shard` was called on `module`."""
    return isinstance(module, FSDPModule)


def rows_of(tensor: Tensor) -> Rows:
    """Return this rank's rows of `tensor`, in the tensor's own memory: all rows unless it is sharded."""
    tensor = tensor.detach()
    if not isinstance(tensor, DTensor):
        return Rows(tensor, 0, tuple(tensor.shape))
    count, ranks = tensor.shape[0], tensor.device_mesh.size()
    # FSDP2 cuts as torch.chunk: equal parts, rounded up; the last ones may be short or empty.
    first = min(count, -(-count // ranks) * tensor.device_mesh.get_local_rank())
    return Rows(tensor.to_local(), first, tuple(tensor.shape))


def whole(tensor: Tensor) -> Tensor:
    """Gather `tensor` on every rank; all ranks must call this for the same tensors in the same order."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
