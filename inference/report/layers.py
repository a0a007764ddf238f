"""A map, its scene and measured heights on one small grid: the layers of the panel that shows them.

Everything lies on the map's own overview, so that a place has one pixel in all layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.transform import from_bounds
from rasterio.windows import Window

from inference.maps.height_map import refuse_what_is_no_map
from inference.maps.quick_look import small_heights
from inference.score.measured_heights import SAMPLES, HeightRasters
from inference.view.panel import Layer
from shards.draw.picture import composite, composite_bands
from shards.errors import InputError
from shards.raster.band_names import band_names
from shards.raster.grid import Grid, reaches
from shards.raster.on_grid import read_on_grid, resampled
from shards.raster.opening import open_raster

MOST_PIXELS = 800
"""Most pixels along a side of the layers."""


@dataclass(frozen=True, eq=False)
class MapLayers:
    """Layers of one map."""

    layers: list[Layer]
    crs: str
    """Their CRS, as WKT."""


def map_layers(url: str, scenes: Sequence[str], measured: HeightRasters | None) -> MapLayers | None:
    """Read the layers of the map at `url`; None where it is no height map, or its grid is turned.

    Args:
        url: the map.
        scenes: scenes of which the first that overlaps the map is shown.
        measured: rasters of measured heights.

    Raises:
        InputError: a raster cannot be read.
    """
    with open_raster(url) as raster:
        try:
            refuse_what_is_no_map(url, raster)
        except InputError:
            return None
        whole = Grid.of(raster)
        step_x, turn_x, _, turn_y, step_y, _ = whole.transform[:6]
        if turn_x or turn_y or step_x < 0 or step_y > 0:
            return None
        height_HW = small_heights(raster, MOST_PIXELS)
    rows, columns = height_HW.shape
    grid = Grid(whole.crs, from_bounds(*whole.bounds, columns, rows), rows, columns)
    layers = [Layer("map", "height", height_HW, np.isfinite(height_HW), whole.bounds)]
    if measured is not None:
        measured_HW = _measured(measured, grid)
        if np.isfinite(measured_HW).any():
            difference_HW = height_HW - measured_HW
            layers += [
                Layer("measured", "height", measured_HW, np.isfinite(measured_HW), whole.bounds),
                Layer("difference", "difference", difference_HW, np.isfinite(difference_HW), whole.bounds),
            ]
    image = next(filter(None, (_image(scene, grid) for scene in scenes)), None)
    return MapLayers([*([image] if image else []), *layers], whole.crs.to_wkt())


def _measured(rasters: HeightRasters, grid: Grid) -> NDArray[np.float64]:
    """Return means of measured heights over the pixels of the grid; NaN where there are none."""
    rows, columns = range(grid.height), range(grid.width)
    wanted_HW = np.ones((grid.height, grid.width), np.bool_)
    return rasters.heights(grid, rows, columns, rasters.near(grid, rows, columns), wanted_HW)


def _image(url: str, grid: Grid) -> Layer | None:
    """Read a scene on the pixels of the grid; None where it lies elsewhere."""
    with open_raster(url) as raster:
        row_points, column_points = (np.linspace(0, n, SAMPLES) for n in (grid.height, grid.width))
        place_2HW = grid.corners(row_points, column_points, raster.crs)
        if not reaches(place_2HW, Grid.of(raster), surely=True):
            return None
        try:
            names = band_names(raster, ())
        except InputError:  # the first bands serve as well
            names = tuple(f"band {number}" for number in range(1, raster.count + 1))
        numbers = [names.index(band) + 1 for band in composite_bands(names)]
        with resampled(raster, grid, Resampling.nearest, add_alpha=False) as on_grid:
            window = Window(0, 0, grid.width, grid.height)
            image_CHW = read_on_grid(on_grid, numbers, window)
            valid_HW = on_grid.dataset_mask() > 0
    shown_CHW = np.where(valid_HW, image_CHW.astype(np.float32), np.nan)
    rgb_HW3 = composite(shown_CHW, tuple(map(str, numbers)), None)
    return Layer("scene", "image", rgb_HW3, valid_HW, grid.bounds)
