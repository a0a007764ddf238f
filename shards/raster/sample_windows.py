"""Small windows of a raster, spread over it and along its edges: always the same ones.

They have at most SHARE of all pixels, in few of the file's blocks, because a block is fetched and decoded
whole.
"""

import math
from collections.abc import Iterator

from rasterio.windows import Window

SHARE = 0.005
"""Largest share of the raster's pixels that windows take, for rasters of more than LEAST_PIXELS / SHARE."""
LEAST_PIXELS, MOST_PIXELS = 1024, 65_536
"""Fewest and most pixels of the windows that are spread: more would not change a median by much."""
WINDOW_PIXELS, MOST_WINDOWS = 16, 128
"""Least pixels of a window, because neighbours say the same, and most windows: each is a call to GDAL."""
LEAST_BLOCKS, MOST_BLOCKS = 8, 64
DECODED_SHARE, DECODED_PIXELS = 0.01, 1 << 18
"""Blocks of the file that windows lie in: as many as have this share of the raster's pixels, or this many
pixels if these are more, within the limits above."""
EACH_EDGE = 6
"""Windows along each edge, one pixel wide and at right angles to it, so that they see how far a wedge
reaches; in the middles of equal parts, where a straight wedge has its mean."""
EDGE_DEPTH, DEEPEST = 1 / 16, 256
"""Share of a side that these windows reach into the raster, and most pixels: about one block of the file."""
STEPS = 0.7548776662466927, 0.5698402909980532
"""Steps of a sequence that fills a square evenly, however long it is: 1/p and 1/p^2 for the plastic number p
(M. Roberts, "The Unreasonable Effectiveness of Quasirandom Sequences", 2018)."""

Shape = tuple[int, int]


def sample_windows(shape: Shape, block_shape: Shape) -> Iterator[Window]:
    """Place windows over a raster: in blocks spread over it, and spread over each of these.

    Args:
        shape: rows and columns of the raster.
        block_shape: rows and columns of a block of its file.
    """
    rows, columns = shape
    at_edges = sum(window.height * window.width for edge, _ in edge_windows(shape) for window in edge)
    share = int(SHARE * rows * columns) - at_edges
    budget = min(max(share, LEAST_PIXELS), MOST_PIXELS, rows * columns)
    high, wide = min(block_shape[0], rows), min(block_shape[1], columns)
    down, across = math.ceil(rows / high), math.ceil(columns / wide)
    decoded = int(max(DECODED_SHARE * rows * columns, DECODED_PIXELS))
    blocks = min(max(decoded // (high * wide), LEAST_BLOCKS), MOST_BLOCKS, down * across)
    each = max(min(MOST_WINDOWS, budget // WINDOW_PIXELS) // blocks, 1)
    area = max(budget // (blocks * each), 1)
    for number, place in enumerate(_spread(blocks, down, across)):
        top, left = place[0] * high, place[1] * wide
        room = min(high, rows - top), min(wide, columns - left)
        side = min(math.isqrt(area), room[0])
        size = side, min(max(area // side, 1), room[1])
        # Other places in each block: with one window a block, all would lie in one column of the raster.
        for row, column in _spread(each, room[0] - size[0] + 1, room[1] - size[1] + 1, number * each):
            yield Window(left + column, top + row, size[1], size[0])


def edge_windows(shape: Shape) -> list[tuple[list[Window], float]]:
    """Place windows at each edge, from it inwards; with the share of the raster's pixels that they stand for.

    Args:
        shape: rows and columns of the raster; none is placed in one of too few.
    """
    rows, columns = shape
    down, across = (min(int(side * EDGE_DEPTH), DEEPEST) for side in shape)
    if not down or not across:
        return []
    at_rows, at_columns = (
        [int(side * (number + 0.5) / EACH_EDGE) for number in range(EACH_EDGE)] for side in shape
    )
    return [
        *(([Window(at, top, 1, down) for at in at_columns], down / rows) for top in (0, rows - down)),
        *(
            ([Window(left, at, across, 1) for at in at_rows], across / columns)
            for left in (0, columns - across)
        ),
    ]


def _spread(count: int, rows: int, columns: int, first: int = 0) -> list[tuple[int, int]]:
    """Return places of a grid that are spread evenly, in reading order; each at most once.

    Another `first` gives other places.
    """
    if count >= rows * columns:
        return [divmod(place, columns) for place in range(rows * columns)]
    found: dict[tuple[int, int], None] = {}
    number = first
    while len(found) < count:
        number += 1
        down, across = ((number * step + 0.5) % 1 for step in STEPS)
        found[int(down * rows), int(across * columns)] = None
    return sorted(found)
