"""Overlapping windows blended: each pixel is a weighted mean of its windows, summed in a fixed order.

Rows of windows are added one by one; within a row, first every p-th window, then the neighbours of those,
and so on. The windows of one such phase do not overlap. Whatever part of the scene is computed, a pixel's
sum has the same terms in the same order, and each operation is rounded by itself. So the bits are the same
however the scene is cut.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.config import Weighting
from inference.tiling.windows import Block, Span, WindowGrid


def window_weights(kind: Weighting, size: int) -> NDArray[np.float32]:
    """Compute (size,) weights in (0, 1] along one side of a window; a pixel's weight is the product of two.

    "triangle" rises and falls linearly, like SciPy's `windows.triang`. "cosine" is half a period of a sine,
    like SciPy's `windows.cosine`. "flat" is 1 everywhere.
    """
    if kind == "flat":
        return np.ones(size, np.float32)
    if kind == "cosine":
        return np.sin(np.pi * (np.arange(size) + 0.5) / size).astype(np.float32)
    half = (size + size % 2) / 2
    weights: NDArray[np.float32] = (1 - np.abs(np.arange(size) - (size - 1) / 2) / half).astype(np.float32)
    return weights


@dataclass(frozen=True)
class Axis:
    """Windows that touch a span of a scene's rows or columns."""

    wanted: Span
    starts: range
    grid: WindowGrid

    @property
    def stop(self) -> int:
        """End of the last window."""
        return self.starts[-1] + self.grid.size

    @property
    def phases(self) -> int:
        """Number of phases: windows this many apart do not overlap."""
        return -(-self.grid.size // self.grid.step)

    def total(self, weights_S: NDArray[Any]) -> NDArray[Any]:
        """Sum the weights of all windows at each wanted pixel: (len(wanted),)."""
        total = np.zeros(self.stop - self.starts[0], weights_S.dtype)
        for start in self.starts:
            first = start - self.starts[0]
            total[first : first + self.grid.size] += weights_S
        first = self.wanted.start - self.starts[0]
        return total[first : first + len(self.wanted)]


def axes_of(block: Block, grid: WindowGrid, scene_shape: tuple[int, int]) -> tuple[Axis, Axis]:
    """Return the windows that touch a block's rows, and its columns, in a scene of this shape."""
    rows, columns = (
        Axis(span, grid.starts(span, length), grid)
        for span, length in zip((block.rows, block.columns), scene_shape, strict=True)
    )
    return rows, columns


class Blend:
    """Weighted means over the windows of a block. Add rows of windows from the first to the last."""

    def __init__(
        self,
        rows: Axis,
        columns: Axis,
        weighting: Weighting,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._rows, self._columns = rows, columns
        self._weights = window_weights(weighting, rows.grid.size)
        weights_S = torch.from_numpy(self._weights).to(device, dtype)
        self._weights_SS = weights_S[:, None] * weights_S
        # Room for the gap that follows the last window of a phase.
        width = columns.stop - columns.starts[0] + columns.phases * columns.grid.step
        self._total_HW = torch.zeros(rows.stop - rows.starts[0], width, device=device, dtype=dtype)

    def add(self, start: int, values_NSS: Tensor) -> None:
        """Add the row of windows that starts at row `start`, one window for each start of the columns."""
        size, step = self._columns.grid.size, self._columns.grid.step
        first = start - self._rows.starts[0]
        strip_SW = self._total_HW[first : first + size]
        weighted_NSS = values_NSS.to(strip_SW.dtype) * self._weights_SS
        pitch = self._columns.phases * step
        for phase in range(self._columns.phases):
            # A window's number in the scene, not in the block, decides its phase.
            skipped = (phase - self._columns.starts[0] // step) % self._columns.phases
            of_phase_NSS = weighted_NSS[skipped :: self._columns.phases]
            stop = skipped * step + len(of_phase_NSS) * pitch
            if len(of_phase_NSS):
                places_SNP = strip_SW[:, skipped * step : stop].view(size, -1, pitch)
                places_SNP[:, :, :size] += of_phase_NSS.transpose(0, 1)

    def mean(self) -> Tensor:
        """Compute the weighted mean of the added windows at each wanted pixel: (rows, columns)."""
        rows, columns = self._rows, self._columns
        top, left = rows.wanted.start - rows.starts[0], columns.wanted.start - columns.starts[0]
        total_HW = self._total_HW[top : top + len(rows.wanted), left : left + len(columns.wanted)]
        weights_S = self._weights.astype(np.float64 if total_HW.dtype == torch.float64 else np.float32)
        of_rows, of_columns = (axis.total(weights_S) for axis in (rows, columns))
        if not (of_rows.all() and of_columns.all()):
            raise AssertionError(f"{rows} {columns}: a pixel is covered by no window")
        of_rows_H, of_columns_W = (
            torch.from_numpy(total).to(total_HW.device) for total in (of_rows, of_columns)
        )
        return total_HW / (of_rows_H[:, None] * of_columns_W)
