"""What is strange about images, before any chip is made of them: their grids, their bands, their pixels."""

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rasterio.windows import Window

from ingest.config import ScenesConfig
from shards.errors import InputError
from shards.format.schema import Schema
from shards.raster.band_names import band_names, named_bands, numbers_of_bands
from shards.raster.filled import SomePixels, filled_file
from shards.raster.finding import Finding
from shards.raster.grid import Grid
from shards.raster.mask_band import mask_as_band
from shards.raster.missing import Missing
from shards.raster.opening import HEADERS, open_raster
from shards.raster.pixel_size import PixelSize, angle_of, suitable_crs
from shards.raster.sample_windows import edge_windows, sample_windows

MOST_IMAGES = 256
"""Most images of which pixels are read, evenly spread over all."""


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
    return found


def _assumed_names(config: ScenesConfig, schema: Schema, url: str) -> tuple[Finding, ...]:
    """Find that names of bands are taken for granted, and that of a mask is one of them."""
    if config.bands:
        return ()
    with open_raster(url) as raster:
        named = named_bands(raster, config.bands, schema.bands)
        try:
            marks = Missing.of(raster, numbers_of_bands(url, named.names, schema.bands), config.nodata)
            mask = mask_as_band(named, marks)
        except InputError:  # a damaged file is named where its chips are read
            mask = None
    return (*named.findings(), mask) if mask else named.findings()


def _filled(config: ScenesConfig, schema: Schema, url: str) -> tuple[Finding, ...]:
    """Find a value that stands for nothing and that nobody declares, in a few windows of the image's pixels.

    A damaged file is named where its chips are read.
    """
    with open_raster(url) as raster:
        names = band_names(raster, config.bands, schema.bands)
        marks = Missing.of(raster, numbers_of_bands(url, names, schema.bands), config.nodata)

        def pixels(windows: Iterable[Window], share: float = 1.0) -> SomePixels:
            stored_BN, missing_BN = marks.read_all(list(windows))
            return SomePixels(stored_BN[:, ~missing_BN.any(0)], stored_BN.shape[1], share)

        try:
            spread = pixels(sample_windows(raster.shape, raster.block_shapes[0]))
            filled = filled_file(spread, tuple(pixels(*edge) for edge in edge_windows(raster.shape)))
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
