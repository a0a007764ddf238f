"""One pass over chips that adds up sums, for the scores of a training and of `evaluate`."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from shards.format.schema import Schema
from shards.read.dataset import Batch
from trainer.data.feed import Fed, feed

Sums = tuple[Tensor, ...]
"""Sums that scores follow from: tensors of any dtype and shape that add up over batches and ranks."""


def add_up(
    sums_of: Callable[[Fed], Sums], batches: Iterable[Batch], schema: Schema, device: torch.device
) -> Sums:
    """Add up the sums of every batch, without gradients. There must be at least one batch."""
    total: Sums = ()
    for fed in feed(batches, schema, device):
        # No inference mode: sharded weights gathered in it could not be trained on.
        with torch.no_grad():
            sums = sums_of(fed)
        total = tuple(map(torch.add, total, sums)) if total else sums
    return total
