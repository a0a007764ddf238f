"""A few of a scene's pixels: those of an overview, or of small windows (`shards.raster.sample_windows`)."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from inference.scenes.scene import Scene
from inference.tiling.windows import Block, Span
from shards.format.missing import missing_values
from shards.format.schema import Schema
from shards.raster.filled import SomePixels
from shards.raster.sample_windows import MOST_PIXELS, SHARE, edge_windows, sample_windows

LEAST_OF_OVERVIEW, MOST_OF_OVERVIEW = 16_384, 131_072
"""Fewest pixels of an overview that is read, and most, unless it has no more than SHARE of the scene's. The
finest is taken: coarser ones have means of larger areas, where cloud and ground are one."""


@dataclass(frozen=True)
class Sample:
    """Pixels of a scene that have all bands: stored numbers of the training's bands, in their order."""

    spread: SomePixels
    """Pixels spread over the scene."""
    names: tuple[str, ...]
    """Names of all bands of the file, in its order."""
    edges: tuple[SomePixels, ...] = ()
    """Pixels at its edges, which show what is missing there and no more."""
    are_bytes: bool = False
    """Whether the scene stores bytes, and the training had another type."""

    @property
    def stored_BN(self) -> NDArray[Any]:
        """Stored numbers of the pixels that are spread."""
        return self.spread.stored_BN


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
    pixels_BN = scene.pixels(whole, shape).reshape(len(scene.schema.bands), -1)[:, ::step]
    return Sample(_complete([pixels_BN], scene.schema), scene.names, are_bytes=scene.are_bytes)


def windows_sample(scene: Scene) -> Sample:
    """Read windows spread over an open scene, and along its edges.

    Raises:
        InputError: its file is damaged.
    """
    spread = list(windows(scene.shape, scene.raster.block_shapes[0]))
    at_edges = [(list(map(_block, of_edge)), share) for of_edge, share in edge_windows(scene.shape)]
    groups = [(spread, 1.0), *at_edges]
    sizes = [sum(len(block.rows) * len(block.columns) for block in blocks) for blocks, _ in groups]
    stored_BN = scene.pixels_of([block for blocks, _ in groups for block in blocks])
    parts = np.split(stored_BN, np.cumsum(sizes)[:-1], axis=1)
    first, *others = (
        _complete([part_BN], scene.schema, share) for part_BN, (_, share) in zip(parts, groups, strict=True)
    )
    return Sample(first, scene.names, tuple(others), scene.are_bytes)


def array_sample(image_CHW: NDArray[Any], schema: Schema, are_bytes: bool = False) -> Sample:
    """Take pixels of an array at even steps, so that its edges are among them."""
    step = math.ceil(math.sqrt(image_CHW[0].size / MOST_PIXELS)) or 1
    return Sample(_complete([image_CHW[:, ::step, ::step]], schema), schema.bands, are_bytes=are_bytes)


def _complete(images: Iterable[NDArray[Any]], schema: Schema, share: float = 1.0) -> SomePixels:
    """Keep the pixels that have all bands."""
    stored_BN = np.concatenate([image.reshape(len(image), -1) for image in images], axis=1)
    is_missing_N = missing_values(stored_BN, schema.nodata).any(0)
    return SomePixels(stored_BN[:, ~is_missing_N], stored_BN.shape[1], share)


def overview_shape(scene: Scene) -> tuple[int, int] | None:
    """Return rows and columns of the overview that is read; None if no overview is suitable."""
    by_band = {tuple(scene.raster.overviews(number)) for number in scene.band_numbers}
    factors = by_band.pop() if len(by_band) == 1 else ()
    shapes = [(math.ceil(scene.shape[0] / by), math.ceil(scene.shape[1] / by)) for by in factors]
    most = max(MOST_OF_OVERVIEW, SHARE * math.prod(scene.shape))
    return max((shape for shape in shapes if LEAST_OF_OVERVIEW <= math.prod(shape) <= most), default=None)


def windows(shape: tuple[int, int], block_shape: tuple[int, int]) -> Iterator[Block]:
    """Place the windows that are spread over a scene."""
    return map(_block, sample_windows(shape, block_shape))


def _block(window: Window) -> Block:
    top, left = window.row_off, window.col_off
    return Block(Span(top, top + window.height), Span(left, left + window.width))
