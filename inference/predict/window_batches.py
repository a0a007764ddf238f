"""Windows of a block, predicted in batches of one shape and handed out row by row, in a fixed order.

batches = WindowBatches(predict, maps=1, method=options, device=device)
for start, values_MNSS in batches.rows(ready, axes): ...

A block's pixels go to the device once, and the windows are cut there: one operation for each batch, and one
or two for each row of windows, however many windows a row has.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.predict.map_options import MapOptions
from inference.predict.ready_block import ReadyBlock
from inference.tiling.blend import Axis
from inference.tiling.windows import any_in_windows
from trainer.devices.repeatable import side_by_side
from trainer.devices.transfer import to_device


@dataclass(frozen=True)
class WindowBatches:
    """Predictions of windows, a batch at a time."""

    predict: Callable[[Tensor], Tensor]
    """Function from image_BCHW as stored, on the device, to values_BMSS."""
    maps: int
    """Number of values (M) for each pixel."""
    method: MapOptions
    device: torch.device

    def rows(self, ready: ReadyBlock, axes: tuple[Axis, Axis]) -> Iterator[tuple[int, Tensor]]:
        """Predict row by row: (start, values_MNSS) of each row of windows with a valid pixel.

        Windows without any are 0.
        """
        rows, columns = axes
        size, halo = self.method.grid.size, ready.halo
        row_R, column_K = np.array(rows.starts) - halo.row, np.array(columns.starts) - halo.column
        worth_RK = any_in_windows(ready.valid_HW, row_R, column_K, size)
        row_N, column_N = np.nonzero(worth_RK)
        predicted = self.at(ready, np.stack([row_R[row_N], column_K[column_N]]))
        place_N, met = to_device(column_N, self.device), 0
        batch_BMSS, used = torch.empty(0, self.maps, size, size), 0
        for start, left in zip(rows.starts, worth_RK.sum(1).tolist(), strict=True):
            if left == len(column_K) <= len(batch_BMSS) - used:
                yield start, batch_BMSS[used : used + left].transpose(0, 1)
                used, met, left = used + left, met + left, 0
            elif left:
                of_row_MNSS = torch.zeros(self.maps, len(column_K), size, size, device=self.device)
                while left:
                    if used == len(batch_BMSS):
                        batch_BMSS, used = next(predicted), 0
                    count = min(left, len(batch_BMSS) - used)
                    run_MNSS = batch_BMSS[used : used + count].transpose(0, 1)
                    of_row_MNSS.index_copy_(1, place_N[met : met + count], run_MNSS)
                    used, met, left = used + count, met + count, left - count
                yield start, of_row_MNSS

    def at(self, ready: ReadyBlock, first_2N: NDArray[np.int64]) -> Iterator[Tensor]:
        """Predict the windows with these first rows and columns of the halo, in order, a batch at a time.

        All batches have one shape, the last one filled up with its last window: results differ slightly
        between shapes.
        """
        count, batch_size, size = first_2N.shape[1], self.method.batch_size, self.method.grid.size
        if not count:
            return
        image_CHW = ready.image_CHW.to(self.device, non_blocking=True)
        dtype = image_CHW.dtype
        if dtype == torch.uint16:  # whose elements CUDA cannot pick
            image_CHW = image_CHW.view(torch.int16)
        windows_HWCSS = image_CHW.unfold(1, size, 1).unfold(2, size, 1).permute(1, 2, 0, 3, 4)
        missing = -count % batch_size
        row_N, column_N = to_device(np.pad(first_2N, ((0, 0), (0, missing)), mode="edge"), self.device)

        def predict(start: int) -> Tensor:
            batch = slice(start, start + batch_size)
            image_BCSS = windows_HWCSS[row_N[batch], column_N[batch]].contiguous().view(dtype)
            return self.predict(image_BCSS)[: count - start]

        starts = range(0, count, batch_size)
        if self.device.type == "cpu":
            yield from side_by_side(predict, starts)
        else:
            yield from map(predict, starts)


def mean_of(values: Sequence[Tensor]) -> Tensor:
    """Average tensors of one shape, adding them in order."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total / len(values)
