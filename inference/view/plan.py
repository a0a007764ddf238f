"""What `treeline view` shows: every raster is opened and checked before anything starts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from rasterio import Affine
from rasterio.crs import CRS

from inference.config import ViewConfig
from inference.maps.height_map import made_by
from inference.maps.map_file import CLASSES_TAG
from inference.scenes.scene_list import raster_urls
from inference.score.measured_heights import HeightRaster, by_name
from inference.view.description import Frame, decimals, name_of_crs
from inference.view.heights import Difference, Heights, Measured, values_of
from inference.view.layers import Shown
from inference.view.pictures import Classes, Picture
from inference.view.tiles import TILE, levels
from shards.draw.colours import difference_scale, height_scale, value_scale
from shards.draw.picture import colour_limits
from shards.errors import InputError
from shards.raster.grid import Grid, reaches
from shards.raster.height_check import HeightHeader
from shards.raster.opening import OpenRasters
from shards.raster.pixel_size import PixelSize
from shards.storage.objects import stem_of
from shards.storage.patterns import each_file_once, expand

IMAGE, MEASURED, MAP, DIFFERENCE, BACKGROUND = "image", "measured", "map", "difference", "background"
"""Names of layers; a map has its file's name where there are several."""
MERCATOR = CRS.from_epsg(3857)
HALF_WORLD = 20037508.342789244
"""Half of the width of the world in EPSG:3857: pi times the Earth's radius of WGS 84."""
FINEST_BACKGROUND = 19
"""Finest zoom level that a background is asked for; few have more."""
MOST_ZOOM = 24


@dataclass(frozen=True)
class Plan:
    """Layers and the frame in which they are shown."""

    frame: Frame
    map_grid: Grid
    """Grid of the first map, in whose CRS places are said."""
    layers: tuple[Shown, ...]
    background: str = ""
    """Template of the URLs of a background's tiles."""

    def about(self) -> dict[str, Any]:
        """Describe everything for the script."""
        layers = [self._about(place, layer) for place, layer in enumerate(self.layers)]
        shown: dict[str, int | None] = {"left": 0, "right": min(1, len(layers) - 1), "below": None}
        names = [layer.name for layer in self.layers]
        if IMAGE in names:
            shown["left"] = names.index(IMAGE)
            shown["right"] = next(place for place, layer in enumerate(self.layers) if layer.kind != "image")
        if self.background:
            shown["below"] = len(layers)
            layers.append(self._about_background())
        return {
            **self.frame.describe(),
            "crs": name_of_crs(self.map_grid),
            "decimals": decimals(self.map_grid),
            "layers": layers,
            "shown": shown,
            "values": "values",
        }

    def _about(self, place: int, layer: Shown) -> dict[str, Any]:
        finest, coarsest = levels(self.frame.grid, self.frame.pixel[0], _pixel(layer.grid))
        tiles = {
            "url": f"tiles/{place}/{{level}}/{{x}}/{{y}}.png",
            "zoom": 0,
            "pixel": self.frame.pixel,
            "finest": finest,
            "coarsest": coarsest,
        }
        rect = self.frame.rect_of(layer.grid)
        return {"name": layer.name, "kind": layer.kind, "tiles": tiles, "rect": rect, **layer.about()}

    def _about_background(self) -> dict[str, Any]:
        grid = self.frame.grid
        zoom = round(math.log2(grid.width / TILE))
        tiles = {
            "url": self.background,
            "zoom": zoom,
            "pixel": self.frame.pixel,
            "finest": max(0, zoom - FINEST_BACKGROUND),
            "coarsest": zoom,
        }
        wide, high = self.frame.pixel
        rect = [0.0, 0.0, grid.width * wide, grid.height * high]
        return {"name": BACKGROUND, "kind": "background", "tiles": tiles, "rect": rect}


def plan(config: ViewConfig) -> Plan:
    """Open every raster for its header, check it, and choose colours by overviews.

    Raises:
        InputError: a raster cannot be used, or does not overlap the first map.
    """
    refuse_other_backgrounds(config.background)
    maps = each_file_once(raster_urls(config.maps))
    patterns = (url for pattern in config.heights for url in expand(pattern))
    measured_urls = each_file_once(by_name(patterns))
    rasters = OpenRasters()
    try:
        grids = {url: Grid.of(rasters[url]) for url in maps}
        first = grids[maps[0]]
        measured = [HeightRaster.at(url, config.height_band, config.height_unit) for url in measured_urls]
        grids |= {one.url: one.grid for one in measured}
        if config.image:
            grids[config.image] = Grid.of(rasters[config.image])
        for url, grid in grids.items():
            _refuse_apart(url, grid, maps[0], first)
        layers = _layers(config, maps, measured, rasters)
    finally:
        rasters.close()
    return Plan(_frame(first, config.background), first, tuple(layers), config.background)


def _layers(
    config: ViewConfig, maps: Sequence[str], measured: Sequence[HeightRaster], rasters: OpenRasters
) -> list[Shown]:
    first = Grid.of(rasters[maps[0]])
    whole = _small(first)
    of_maps = [_map(url, MAP if len(maps) == 1 else stem_of(url), rasters[url]) for url in maps]
    heights = [layer for layer in of_maps if isinstance(layer, Heights) and not layer.title]
    unscaled = Measured(MEASURED, first, tuple(measured), height_scale(np.empty(0)))
    known = values_of([*heights, unscaled] if measured else heights, rasters, whole)
    scale = height_scale(known, config.palette)
    layers: list[Shown] = []
    if config.image:
        layers.append(Picture.of(IMAGE, config.image, rasters[config.image], whole))
    scaled = [replace(one, scale=scale) for one in heights]
    layers += scaled
    layers += [_scaled(layer, rasters) for layer in of_maps if layer not in heights]
    if measured:
        shown = Measured(MEASURED, first, tuple(measured), scale)
        layers.append(shown)
        for one in scaled:
            if one.grid == first:
                small_HW = one.values(rasters, whole) - shown.values(rasters, whole)
                name = DIFFERENCE if len(scaled) == 1 else f"{DIFFERENCE} of {one.name}"
                layers.append(Difference(name, one, shown, difference_scale(small_HW)))
    return layers


def _map(url: str, name: str, raster: Any) -> Heights | Classes:
    if CLASSES_TAG in raster.tags():
        return Classes.of(name, url, raster)
    if made_by(raster) and raster.dtypes[0] != "int16":  # labels of tiles
        unit = raster.units[0] or ""
        title = f"{raster.descriptions[0] or 'label'} {f'({unit})' if unit else ''}".strip()
        return Heights(name, url, Grid.of(raster), height_scale(np.empty(0)), unit=unit, title=title)
    header = HeightHeader.read(url, raster, 1)
    return Heights(name, url, Grid.of(raster), height_scale(np.empty(0)), header.band, header.unit.metres)


def _scaled(layer: Heights | Classes, rasters: OpenRasters) -> Heights | Classes:
    """Give a map of numbers that are no heights the colours between its outer percentiles."""
    if isinstance(layer, Classes):
        return layer
    return replace(layer, scale=value_scale(*colour_limits(layer.values(rasters, _small(layer.grid)))))


def _small(grid: Grid) -> Grid:
    """Return the grid in pixels so large that all of it fits into a tile."""
    share = 2 ** max(0, math.ceil(math.log2(max(grid.height, grid.width) / TILE)))
    rows, columns = -(-grid.height // share), -(-grid.width // share)
    return Grid(grid.crs, grid.transform @ Affine.scale(share), rows, columns)


def _frame(first: Grid, background: str) -> Frame:
    """Frame the first map in its own grid, so that its pixels are shown as they are, or in a background's."""
    if not background:
        return Frame(first)
    x_HW, y_HW = first.spread(MERCATOR)
    left, bottom, right, top = (float(end) for end in (x_HW.min(), y_HW.min(), x_HW.max(), y_HW.max()))
    # On the ground a pixel of this projection is smaller by the cosine of the latitude.
    latitude = 2 * math.atan(math.exp((bottom + top) / 2 / HALF_WORLD * math.pi)) - math.pi / 2
    tiles = 2 * HALF_WORLD * math.cos(latitude) / TILE / _pixel(first)
    zoom = min(MOST_ZOOM, max(0, math.ceil(math.log2(tiles) - 0.01)))
    side = TILE * 2**zoom
    pixel = 2 * HALF_WORLD / side
    world = Affine(pixel, 0, -HALF_WORLD, 0, -pixel, HALF_WORLD)
    part = Affine(pixel, 0, left, 0, -pixel, top)
    rows, columns = math.ceil((top - bottom) / pixel), math.ceil((right - left) / pixel)
    return Frame(Grid(MERCATOR, world, side, side), Grid(MERCATOR, part, rows, columns))


def _pixel(grid: Grid) -> float:
    """Return the width of a pixel on the ground, in metres."""
    size = PixelSize.of(grid)
    return size.metres[0] if size.metres else size.width


def _refuse_apart(url: str, grid: Grid, first_url: str, first: Grid) -> None:
    if not reaches(grid.spread(first.crs), first, surely=True):
        raise InputError(
            f"{url}: does not overlap {first_url}, so they cannot be looked at together; give rasters of "
            "one place (treeline mosaic combines maps)"
        )


def refuse_other_backgrounds(template: str) -> None:
    """Refuse a background that is no template of URLs of tiles.

    Raises:
        InputError: it is none.
    """
    parts = urlsplit(template)
    is_web = parts.scheme in ("http", "https") and parts.netloc
    if template and not (is_web and all(one in template for one in ("{z}", "{x}", "{y}"))):
        raise InputError(
            f"--background {template}: give the address of web tiles with {{z}}, {{x}} and {{y}}, such as "
            "https://HOST/{z}/{x}/{y}.png"
        )
