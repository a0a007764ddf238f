"""What is strange about images, before any chip is made of them: their grids, their bands, their pixels."""

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from ingest.config import ScenesConfig
from ingest.scenes.image_grid import open_image, source_of
from shards.errors import InputError
from shards.format.schema import Schema
from shards.raster.band_names import ALPHA, band_names, named_bands, numbers_of_bands
from shards.raster.few_windows import few_windows
from shards.raster.filled import SomePixels, filled_by
from shards.raster.finding import Finding
from shards.raster.grid import Grid
from shards.raster.missing import Missing
from shards.raster.on_grid import read_on_grid
from shards.raster.opening import HEADERS, open_raster
from shards.raster.pixel_size import PixelSize, angle_of, suitable_crs
from shards.raster.sample_windows import edge_windows, sample_windows

WINDOWS = 25
"""Windows of a band that may be alpha."""
MOST_IMAGES = 256
"""Most images of which pixels are read, evenly spread over all."""
OPAQUE = (0, 255)
"""Values of an alpha band of bytes, where no pixel is half transparent."""


def image_findings(
    config: ScenesConfig, schema: Schema, grids: Mapping[str, Grid]
) -> dict[str, list[Finding]]:
    """Find what is strange about images, given the grid of each by URL."""
    found = {url: _of_grid(grid) for url, grid in grids.items()}
    urls = list(grids)
    looked_at = urls[:: math.ceil(len(urls) / MOST_IMAGES) or 1]
    with ThreadPoolExecutor(HEADERS) as pool:
        assumed = pool.map(partial(_assumed_names, config, schema), urls)
        filled = dict(zip(looked_at, pool.map(partial(_filled, config, schema), looked_at), strict=True))
        for url, names in zip(urls, assumed, strict=True):
            found[url] += [*names, *filled.get(url, ())]
    for url in urls[:1]:
        found[url] += _alpha_as_band(config, schema, url)
    return found


def _assumed_names(config: ScenesConfig, schema: Schema, url: str) -> tuple[Finding, ...]:
    """Find that names of bands are taken for granted."""
    if config.bands:
        return ()
    with open_raster(url) as raster:
        return named_bands(raster, config.bands, schema.bands).findings()


def _filled(config: ScenesConfig, schema: Schema, url: str) -> tuple[Finding, ...]:
    """Find a value that stands for nothing and that nobody declares, in a few windows of the image's pixels.

    A damaged file is named where its chips are read.
    """
    with open_raster(url) as raster:
        names = band_names(raster, config.bands, schema.bands)
        marks = Missing.of(raster, numbers_of_bands(url, names, schema.bands), config.nodata)

        def pixels(windows: Iterable[Window], share: float = 1.0) -> SomePixels:
            parts = [[values.reshape(len(values), -1) for values in marks.read(window)] for window in windows]
            stored_BN, missing_BN = (np.concatenate(values, axis=1) for values in zip(*parts, strict=True))
            return SomePixels(stored_BN[:, ~missing_BN.any(0)], stored_BN.shape[1], share)

        try:
            spread = pixels(sample_windows(raster.shape, raster.block_shapes[0]))
            filled = filled_by(spread, tuple(pixels(*edge) for edge in edge_windows(raster.shape)))
        except InputError:
            return ()
    return (filled[1],) if filled else ()


def _of_grid(grid: Grid) -> list[Finding]:
    found, size = list[Finding](), PixelSize.of(grid)
    if size.is_oblong:
        crs = f"--crs {suitable_crs(grid)} --pixel-size METRES" if grid.crs.is_geographic else "--pixel-size"
        found.append(Finding("oblong", f"pixels are oblong, {size}", f"{crs} makes them square"))
    if angle_of(grid) % 90:
        line = f"the grid is turned by {angle_of(grid):.3g} degrees, and chips are, too"
        found.append(Finding("turned", line, "--pixel-size or --crs makes it upright"))
    return found


def _alpha_as_band(config: ScenesConfig, schema: Schema, url: str) -> list[Finding]:
    """Find that a band that only marks pixels is taken for a measured one: GDAL calls a fourth byte alpha."""
    with ExitStack() as opened:
        image = open_image(config, url, opened)
        names, kinds = band_names(source_of(image), config.bands, schema.bands), image.colorinterp
        places = [
            place
            for place, (name, kind) in enumerate(zip(names, kinds, strict=False))
            if kind == ColorInterp.alpha and name != ALPHA and name in schema.bands
        ]
        if config.bands or image.dtypes[0] != "uint8" or not places:
            return []
        windows = few_windows((0, 0, *image.shape), WINDOWS)
        seen = [read_on_grid(image, places[0] + 1, window) for window in windows]
        if not np.isin(np.concatenate([part.ravel() for part in seen]), OPAQUE).all():
            return []
    others = " ".join(name for place, name in enumerate(names) if place != places[0])
    line = f"band {places[0] + 1}, taken as {names[places[0]]}, has only 0 and 255; is it alpha?"
    cure = f"if so, name the other bands (--bands {others}), if not all ({' '.join(names)})"
    return [Finding("alpha", line, cure, is_gross=True)]
