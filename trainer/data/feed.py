"""Batches on their way to the device: a thread reads them, and starts their transfer, ahead of their use.

A batch's stored bytes cross unchanged in one transfer. On the device they become image and height, and the
regressor's first layer normalises them, so the host converts nothing.

    buffers = buffers_for(device)
    batches = dataset.batches(order, batch_size, memory=memory_of(buffers))
    for fed in feed(batches, dataset.schema, device, buffers=buffers):
        fed.image_BCHW, fed.height_BHW

On a GPU rows are gathered straight into the buffers that they are sent from (trainer.data.transfers). On a
CPU the step's own thread reads them and they stay where they are: another thread gains nothing there
(docs/benchmarks.md).
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.format.schema import Schema
from shards.format.tar import row_layout
from shards.read.arena import Memory
from shards.read.dataset import Batch
from shards.read.row_stream import ahead
from trainer.data.transfers import Buffers, Sent, buffers_for

AHEAD = 2
"""Number of batches that wait for their step, on a GPU; one more is being read."""

RowReader = Callable[[Batch, Memory | None], NDArray[np.uint8]]
"""row_reader(batch, memory): read rows that go with a batch, into that memory (None: new memory)."""


@dataclass(frozen=True)
class Fed:
    """A batch whose image and height are on the device."""

    batch: Batch
    """Batch as the reader gave it. If it came through buffers, which others use now, its arrays are empty."""
    image_BCHW: Tensor
    """Image on the device, as stored."""
    height_BHW: Tensor
    """Height on the device, in metres."""
    others_BT: Tensor | None = None
    """Rows on the device that were read beside the batch, such as a store's tokens."""


def feed(
    batches: Iterable[Batch],
    schema: Schema,
    device: torch.device,
    row_reader: RowReader | None = None,
    buffers: Buffers | None = None,
) -> Generator[Fed]:
    """Bring batches to `device`, in the same order.

    On a GPU a thread reads them and starts their transfer ahead of their use. An error that it meets is
    raised here, after the batches before. Training has seen chips up to `fed.batch.start + fed.batch.size`;
    the reader itself may be batches ahead. The thread ends with this generator, also if that is closed early.

    Args:
        batches: the batches.
        schema: format of their chips.
        device: the device.
        beside: reads what goes with a batch, ahead as well.
        buffers: buffers that the batches are gathered into; default: on a GPU ones that they are copied to.
    """
    buffers = buffers or buffers_for(device)
    if buffers is None:
        for batch in batches:
            others_BT = None if row_reader is None else torch.from_numpy(row_reader(batch, None)).to(device)
            yield _fed(batch, torch.from_numpy(batch.rows_BS).to(device), others_BT, schema)
        return
    sent = ahead(_sent(batches, row_reader, buffers), AHEAD)
    with closing(sent):
        for batch, rows, others in sent:
            yield _fed(batch, rows.arrived(), None if others is None else others.arrived(), schema)


def memory_of(buffers: Buffers | None) -> Memory | None:
    """Return the memory that a reader is to gather batches into; None: new memory."""
    return None if buffers is None else buffers.memory


def _sent(
    batches: Iterable[Batch], row_reader: RowReader | None, buffers: Buffers
) -> Iterator[tuple[Batch, Sent, Sent | None]]:
    """Read batches and start their transfers."""
    for_others = Buffers(buffers.link)
    for batch in batches:
        rows = buffers.send(batch.rows_BS)
        others = None if row_reader is None else for_others.send(row_reader(batch, for_others.memory))
        arrays = {name: getattr(batch, name)[:0] for name in ("rows_BS", "image_BCHW", "height_BHW")}
        yield replace(batch, **arrays), rows, others


def _fed(batch: Batch, rows_BS: Tensor, others_BT: Tensor | None, schema: Schema) -> Fed:
    """View a batch's rows as image and height: `shards.format.tar.arrays_of` on any device."""
    layout = row_layout(schema)
    if not len(rows_BS):  # all its shards were left out; such an array of numpy's has no strides to view
        rows_BS = rows_BS.new_empty(rows_BS.shape)

    def view(offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        nbytes = dtype.itemsize * torch.Size(shape).numel()
        values_BN: Tensor = rows_BS[:, offset : offset + nbytes].view(dtype)
        return values_BN.view(len(rows_BS), *shape)

    image_BCHW = view(layout.image_offset, getattr(torch, schema.dtype), schema.image_shape)
    height_BHW = view(layout.height_offset, torch.float32, schema.label_shape)
    return Fed(batch, image_BCHW, height_BHW, others_BT)
