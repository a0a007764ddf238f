"""What a block is computed from: the pixels of its windows, read or reflected; knows no regressor."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.windows import Block, Span, WindowGrid


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
