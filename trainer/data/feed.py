"""Transfer of batches to the device, each from pinned memory while the device computes on the one before.

A batch's stored bytes cross unchanged in one transfer. On the device they become image and height, and the
regressor's first layer normalises them, so the host converts nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from shards.format.schema import Schema
from shards.format.tar import row_layout
from shards.read.dataset import Batch


@dataclass(frozen=True)
class Fed:
    """A batch whose image and height are on the device."""

    batch: Batch
    """Batch as the reader gave it, on the host."""
    image_BCHW: Tensor
    """Image on the device, as stored."""
    height_BHW: Tensor
    """Height on the device, in metres."""


def feed(batches: Iterable[Batch], schema: Schema, device: torch.device) -> Iterator[Fed]:
    """Bring batches to `device`, in the same order; on a GPU one transfer ahead of their use.

    Training has seen chips up to `fed.batch.start + fed.batch.size`; the reader itself may be a batch ahead.
    """
    if device.type != "cuda":
        for batch in batches:
            yield _fed(batch, torch.from_numpy(batch.rows_BS).to(device), schema)
        return
    transfers = torch.cuda.Stream(device)
    waiting: tuple[Batch, Tensor, torch.cuda.Event] | None = None
    for batch in batches:
        pinned_BS = torch.from_numpy(batch.rows_BS).pin_memory()
        with torch.cuda.stream(transfers):
            rows_BS = pinned_BS.to(device, non_blocking=True)
            event = transfers.record_event()
        if waiting:
            yield _arrived(waiting, schema)
        waiting = batch, rows_BS, event
    if waiting:
        yield _arrived(waiting, schema)


def _arrived(transfer: tuple[Batch, Tensor, torch.cuda.Event], schema: Schema) -> Fed:
    batch, rows_BS, event = transfer
    present = torch.cuda.current_stream(rows_BS.device)
    present.wait_event(event)
    # The memory belongs to the transfers' stream, which must not reuse it while this stream needs it.
    rows_BS.record_stream(present)
    return _fed(batch, rows_BS, schema)


def _fed(batch: Batch, rows_BS: Tensor, schema: Schema) -> Fed:
    """View a batch's rows as image and height: `shards.format.tar.arrays_of` on any device."""
    layout = row_layout(schema)

    def view(offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        nbytes = dtype.itemsize * torch.Size(shape).numel()
        values_BN: Tensor = rows_BS[:, offset : offset + nbytes].view(dtype)
        return values_BN.view(len(rows_BS), *shape)

    image_BCHW = view(layout.image_offset, getattr(torch, schema.dtype), schema.image_shape)
    return Fed(batch, image_BCHW, view(layout.height_offset, torch.float32, schema.label_shape))
