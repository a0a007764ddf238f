"""One pass over chips that adds up what each batch gives: for scores of a training and of `evaluate`."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from shards.format.schema import Schema
from shards.read.dataset import Batch
from trainer.data.feed import Fed, feed

Sums = tuple[Tensor, ...]
"""What a score is made of: tensors that add up over batches and ranks, each with its own dtype and shape."""


def add_up(
    sums_of: Callable[[Fed], Sums], batches: Iterable[Batch], schema: Schema, device: torch.device
) -> Sums:
    """Add up the sums of every batch, without gradients. There must be a batch."""
    total: Sums = ()
    for fed in feed(batches, schema, device):
        # No inference mode: where weights are sharded, what it gathers could not be trained on.
        with torch.no_grad():
            of_batch = sums_of(fed)
        total = tuple(map(torch.add, total, of_batch)) if total else of_batch
    return total
