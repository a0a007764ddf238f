"""A few of a scene's pixels, spread over the scene, always the same ones.

They are those of an overview, or of small windows: at most SHARE of all pixels, in few of the file's blocks,
because a block is fetched and decoded whole.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.scenes.scene import Scene
from inference.tiling.windows import Block, Span
from shards.format.missing import missing_values

SHARE = 0.005
"""Largest share of the scene's pixels that windows take, for scenes of more than LEAST_PIXELS / SHARE."""
LEAST_PIXELS, MOST_PIXELS = 1024, 65_536
"""Fewest and most pixels of all windows: more would not change a median by much."""
WINDOW_PIXELS, MOST_WINDOWS = 16, 128
"""Least pixels of a window, because neighbours say the same, and most windows: each is a call to GDAL."""
LEAST_BLOCKS, MOST_BLOCKS = 8, 64
DECODED_SHARE, DECODED_PIXELS = 0.01, 1 << 18
"""Blocks of the file that windows lie in: as many as have this share of the scene's pixels, or this many
pixels if these are more, within the limits above."""
LEAST_OF_OVERVIEW, MOST_OF_OVERVIEW = 16_384, 131_072
"""Fewest pixels of an overview that is read, and most, unless it has no more than SHARE of the scene's. The
finest is taken: coarser ones have means of larger areas, where cloud and ground are one."""
STEPS = 0.7548776662466927, 0.5698402909980532
"""Steps of a sequence that fills a square evenly, however long it is: 1/p and 1/p^2 for the plastic number p
(M. Roberts, "The Unreasonable Effectiveness of Quasirandom Sequences", 2018)."""


@dataclass(frozen=True)
class Sample:
    """Pixels of a scene that have all bands."""

    stored_BN: NDArray[Any]
    """Stored numbers of the training's bands, in their order."""
    seen: int
    """Number of pixels that were read, those included of which a band is missing."""
    names: tuple[str, ...]
    """Names of all bands of the file, in its order."""


def overview_sample(scene: Scene) -> Sample | None:
    """Read an overview of an open scene; None if no overview is suitable.

    Raises:
        InputError: its file is damaged.
    """
    shape = overview_shape(scene)
    if shape is None:
        return None
    whole = Block(Span(0, scene.shape[0]), Span(0, scene.shape[1]))
    step = math.ceil(math.prod(shape) / MOST_OF_OVERVIEW)
    return _sample(scene, scene.pixels(whole, shape).reshape(len(scene.schema.bands), -1)[:, ::step])


def windows_sample(scene: Scene) -> Sample:
    """Read windows spread over an open scene.

    Raises:
        InputError: its file is damaged.
    """
    images = [scene.pixels(window) for window in windows(scene.shape, scene.raster.block_shapes[0])]
    return _sample(scene, np.concatenate([image.reshape(len(image), -1) for image in images], axis=1))


def _sample(scene: Scene, stored_BN: NDArray[Any]) -> Sample:
    is_missing_N = missing_values(stored_BN, scene.schema.nodata).any(0)
    return Sample(stored_BN[:, ~is_missing_N], stored_BN.shape[1], scene.names)


def overview_shape(scene: Scene) -> tuple[int, int] | None:
    """Return rows and columns of the overview that is read; None if no overview is suitable."""
    by_band = {tuple(scene.raster.overviews(number)) for number in scene.band_numbers}
    factors = by_band.pop() if len(by_band) == 1 else ()
    shapes = [(math.ceil(scene.shape[0] / by), math.ceil(scene.shape[1] / by)) for by in factors]
    most = max(MOST_OF_OVERVIEW, SHARE * math.prod(scene.shape))
    return max((shape for shape in shapes if LEAST_OF_OVERVIEW <= math.prod(shape) <= most), default=None)


def windows(shape: tuple[int, int], block_shape: tuple[int, int]) -> Iterator[Block]:
    """Place windows over a scene: in blocks spread over it, and spread over each of these.

    Args:
        shape: rows and columns of the scene.
        block_shape: rows and columns of a block of its file.
    """
    rows, columns = shape
    budget = min(max(int(SHARE * rows * columns), LEAST_PIXELS), MOST_PIXELS, rows * columns)
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
        # Other places in each block: with one window a block, all would lie in one column of the scene.
        for row, column in _spread(each, room[0] - size[0] + 1, room[1] - size[1] + 1, number * each):
            first = top + row, left + column
            yield Block(Span(first[0], first[0] + size[0]), Span(first[1], first[1] + size[1]))


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
