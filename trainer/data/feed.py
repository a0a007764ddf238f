"""Batches to the device: one transfer each, from pinned memory, while the device computes on the one before.

The stored bytes of a batch cross as they are, and become image and height on the device, where the
regressor's first layer normalises them: nothing is converted on the host.
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
    """A batch, and on the device its image (B, bands, rows, columns) and height (B, rows, columns)."""

    batch: Batch
    image_BCHW: Tensor
    height_BHW: Tensor


def feed(batches: Iterable[Batch], schema: Schema, device: torch.device) -> Iterator[Fed]:
    """The same batches on `device`, in the same order; on a GPU one transfer ahead of their use.

    What was trained on ends at `fed.batch.start + fed.batch.size`; a reader's own state may be a batch ahead.
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
    # Allocated on the transfers' stream: not to be given to another batch while this stream uses it.
    rows_BS.record_stream(present)
    return _fed(batch, rows_BS, schema)


def _fed(batch: Batch, rows_BS: Tensor, schema: Schema) -> Fed:
    """Views of the rows: as `shards.format.tar.arrays_of`, on any device."""
    layout = row_layout(schema)

    def view(offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        nbytes = dtype.itemsize * torch.Size(shape).numel()
        values_BN: Tensor = rows_BS[:, offset : offset + nbytes].view(dtype)
        return values_BN.view(-1, *shape)

    image_BCHW = view(layout.image_offset, getattr(torch, schema.dtype), schema.image_shape)
    return Fed(batch, image_BCHW, view(layout.height_offset, torch.float32, schema.label_shape))
