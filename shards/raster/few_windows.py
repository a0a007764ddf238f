"""A few windows, evenly spread over a rectangle of pixels, to see what its values are like."""

import math
from collections.abc import Iterator

from rasterio.windows import Window

WINDOW_PX = 64
"""Side of a window."""


def few_windows(reach: tuple[int, int, int, int], count: int) -> Iterator[Window]:
    """Place at most `count` windows in a rectangle (top, left, bottom, right), row after row."""
    top, left, bottom, right = reach
    rows, columns = min(WINDOW_PX, bottom - top), min(WINDOW_PX, right - left)
    if min(rows, columns) < 1:
        return
    down = min(max(math.isqrt(count), 1), math.ceil((bottom - top) / rows))
    across = min(max(count // down, 1), math.ceil((right - left) / columns))
    for row in _evenly(top, bottom - rows, down):
        for column in _evenly(left, right - columns, across):
            yield Window(column, row, columns, rows)


def _evenly(first: int, last: int, count: int) -> list[int]:
    """Return `count` whole numbers from first to last, or fewer where these are near; the middle for one."""
    if count == 1:
        return [(first + last) // 2]
    return sorted({round(first + (last - first) * step / (count - 1)) for step in range(count)})
