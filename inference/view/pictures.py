"""Layers of a server that show no heights: images, and maps of classes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.maps.class_colours import MapClass
from inference.maps.map_file import classes_of
from inference.view.description import Kind, of_classes
from inference.view.layers import Place, Rgba
from inference.view.tiles import read_pixel, read_tile
from shards.draw.colours import NO_VALUE_NAME
from shards.draw.picture import STRETCH, composite_bands
from shards.errors import InputError
from shards.raster.band_names import band_names
from shards.raster.grid import Grid
from shards.raster.opening import OpenRasters


@dataclass(frozen=True)
class Classes:
    """Layer of a map of classes."""

    name: str
    url: str
    grid: Grid
    classes: tuple[MapClass, ...]
    kind: Kind = "classes"

    @classmethod
    def of(cls, name: str, url: str, raster: Any) -> "Classes":
        """Take names and colours from an open map."""
        return cls(name, url, Grid.of(raster), classes_of(raster))

    def rgba(self, rasters: OpenRasters, tile: Grid) -> Rgba:
        """See Shown."""
        number_HW, missing_HW = self.numbers(rasters, tile)
        palette_K4 = np.zeros((256, 4), np.uint8)
        for one in self.classes:
            palette_K4[one.number] = (*one.colour, 255)
        return np.moveaxis(palette_K4[np.where(missing_HW, 0, number_HW)], -1, 0) * ~missing_HW

    def numbers(self, rasters: OpenRasters, tile: Grid) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read numbers of classes (H, W) on a tile, and where there is none."""
        stored_1HW, missing_1HW = read_tile(rasters[self.url], [1], tile, None, False)
        return stored_1HW[0], missing_1HW[0]

    def text(self, rasters: OpenRasters, place: Place) -> str:
        """See Shown."""
        pixel = place.pixel(self.grid)
        if pixel is None:
            return NO_VALUE_NAME
        stored_B, missing_B = read_pixel(rasters[self.url], [1], pixel)
        number = int(stored_B.item())
        names = {one.number: one.name for one in self.classes}
        return NO_VALUE_NAME if missing_B.any() else names.get(number, str(number))

    def about(self) -> dict[str, Any]:
        """See Shown."""
        return of_classes(self.classes)


@dataclass(frozen=True)
class Picture:
    """Layer of an image: near infrared, red, green, or its first bands, with one stretch for all tiles."""

    name: str
    url: str
    grid: Grid
    bands: tuple[str, ...]
    """Names of all bands."""
    numbers: tuple[int, int, int]
    """Numbers of the bands that are red, green and blue in the picture."""
    limits_32: tuple[tuple[float, float], ...]
    """Values of each that are dark and bright."""
    kind: Kind = "image"

    @classmethod
    def of(cls, name: str, url: str, raster: Any, tile: Grid) -> "Picture":
        """Choose bands and stretch of an open raster by its pixels on a tile."""
        try:
            bands = band_names(raster, ())
        except InputError:
            bands = tuple(f"band {number}" for number in range(1, raster.count + 1))
        numbers = [bands.index(band) + 1 for band in composite_bands(bands)]
        stored_BHW, missing_BHW = read_tile(raster, numbers, tile, None, True)
        known_3 = [band[~missing] for band, missing in zip(stored_BHW, missing_BHW, strict=True)]
        limits = [np.percentile(values, STRETCH).tolist() if values.size else (0, 1) for values in known_3]
        red, green, blue = numbers
        return cls(name, url, Grid.of(raster), bands, (red, green, blue), tuple((a, b) for a, b in limits))

    def rgba(self, rasters: OpenRasters, tile: Grid) -> Rgba:
        """See Shown."""
        stored_BHW, missing_BHW = read_tile(rasters[self.url], list(self.numbers), tile, None, True)
        low_311, high_311 = np.array(self.limits_32).T[:, :, None, None]
        shares_BHW = np.clip((stored_BHW - low_311) / np.maximum(high_311 - low_311, 1e-6), 0, 1)
        known_HW = ~np.asarray(missing_BHW.any(axis=0))
        shares_BHW = np.where(known_HW, np.nan_to_num(shares_BHW), 0)
        return np.concatenate([255 * shares_BHW, 255 * known_HW[None]]).astype(np.uint8)

    def text(self, rasters: OpenRasters, place: Place) -> str:
        """See Shown."""
        pixel = place.pixel(self.grid)
        if pixel is None:
            return NO_VALUE_NAME
        numbers = range(1, len(self.bands) + 1)
        stored_B, missing_B = read_pixel(rasters[self.url], numbers, pixel)
        if missing_B.all():
            return NO_VALUE_NAME
        pairs = zip(self.bands, stored_B.tolist(), missing_B, strict=True)
        return ", ".join(
            f"{band}\u00a0{NO_VALUE_NAME if lost else f'{value:g}'}" for band, value, lost in pairs
        )

    def about(self) -> dict[str, Any]:
        """See Shown."""
        return {}
