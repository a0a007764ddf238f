"""Layers of a panel from files: a map with its image and measured heights, read at the size that is shown.

layers, crs = overview(ViewConfig(("maps/scene.chm.tif",), image="scene.tif", heights=("lidar.tif",)))
element = panel(layers, crs, "scene.chm")
"""

import math

import numpy as np
from rasterio import Affine
from rasterio.transform import from_bounds

from inference.config import ViewConfig
from inference.view.heights import Difference, Heights, Measured
from inference.view.layers import Shown
from inference.view.panel import Layer
from inference.view.pictures import Classes
from inference.view.plan import plan
from shards.raster.grid import Grid
from shards.raster.opening import OpenRasters
from shards.raster.pixel_size import turn_of

MOST_PIXELS = 700
"""Most pixels along the longer side of a layer, unless others are asked for."""


def overview(config: ViewConfig, most_pixels: int = MOST_PIXELS) -> tuple[list[Layer], str]:
    """Read the layers that `treeline view` would show, and name their CRS.

    Overviews are read where there are any, so pixels are means of valid ones. Maps of numbers other than
    heights and classes are left out.

    Args:
        config: maps, image and heights; its other options have no effect.
        most_pixels: most pixels along the longer side.

    Raises:
        InputError: a raster cannot be used, or does not overlap the first map.
    """
    planned, rasters = plan(config), OpenRasters()
    grid = smaller(planned.map_grid, most_pixels)
    try:
        found = [_layer(layer, rasters, grid) for layer in planned.layers]
    finally:
        rasters.close()
    return [layer for layer in found if layer], grid.crs.to_string()


def smaller(grid: Grid, most_pixels: int) -> Grid:
    """Return larger pixels on a grid's ground, at most `most_pixels` a side; rows go south, columns east."""
    share = math.ceil(max(grid.height, grid.width) / most_pixels)
    rows, columns = -(-grid.height // share), -(-grid.width // share)
    if turn_of(grid) == 0 and grid.transform.e < 0 < grid.transform.a:
        return Grid(grid.crs, grid.transform @ Affine.scale(share), rows, columns)
    return Grid(grid.crs, from_bounds(*grid.bounds, columns, rows), rows, columns)


def _layer(layer: Shown, rasters: OpenRasters, grid: Grid) -> Layer | None:
    """Read a layer; None if a panel has no such kind."""
    bounds = grid.bounds
    if isinstance(layer, Classes):
        number_HW, missing_HW = layer.numbers(rasters, grid)
        return Layer(layer.name, "classes", number_HW, ~missing_HW, bounds, layer.classes)
    if layer.kind == "image":
        rgba_4HW = layer.rgba(rasters, grid)
        return Layer(layer.name, "image", np.moveaxis(rgba_4HW[:3], 0, -1), rgba_4HW[3] > 0, bounds)
    if not isinstance(layer, Heights | Measured | Difference) or (isinstance(layer, Heights) and layer.title):
        return None
    value_HW = layer.values(rasters, grid)
    return Layer(layer.name, layer.kind, value_HW, np.isfinite(value_HW), bounds)
