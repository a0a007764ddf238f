"""Blocks that one task predicts, and windows that the regressor computes. Pure functions of sizes in pixels.

Windows start at every multiple of the step, from the scene's first pixel until its last pixel is covered.
Blocks do not move them, so the same windows cover a pixel however the scene is cut. Along an axis of 150
pixels, windows of 64 at half overlap start at 0, 32, 64, 96; the last one reaches 10 pixels beyond the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from shards.errors import InputError


@dataclass(frozen=True)
class Span:
    """Pixels start, ..., stop - 1 along one axis."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Block:
    """Rectangle of pixels of a scene, a map or a grid."""

    rows: Span
    columns: Span

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return len(self.rows) * len(self.columns)

    @property
    def window(self) -> Window:
        """Window with which rasterio reads and writes the block."""
        return Window(self.columns.start, self.rows.start, len(self.columns), len(self.rows))


@dataclass(frozen=True)
class WindowGrid:
    """Windows of `size` pixels a side, one every `step` pixels."""

    size: int
    step: int

    @classmethod
    def with_overlap(cls, size: int, overlap: float, patch_size: int) -> "WindowGrid":
        """Place windows so that each overlaps the next by a share `overlap` of its size.

        Raises:
            InputError: the size is not a multiple of the patch, or the overlap is out of range.
        """
        if size <= 0 or size % patch_size:
            raise InputError(
                f"--window {size}: must be a multiple of the backbone's patches of {patch_size} pixels"
            )
        if not 0 <= overlap <= 0.75:
            raise InputError(f"--overlap {overlap}: must be 0 to 0.75")
        return cls(size, max(1, round(size * (1 - overlap))))

    def span(self, start: int) -> Span:
        """Return the pixels of the window that starts at `start`."""
        return Span(start, start + self.size)

    def starts(self, wanted: Span, length: int) -> range:
        """Find the first pixels of the windows that touch `wanted`, on an axis of `length` pixels."""
        first = max(0, (wanted.start - self.size) // self.step + 1)
        last = max(0, -(-(length - self.size) // self.step))
        return range(first * self.step, min(wanted.stop, last * self.step + 1), self.step)

    def needed(self, wanted: Span, length: int) -> Span:
        """Find the pixels to read, on an axis of `length`, for the windows that touch `wanted`.

        Reflection fills a window that reaches beyond the end; its source may lie before that window.
        """
        starts = self.starts(wanted, length)
        stop = starts[-1] + self.size
        start = starts[0] if stop <= length else min(starts[0], max(0, length - self.size))
        return Span(start, min(stop, length))


def blocks_of(height: int, width: int, size: int) -> Iterator[Block]:
    """Cover a scene with disjoint blocks of at most `size` pixels a side, row by row."""
    for row in range(0, height, size):
        for column in range(0, width, size):
            rows = Span(row, min(row + size, height))
            yield Block(rows, Span(column, min(column + size, width)))


def any_in_windows(
    wanted_HW: NDArray[np.bool_], row_R: NDArray[np.int64], column_K: NDArray[np.int64], size: int
) -> NDArray[np.bool_]:
    """Tell which windows have a wanted pixel: any_RK, for windows with these first rows and columns."""
    # Rows of windows first, then columns: as many reductions as both have, not one for each window.
    any_RW = np.stack([wanted_HW[row : row + size].any(0) for row in row_R])
    return np.stack([any_RW[:, column : column + size].any(1) for column in column_K], 1)
