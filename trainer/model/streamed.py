"""A backbone whose blocks stay on the host and are copied to the device one by one: it need not fit there.

stream(backbone, device)    in place, when everything but the blocks is on the device

Two blocks are on the device at a time. While one computes, a stream of its own copies the next one there from
pinned memory; after the last block the first follows, for the next pass. A CPU, on which this is tested,
copies without a stream. Operations and their order are those of a backbone that is on the device, and so are
the bits.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from transformers import DINOv3ViTModel

from shards.said import say
from trainer.weights.weights_file import release

UNPINNED = (
    "treeline: the host's memory cannot be pinned, so no block is copied while another computes, which is "
    "slower; raise the limit on locked memory (ulimit -l)"
)
_ALIGNED = 256
"""Multiple of bytes at which tensors start, as in CUDA's own allocations."""


class _Packed:
    """A block's weights in one piece of the host's memory, laid out as in a piece on the device."""

    def __init__(self, block: nn.Module) -> None:
        self.weights = list(block.parameters())
        spans, self.bytes, end = dict[int, int](), 0, 0
        # Tensors that share memory, such as rows of a joint one, go on sharing it.
        for weight in sorted(self.weights, key=lambda one: (one.data_ptr(), -one.nbytes)):
            start = weight.data_ptr()
            if start >= end:
                first, at = start, self.bytes
                end = start + weight.nbytes
                self.bytes += -(-weight.nbytes // _ALIGNED) * _ALIGNED
            spans[id(weight)] = at + start - first
        self._starts = [spans[id(weight)] for weight in self.weights]
        self.host_N = torch.empty(self.bytes, dtype=torch.uint8)
        self.on_host = self.views(self.host_N)
        for weight, view in zip(self.weights, self.on_host, strict=True):
            view.copy_(weight.detach())
            release(weight)
        self.use(self.on_host)

    def views(self, memory_N: Tensor) -> list[Tensor]:
        """Return the weights as views of a piece of memory that holds their bytes."""
        spans = zip(self.weights, self._starts, strict=True)
        return [memory_N[at : at + one.nbytes].view(one.dtype).view(one.shape) for one, at in spans]

    def use(self, views: Sequence[Tensor]) -> None:
        """Make the block compute with these views of its weights."""
        for weight, view in zip(self.weights, views, strict=True):
            weight.data = view


def _pinned(block: _Packed) -> bool:
    """Pin a block's memory on the host for as long as the block lives; tell whether that worked."""
    # Not pin_memory=True, which takes the next power of two: half as much again for blocks of 7B.
    cuda, address = torch.cuda.cudart(), block.host_N.data_ptr()
    portable = 1  # cudaHostRegisterPortable, as torch's own pinned memory
    if int(cuda.cudaHostRegister(address, block.bytes, portable)):
        return False
    finalize(block, cuda.cudaHostUnregister, address)
    return True


class _Stream:
    """Two pieces of memory (slots) on the device, to which blocks are copied in turn."""

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self._blocks = [_Packed(block) for block in blocks]
        if on_gpu and not all(map(_pinned, self._blocks)):
            say(UNPINNED, of="")
        most = max(block.bytes for block in self._blocks)
        self.slots = [torch.empty(most, dtype=torch.uint8, device=device) for _ in range(2)]
        self._views = [[block.views(slot_N) for slot_N in self.slots] for block in self._blocks]
        self.there: list[int | None] = [None, None]
        """Number of the block in each slot."""
        self._copying = torch.cuda.Stream(device) if on_gpu else None
        self._arrived = [torch.cuda.Event() if on_gpu else None for _ in range(2)]
        for number, block in enumerate(blocks):
            block.register_forward_pre_hook(partial(self._before, number))
            block.register_forward_hook(partial(self._after, number))

    def _before(self, number: int, *_: Any) -> None:
        """Make a block compute on the device, and start to copy the next one."""
        if number not in self.there:
            self._fetch(number, 0)
        slot = self.there.index(number)
        arrived = self._arrived[slot]
        if arrived is not None:
            torch.cuda.current_stream(self.slots[slot].device).wait_event(arrived)
        self._blocks[number].use(self._views[number][slot])
        coming = (number + 1) % len(self._blocks)
        if coming not in self.there:
            self._fetch(coming, 1 - slot)

    def _after(self, number: int, *_: Any) -> None:
        self._blocks[number].use(self._blocks[number].on_host)

    def _fetch(self, number: int, slot: int) -> None:
        """Copy a block into a slot, after all work that is queued there."""
        into_N, host_N = self.slots[slot], self._blocks[number].host_N
        copying, arrived = self._copying, self._arrived[slot]
        if copying is None or arrived is None:
            into_N[: len(host_N)].copy_(host_N)
        else:
            # The block that was there is queued to compute, and may not be done.
            copying.wait_stream(torch.cuda.current_stream(into_N.device))
            with torch.cuda.stream(copying):
                into_N[: len(host_N)].copy_(host_N, non_blocking=True)
                arrived.record(copying)
        self.there[slot] = number


@torch.no_grad()
def stream(backbone: DINOv3ViTModel, device: torch.device) -> None:
    """Keep a backbone's blocks on the host and copy them to `device` in each pass, in place and for good."""
    backbone.streamed = _Stream(backbone.model.layer, device)  # type: ignore[assignment]


def is_streamed(backbone: nn.Module) -> bool:
    """Tell whether `stream` was called on `backbone`."""
    return hasattr(backbone, "streamed")
