"""Windows of a block, predicted in batches of one shape and handed out row by row, in a fixed order.

batches = WindowBatches(predict, maps=1, method=options, device=device)
for start, values_MNSS in batches.rows(halo, valid_HW, axes): ...
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.predict.map_options import MapOptions
from inference.tiling.blend import Axis
from inference.tiling.halo import Halo
from trainer.devices.repeatable import side_by_side

Place = tuple[slice, slice]
"""Rows and columns of a window within a halo."""


@dataclass(frozen=True)
class WindowBatches:
    """Predictions of windows, a batch at a time."""

    predict: Callable[[Tensor], Tensor]
    """Function from image_BCHW as stored, on the device, to values_BMSS."""
    maps: int
    """Number of values (M) for each pixel."""
    method: MapOptions
    device: torch.device

    def rows(
        self, halo: Halo, valid_HW: NDArray[np.bool_], axes: tuple[Axis, Axis]
    ) -> Iterator[tuple[int, Tensor]]:
        """Predict row by row: (start, values_MNSS) of each row of windows with a valid pixel.

        Windows without any are 0.
        """
        rows, columns = axes
        size = self.method.grid.size
        places = {
            (row, column): halo.place(self.method.grid.span(row), self.method.grid.span(column))
            for row in rows.starts
            for column in columns.starts
        }
        worth = {window: place for window, place in places.items() if valid_HW[place].any()}
        predicted = self.of_places(list(worth.values()), halo)
        batch_BMSS, used = torch.empty(0, self.maps, size, size), 0
        for row in sorted({row for row, _ in worth}):
            of_row_MNSS = torch.zeros(self.maps, len(columns.starts), size, size, device=self.device)
            for number, column in enumerate(columns.starts):
                if (row, column) not in worth:
                    continue
                if used == len(batch_BMSS):
                    batch_BMSS, used = next(predicted), 0
                of_row_MNSS[:, number] = batch_BMSS[used]
                used += 1
            yield row, of_row_MNSS

    def of_places(self, places: Sequence[Place], halo: Halo, fill: bool = False) -> Iterator[Tensor]:
        """Predict the windows at these places of the halo, in order, a batch at a time.

        All batches have one shape, the last one filled up: results differ slightly between shapes.

        Args:
            places: the windows.
            halo: the pixels.
            fill: whether windows of the batch fill it up, and not zeros.
        """
        batch_size = self.method.batch_size

        def predict(start: int) -> Tensor:
            batch = places[start : start + batch_size]
            shape = batch_size, len(halo.image_CHW), self.method.grid.size, self.method.grid.size
            image_BCHW = np.zeros(shape, halo.image_CHW.dtype)
            for number, place in enumerate(batch):
                image_BCHW[number] = halo.image_CHW[:, *place]
            if fill:
                image_BCHW[len(batch) :] = image_BCHW[0]
            return self.predict(torch.from_numpy(image_BCHW).to(self.device))[: len(batch)]

        starts = range(0, len(places), batch_size)
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
