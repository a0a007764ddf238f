"""A reader of chips, epoch after epoch, that can be stopped and resumed.

reader = ChipReader(dataset, chips, batch_size=64, seed=0, part=Part(rank, world_size))
for batch in reader.epoch():
    batch.image_BCHW, batch.height_BHW
    reader.state                            # what `reader.restore` needs to continue with the next batch
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.read.arena import Memory
from shards.read.dataset import Batch, Dataset
from shards.read.order import Chips, Part, RaggedEnd
from shards.read.reader_state import ReaderState
from shards.read.row_stream import ahead
from shards.storage.checksum import checksum


class ChipReader:
    """Reads chips epoch after epoch, and resumes where it was stopped.

    The global batches and their order are the same for any number of ranks; each rank reads its part of them.
    """

    def __init__(
        self,
        dataset: Dataset,
        chips: Chips,
        batch_size: int,
        seed: int = 0,
        part: Part = Part(),
        weights: NDArray[np.float64] | None = None,
        ragged: RaggedEnd = "keep",
    ) -> None:
        """Start at the first chip of epoch 0.

        Args:
            dataset: the dataset that holds the chips.
            chips: chips from `dataset.chips`.
            batch_size: chips in a global batch, over all ranks.
            seed: seed of the order.
            part: part of every global batch that this process reads.
            weights: (chips,) relative frequency of each chip; default: each once an epoch.
            ragged: whether a last, short batch is kept.
        """
        self._dataset, self._chips, self._batch_size = dataset, chips, batch_size
        self._part, self._weights, self._ragged = part, weights, ragged
        chosen = chips.astype("<i8").tobytes() + (b"" if weights is None else weights.astype("<f8").tobytes())
        fingerprint = f"{dataset.manifest.fingerprint}-{checksum(chosen):016x}"
        self.state = ReaderState(epoch=0, seen=0, seed=seed, fingerprint=fingerprint)
        """Position after the batch that was yielded last."""

    def restore(self, state: ReaderState) -> None:
        """Resume from `state`, which may come from another number of ranks or batch size.

        Raises:
            InputError: the state belongs to another dataset or another choice of chips.
        """
        if state.fingerprint != self.state.fingerprint:
            raise InputError(
                f"{self._dataset.url}: the reader was stopped on other chips ({state.fingerprint}, here "
                f"{self.state.fingerprint}); give the same dataset, selection and limit"
            )
        self.state = state

    def epoch(self, batches_ahead: int = 0, memory: Memory | None = None) -> Iterator[Batch]:
        """Yield the remaining batches of the present epoch; the state then moves to the next epoch.

        A thread makes up to `batches_ahead` batches before they are asked for. A batch of 64 from shards in
        memory takes 0.2 ms, less than passing it between threads: reading alone does not need the thread.
        With `memory`, each batch's rows go to the memory that it gives, and last as long as that does.
        """
        state = self.state
        order = self.order(state.epoch)
        dataset, part = self._dataset, self._part
        batches = dataset.batches(order, self._batch_size, part, state.seen, self._ragged, memory)
        for batch in ahead(batches, batches_ahead) if batches_ahead else batches:
            self.state = replace(state, seen=batch.start + batch.size)
            yield batch
        self.state = replace(state, epoch=state.epoch + 1, seen=0)

    def order(self, epoch: int) -> Chips:
        """Return all chips of `epoch`, in order, over all ranks."""
        return self._dataset.epoch(self._chips, self.state.seed, epoch, self._weights)
