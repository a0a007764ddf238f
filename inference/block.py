"""Predicts one block: windows of the scene's global grid, weighted and summed in a fixed order.

Every pixel of the map is computed from the same windows, in the same order, in batches of the same shape,
however the scene was cut and whoever computes: the same bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference.windows import Block, Span, WindowGrid
from trainer.model import Regressor

NODATA = -9999
DECIMETRES = 10.0


def triangle(size: int) -> NDArray[np.float32]:
    """(size,) weights that rise and fall linearly between the ends, never 0: SciPy's `windows.triang`."""
    half = (size + size % 2) / 2
    weights: NDArray[np.float32] = (1 - np.abs(np.arange(size) - (size - 1) / 2) / half).astype(np.float32)
    return weights


@dataclass(frozen=True)
class Halo:
    """What a block is computed from: stored pixels (bands, rows, columns) and where in the scene they are."""

    image_CHW: NDArray[Any]
    row: int
    column: int
    scene_shape: tuple[int, int]

    def reflected(self, stop_row: int, stop_column: int) -> "Halo":
        """Filled up by reflection to rows < stop_row and columns < stop_column of the scene."""
        _, height, width = self.image_CHW.shape
        beyond = [max(0, stop_row - self.row - height), max(0, stop_column - self.column - width)]
        if not any(beyond):
            return self
        image_CHW = np.pad(self.image_CHW, ((0, 0), (0, beyond[0]), (0, beyond[1])), mode="reflect")
        return replace(self, image_CHW=image_CHW)

    def place(self, rows: Span, columns: Span) -> tuple[slice, slice]:
        """Where a rectangle of the scene is within the halo."""
        return (
            slice(rows.start - self.row, rows.stop - self.row),
            slice(columns.start - self.column, columns.stop - self.column),
        )


def halo_spans(block: Block, grid: WindowGrid, shape: tuple[int, int]) -> tuple[Span, Span]:
    """Rows and columns to read for `block` of a scene of `shape`."""
    return grid.needed(block.rows, shape[0]), grid.needed(block.columns, shape[1])


def predict_block(
    regressor: Regressor, block: Block, halo: Halo, grid: WindowGrid, batch_size: int
) -> NDArray[np.int16]:
    """The block's map: decimetres, not below 0, -9999 where a used band has no measurement.

    Windows without a valid pixel are not computed.
    """
    row_starts, column_starts = (
        grid.starts(span, length)
        for span, length in zip((block.rows, block.columns), halo.scene_shape, strict=True)
    )
    windows = [(row, column) for row in row_starts for column in column_starts]
    halo = halo.reflected(windows[-1][0] + grid.size, windows[-1][1] + grid.size)
    valid_HW = _valid(regressor, halo)
    weight_HW = np.outer(triangle(grid.size), triangle(grid.size))
    shape = len(block.rows), len(block.columns)
    total_HW, weights_HW = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    places = {(row, column): halo.place(grid.span(row), grid.span(column)) for row, column in windows}
    worth = {window: place for window, place in places.items() if valid_HW[place].any()}
    for (row, column), height_HW in _heights(regressor, worth, halo, batch_size):
        rows, window_rows = _common(block.rows, row, grid.size)
        columns, window_columns = _common(block.columns, column, grid.size)
        part_HW = weight_HW[window_rows, window_columns]
        total_HW[rows, columns] += part_HW * height_HW[window_rows, window_columns]
        weights_HW[rows, columns] += part_HW
    own_valid_HW = valid_HW[halo.place(block.rows, block.columns)]
    if (own_valid_HW & (weights_HW == 0)).any():
        raise AssertionError(f"{block}: a valid pixel was covered by no window")
    return _decimetres(total_HW, weights_HW, own_valid_HW)


def _valid(regressor: Regressor, halo: Halo) -> NDArray[np.bool_]:
    """Where no used band of the halo is without a measurement."""
    device = next(regressor.parameters()).device
    _, valid_BHW = regressor.normalise(
        torch.from_numpy(np.ascontiguousarray(halo.image_CHW[None])).to(device)
    )
    valid_HW: NDArray[np.bool_] = valid_BHW[0].cpu().numpy()
    return valid_HW


def _heights(
    regressor: Regressor, places: dict[tuple[int, int], tuple[slice, slice]], halo: Halo, batch_size: int
) -> Iterator[tuple[tuple[int, int], NDArray[np.float32]]]:
    """Metres (size, size) of each window, in order."""
    device = next(regressor.parameters()).device
    windows = list(places)
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size]
        images = [halo.image_CHW[:, *places[window]] for window in batch]
        # One shape for all batches, the last one filled up: results differ, if little, between shapes.
        image_BCHW = np.zeros((batch_size, *images[0].shape), halo.image_CHW.dtype)
        image_BCHW[: len(images)] = images
        height_BHW, _ = regressor.predict(torch.from_numpy(image_BCHW).to(device))
        yield from zip(batch, height_BHW.cpu().numpy(), strict=False)


def _common(span: Span, start: int, size: int) -> tuple[slice, slice]:
    """Where a window that starts at `start` meets `span`: within the span, and within the window."""
    first, stop = max(span.start, start), min(span.stop, start + size)
    return slice(first - span.start, stop - span.start), slice(first - start, stop - start)


def _decimetres(
    total_HW: NDArray[np.float32], weights_HW: NDArray[np.float32], valid_HW: NDArray[np.bool_]
) -> NDArray[np.int16]:
    metres_HW = np.divide(total_HW, weights_HW, out=np.zeros_like(total_HW), where=weights_HW > 0)
    decimetres_HW = np.rint(np.clip(metres_HW * DECIMETRES, 0, np.iinfo(np.int16).max))
    return np.where(valid_HW, decimetres_HW, NODATA).astype(np.int16)
