"""One pass over chips that adds up sums, for the scores of a training and of `evaluate`.

Sums stay on the device until the pass is over. Where they are exact (trainer.devices.exact_sums), scores are
the same bytes for any order of chips, batches and number of ranks, as far as the predictions are.
"""

from collections.abc import Callable, Iterable
from contextlib import closing

import torch
from torch import Tensor

from shards.format.schema import Schema
from shards.read.dataset import Batch
from trainer.data.feed import Fed, RowReader, feed
from trainer.data.transfers import Buffers
from trainer.score.exact_totals import rounded

Sums = tuple[Tensor, ...]
"""Sums that scores follow from: tensors of any dtype and shape that add up over batches and ranks."""


def add_up(
    sums_of: Callable[[Fed], Sums],
    batches: Iterable[Batch],
    schema: Schema,
    device: torch.device,
    row_reader: RowReader | None = None,
    buffers: Buffers | None = None,
) -> Sums:
    """Add up the sums of every batch, without gradients; the totals come to the CPU in the end.

    There must be at least one batch. All but `sums_of` is as for trainer.data.feed.
    """
    total: Sums = ()
    with closing(feed(batches, schema, device, row_reader, buffers)) as all_fed:
        for fed in all_fed:
            # No inference mode: sharded weights gathered in it could not be trained on.
            with torch.no_grad():
                sums = sums_of(fed)
            total = tuple(map(torch.add, total, sums)) if total else sums
    return tuple(one.cpu() for one in total)


def rounded_totals(sums_XL: Tensor) -> Tensor:
    """Return the totals of exact sums that are on the CPU, in float64."""
    return torch.from_numpy(rounded(sums_XL.numpy()))
