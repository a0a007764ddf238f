"""Chips as an iterable of PyTorch, for other people's training loops.

for batch in DataLoader(TorchChips(dataset, order, 64), batch_size=None, num_workers=2):
    batch["image"], batch["height"]
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from shards.errors import InputError
from shards.read.dataset import Dataset, open_dataset
from shards.read.order import Chips, Part


class TorchChips(IterableDataset[dict[str, Tensor]]):
    """Batches of stored pixels: image (B, bands, rows, columns), height (B, rows, columns), chip (B).

    Batches and their order do not depend on the number of the DataLoader's workers: each reads every n-th.
    "height" is in metres, or another label in its unit, and is missing where chips have no label. "chip" has
    the chips' numbers. A worker opens the dataset anew, so that processes share no state.
    """

    def __init__(self, dataset: Dataset, order: Chips, batch_size: int, part: Part = Part()) -> None:
        """Take the chips of `order`, `batch_size` at a time, of which this process reads `part`."""
        if batch_size < 1:
            raise InputError(f"batches of {batch_size} chips: give 1 or more")
        self._url, self._options = dataset.url, dataset.options
        self._fingerprint = dataset.manifest.fingerprint
        self._order, self._batch_size, self._part = order, batch_size, part

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self._order.size // self._batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Read the batches of this worker.

        Raises:
            InputError: the dataset has changed since it was opened.
        """
        dataset, worker = open_dataset(self._url, self._options), get_worker_info()
        if dataset.manifest.fingerprint != self._fingerprint:
            raise InputError(f"{self._url}: has changed since it was opened; open it again")
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        size = self._batch_size
        own = [self._order[start * size :][:size] for start in range(number, len(self), workers)]
        # Only the last batch of all may be short, and it is the last one of its worker.
        order = np.concatenate([self._order[:0], *own])
        for batch in dataset.batches(order, size, self._part):
            # Copies, since a worker sends the memory behind a tensor whole, and both are views of one.
            tensors = {
                "image": torch.from_numpy(np.ascontiguousarray(batch.image_BCHW)),
                "chip": torch.from_numpy(batch.chips.astype(np.int64)),
            }
            if dataset.schema.label:
                tensors["height"] = torch.from_numpy(np.ascontiguousarray(batch.height_BHW))
            yield tensors
