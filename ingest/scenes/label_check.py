"""What is strange about the heights that images get, before any chip is made of them.

Headers are known when candidates are listed. Of the heights a few windows are read on the images' own grids,
as they would be learned from: converted to metres, minus the ground.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ingest.chips.check import Rejected
from ingest.config import ScenesConfig
from ingest.scenes.image_grid import open_image
from ingest.scenes.scene_matching import Serving
from ingest.scenes.scene_table import SceneImage
from ingest.scenes.strips import height_layers, merged
from shards.format.histogram import HEIGHT
from shards.format.schema import Schema
from shards.raster.few_windows import few_windows
from shards.raster.finding import Finding, Found
from shards.raster.footprints import Placed
from shards.raster.height_check import HeightHeader, band_of, height_findings, surface_findings

WINDOWS, LEAST_WINDOWS = 25, 4
"""Windows that are read of all height rasters together, and of each at least."""
MOST_PAIRS = 256
"""Most pairs of an image and a height raster of which values are read, evenly spread over all."""


def are_heights(config: ScenesConfig) -> bool:
    """Tell whether labels are heights in metres, and not another quantity or a class."""
    is_metre = config.label_unit == Schema.label_unit
    return bool(config.heights) and config.label == HEIGHT and is_metre and not config.class_names


def header_reader(config: ScenesConfig) -> Callable[[str, Any], HeightHeader | None]:
    """Make the function that reads the header of each raster of --heights and --ground.

    It returns None where labels are no heights in metres: then units and values may be any.
    """

    def read(url: str, raster: Any) -> HeightHeader | None:
        if are_heights(config):
            return HeightHeader.read(url, raster, config.height_band, config.height_unit)
        band_of(url, raster, config.height_band)
        return None

    return read


def header_findings(
    taken: list[tuple[SceneImage, Serving]], headers: Mapping[str, HeightHeader | None]
) -> Found:
    """Find what headers of heights and ground say that the user should know, once for each raster."""
    found: dict[str, Sequence[Finding]] = {}
    for image, serving in taken:
        for url, *_ in (*serving.heights, *serving.ground):
            header = headers[url]
            if header is not None and url not in found:
                found[url] = header.findings(image.grid)
    return found


def label_findings(
    config: ScenesConfig,
    schema: Schema,
    taken: list[tuple[SceneImage, Serving]],
    headers: Mapping[str, HeightHeader | None],
) -> Found:
    """Read a few windows of the heights, and find what is strange about them.

    Raises:
        OSError: a remote raster cannot be read.
    """
    pairs = [(image, serving, placed) for image, serving in taken for placed in serving.heights]
    pairs = pairs[:: math.ceil(len(pairs) / MOST_PAIRS) or 1]
    seen: dict[str, list[_Values]] = {}
    each = max(LEAST_WINDOWS, WINDOWS // max(len(pairs), 1))
    for image, serving, placed in pairs:
        for part in _read(config, schema, image.url, serving, placed, each):
            seen.setdefault(placed.url, []).append(part)
    return {url: _judged(headers, url, parts) for url, parts in seen.items()}


class _Values(NamedTuple):
    """Values of a raster in metres, and those of the ground below."""

    height_N: NDArray[Any]
    ground_N: NDArray[Any]
    """Empty without --ground."""
    ground: str
    """URL of the ground's raster; "" without."""


def _read(
    config: ScenesConfig, schema: Schema, url: str, serving: Serving, placed: Placed, count: int
) -> Iterator[_Values]:
    """Read the values of one raster in some windows of the image that it reaches."""
    number = serving.heights.index(placed)
    ground = serving.ground[0].url if serving.ground else ""
    with ExitStack() as opened:
        try:
            layers = height_layers(config, schema, open_image(config, url, opened), serving)
            for layer in layers:
                opened.callback(layer.close)
            for window in few_windows(placed[1:], count):
                height_HW, number_HW = merged(layers[0], window)
                ground_HW = merged(layers[1], window)[0] if ground else np.zeros_like(height_HW)
                own_HW = (number_HW == number) & ~np.isnan(ground_HW)
                yield _Values(height_HW[own_HW], ground_HW[own_HW], ground)
        except Rejected:  # a damaged file is named where its chips are read
            return


def _judged(
    headers: Mapping[str, HeightHeader | None], url: str, parts: list[_Values]
) -> tuple[Finding, ...]:
    header, ground = headers[url], parts[0].ground
    if header is None:
        return ()
    height_N = np.concatenate([part.height_N for part in parts])
    if not (of_ground := headers.get(ground)):
        return height_findings(height_N, header)
    return surface_findings(height_N, header, np.concatenate([part.ground_N for part in parts]), of_ground)
