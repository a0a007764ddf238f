"""Layers beside a tile: other rasters on its pixels (`--beside NAME=PATTERN`), or a dataset's own label.

    layer = raster_layer("landcover=lc/*.tif", is_class=True)
    value_CHW = layer.values(tile, block, shape)  # on the block, or on a coarser grid over it; NaN: no value

Whole numbers get the value at a pixel's middle, other numbers the mean over its area.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from inference.attention.pictures import Colour
from inference.attention.tiles import ChipTile, Tile
from inference.tiling.windows import Block
from shards.errors import InputError
from shards.format.schema import Schema
from shards.raster.band_names import KNOWN_BANDS
from shards.raster.gdal_advice import take_band
from shards.raster.grid import Grid, reaches
from shards.raster.on_grid import Areas, area_means, nearest_values
from shards.raster.opening import HEADERS, OpenRasters, open_raster, read_window
from shards.storage.patterns import each_file_once, expand

RGB = ("red", "green", "blue")
RGB_BY_COUNT = {3: (1, 2, 3), 12: (4, 3, 2), 13: (4, 3, 2)}
"""Bands of red, green and blue, for rasters that do not name them. 12 or 13 are Sentinel-2's in the order of
their numbers (B1 is coastal, B2 blue, B3 green, B4 red)."""


@dataclass(frozen=True)
class _Header:
    """What the file of a raster says."""

    url: str
    grid: Grid
    numbers: tuple[int, ...]
    """Numbers of the bands that are shown: one, or red, green and blue."""
    is_whole: bool
    """Whether its values are whole numbers."""
    colours: dict[int, Colour]
    """Colours of its numbers; empty if it has no colour table."""


@dataclass(frozen=True, eq=False)
class Layer(ABC):
    """Something that is drawn beside tiles."""

    name: str
    is_class: bool
    """Whether its numbers are said to be classes."""
    class_names: dict[int, str]
    """Names of classes; a class may have none."""
    is_whole: bool
    """Whether its values are whole numbers."""
    is_rgb: bool = False
    """Whether it has three bands, red, green and blue; otherwise one."""
    colours: dict[int, Colour] = field(default_factory=dict)
    """Colours of classes; empty if the raster has no colour table."""

    @abstractmethod
    def values(self, tile: Tile, block: Block, shape: tuple[int, int] | None = None) -> NDArray[np.float64]:
        """Read value_CHW on a block of a tile, or on a coarser grid of this shape over it.

        Raises:
            InputError: no raster reaches the tile, or one is damaged.
        """


@dataclass(frozen=True, eq=False)
class LabelLayer(Layer):
    """The label of a dataset's chips."""

    def values(self, tile: Tile, block: Block, shape: tuple[int, int] | None = None) -> NDArray[np.float64]:
        """See Layer."""
        assert isinstance(tile, ChipTile)
        rows, columns = (
            span.start + ((np.arange(count) + 0.5) * len(span) / count).astype(int)
            for span, count in zip(
                (block.rows, block.columns), shape or (len(block.rows), len(block.columns)), strict=True
            )
        )
        return tile.label()[None, rows[:, None], columns].astype(np.float64)


@dataclass(frozen=True, eq=False)
class RasterLayer(Layer):
    """Rasters; where several have a value for a pixel, the first counts."""

    headers: tuple[_Header, ...] = ()
    opened: OpenRasters = field(default_factory=OpenRasters)

    def values(self, tile: Tile, block: Block, shape: tuple[int, int] | None = None) -> NDArray[np.float64]:
        """See Layer."""
        grid = tile.grid(block, shape)
        near = self._near(grid)
        value_CHW = np.full((3 if self.is_rgb else 1, grid.height, grid.width), np.nan)
        for header in near:
            for value_HW, number in zip(value_CHW, header.numbers, strict=True):
                open_HW = np.isnan(value_HW)
                if open_HW.any():
                    found_HW = self._on_grid(header, number, grid, open_HW)
                    value_HW[open_HW] = found_HW[open_HW]
        return value_CHW

    def check_covers(self, tile: Tile) -> None:
        """Refuse a tile that no raster reaches.

        Raises:
            InputError: says which, in which CRS.
        """
        if not self._near(tile.grid(tile.whole), surely=True):
            first = self.headers[0]
            raise InputError(
                f"--beside {self.name}: no raster reaches {tile.source} (in {_said(tile.crs)}; "
                f"{first.url} is in {_said(first.grid.crs)}); give others, or leave out the tile"
            )

    def _near(self, grid: Grid, surely: bool = False) -> list[_Header]:
        places = {crs: grid.spread(crs) for crs in {one.grid.crs for one in self.headers}}
        return [one for one in self.headers if reaches(places[one.grid.crs], one.grid, surely)]

    def _on_grid(
        self, header: _Header, number: int, grid: Grid, wanted_HW: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        read, own = partial(self._read, header.url, number), header.grid
        rows, columns = range(grid.height), range(grid.width)
        if self.is_whole and not self.is_rgb:
            middle_2HW = grid.corners(np.array(rows) + 0.5, np.array(columns) + 0.5, own.crs)
            return nearest_values(read, own, middle_2HW, wanted_HW)
        return area_means(read, own, Areas.of(grid, rows, columns, own.crs), wanted_HW)

    def _read(self, url: str, number: int, window: Window) -> NDArray[np.float64]:
        raster = self.opened[url]
        stored_HW = read_window(raster, indexes=number, window=window, masked=True)
        scale, offset = raster.scales[number - 1], raster.offsets[number - 1]
        value_HW: NDArray[np.float64] = stored_HW.data.astype(np.float64) * scale + offset
        value_HW[np.ma.getmaskarray(stored_HW) | ~np.isfinite(value_HW)] = np.nan
        return value_HW


def raster_layers(
    given: Sequence[str], classes: Sequence[str], class_names: dict[int, str]
) -> list[RasterLayer]:
    """Find the rasters of each NAME=PATTERN, and read their headers.

    Args:
        given: NAME=PATTERN, several patterns may have one name.
        classes: names of the layers whose numbers are classes.
        class_names: names of these classes.

    Raises:
        InputError: an option cannot be understood, or a raster cannot be used.
    """
    patterns: dict[str, list[str]] = {}
    for text in given:
        name, equals, pattern = text.partition("=")
        if not (name and equals and pattern):
            raise InputError(f"--beside {text}: give NAME=PATTERN, for example landcover='lc/*.tif'")
        patterns.setdefault(name, []).append(pattern)
    return [
        _raster_layer(
            name, each_file_once(url for pattern in some for url in expand(pattern)), classes, class_names
        )
        for name, some in patterns.items()
    ]


def label_layer(schema: Schema, classes: Sequence[str], class_names: dict[int, str]) -> LabelLayer:
    """Describe the label of a dataset's chips; the schema's names of classes come before `class_names`."""
    is_class = bool(schema.class_names) or schema.label in classes
    names = dict(schema.class_names) or (class_names if is_class else {})
    return LabelLayer(schema.label, is_class, names, is_whole=is_class)


def _raster_layer(
    name: str, urls: list[str], classes: Sequence[str], class_names: dict[int, str]
) -> RasterLayer:
    with ThreadPoolExecutor(HEADERS) as pool:
        headers = tuple(pool.map(_header, urls))
    is_class, is_whole = name in classes, all(header.is_whole for header in headers)
    counts = {len(header.numbers) for header in headers}
    if len(counts) > 1:
        raise InputError(f"--beside {name}: some of its rasters have one band and some have several")
    is_rgb = counts == {3}
    if is_class and (is_rgb or not is_whole):
        raise InputError(
            f"--classes {name}: {headers[0].url} has {'several bands' if is_rgb else 'no whole numbers'}; "
            "give a raster of one band with the numbers of classes"
        )
    colours = headers[0].colours
    names = class_names if is_class else {}
    return RasterLayer(name, is_class, names, is_whole, is_rgb, colours, headers)


def _header(url: str) -> _Header:
    with open_raster(url) as raster:
        bands = [n for n, kind in enumerate(raster.colorinterp, 1) if kind != ColorInterp.alpha]
        numbers = tuple(bands)
        if len(bands) == 2:
            raise InputError(
                f"{url}: has 2 bands; a layer beside has one, or red, green and blue; choose one "
                f"({take_band()})"
            )
        if len(bands) > 1:
            numbers = _rgb(raster, len(bands))
        is_whole = all(np.dtype(raster.dtypes[n - 1]).kind in "iu" for n in numbers)
        is_scaled = any((raster.scales[n - 1], raster.offsets[n - 1]) != (1.0, 0.0) for n in numbers)
        return _Header(url, Grid.of(raster), numbers, is_whole and not is_scaled, _colours(raster))


def _rgb(raster: Any, count: int) -> tuple[int, ...]:
    """Return the numbers of the red, green and blue bands."""
    described = [(name or "").lower() for name in raster.descriptions]
    kinds = [kind.name for kind in raster.colorinterp]
    known = list(KNOWN_BANDS.get(count, ()))
    for names in (described, kinds, known):
        if all(colour in names for colour in RGB):
            return tuple(names.index(colour) + 1 for colour in RGB)
    return RGB_BY_COUNT.get(count, (3, 2, 1))


def _colours(raster: Any) -> dict[int, Colour]:
    if raster.colorinterp[0] != ColorInterp.palette:
        return {}
    return {number: (red, green, blue) for number, (red, green, blue, _) in raster.colormap(1).items()}


def _said(crs: CRS | None) -> str:
    return crs.to_string()[:40] if crs is not None else "no CRS"
