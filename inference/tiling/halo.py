"""Halo of a block: the pixels that its windows need, read or reflected. Knows no regressor."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.tiling.windows import Block, Span, WindowGrid


@dataclass(frozen=True)
class Halo:
    """Stored pixels that a block is computed from, and their place in the scene."""

    image_CHW: NDArray[Any]
    row: int
    """Row of the scene at which the image begins."""
    column: int
    """Column of the scene at which the image begins."""
    scene_shape: tuple[int, int]
    """Rows and columns of the scene."""

    @classmethod
    def from_row(cls, values: dict[str, Any]) -> "Halo":
        """Build the halo whose `to_row` gave `values`; shares the memory of its pixels."""
        image_CHW = np.frombuffer(values["image"], values["dtype"]).reshape(values["shape"])
        rows, columns = values["scene_shape"]
        return cls(image_CHW, values["row"], values["column"], (rows, columns))

    def to_row(self) -> dict[str, Any]:
        """Return plain values by name, as Ray Data carries them."""
        return {
            "image": self.image_CHW.tobytes(),
            "dtype": self.image_CHW.dtype.str,
            "shape": list(self.image_CHW.shape),
            "row": self.row,
            "column": self.column,
            "scene_shape": list(self.scene_shape),
        }

    def reflected(self, stop_row: int, stop_column: int) -> "Halo":
        """Extend the halo by reflection to rows < stop_row and columns < stop_column of the scene."""
        _, height, width = self.image_CHW.shape
        beyond = [max(0, stop_row - self.row - height), max(0, stop_column - self.column - width)]
        if not any(beyond):
            return self
        image_CHW = np.pad(self.image_CHW, ((0, 0), (0, beyond[0]), (0, beyond[1])), mode="reflect")
        return replace(self, image_CHW=image_CHW)

    def place(self, rows: Span, columns: Span) -> tuple[slice, slice]:
        """Locate a rectangle of the scene within the halo."""
        return (
            slice(rows.start - self.row, rows.stop - self.row),
            slice(columns.start - self.column, columns.stop - self.column),
        )


def halo_block(block: Block, grid: WindowGrid, shape: tuple[int, int]) -> Block:
    """Find the pixels to read for `block` of a scene of `shape`."""
    return Block(grid.needed(block.rows, shape[0]), grid.needed(block.columns, shape[1]))
