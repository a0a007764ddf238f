"""What the maps of a checkpoint show: heights, classes of pixels, or a label of each tile.

header = read_map_header(url)
header.content.bands(options)        bands of its maps
"""

import json
from dataclasses import dataclass
from typing import Literal

from rasterio import Affine

from inference.config import PredictConfig
from inference.maps.class_colours import coloured_classes
from inference.maps.map_file import CLASSES_TAG, LARGEST_CLASS, MapBand
from inference.predict.map_options import MapOptions
from inference.scenes.scene_list import CLASS_ENDING, MAP_ENDING, TILE_ENDING
from inference.tiling.windows import Block, Span
from shards.errors import InputError
from shards.raster.grid import Grid
from shards.roles import flag_of

Kind = Literal["heights", "pixel classes", "tiles"]
OF_PIXELS = ("window", "overlap", "weights", "symmetries")
"""Options of predict that have no effect on labels of tiles."""


@dataclass(frozen=True)
class MapContent:
    """What a map shows."""

    kind: Kind = "heights"
    label: str = ""
    """Name of the label, of classes and of tiles."""
    classes: tuple[tuple[int, str], ...] = ()
    """Numbers and names of the classes, in the model's order; (): numbers."""
    unit: str = ""
    """Unit of a number."""
    tile: int = 1
    """Pixels of the scene along each side of a pixel of the map."""

    @property
    def ending(self) -> str:
        """Ending of the maps' names."""
        return {"heights": MAP_ENDING, "pixel classes": CLASS_ENDING, "tiles": TILE_ENDING}[self.kind]

    @property
    def dtype(self) -> str:
        """Type of the numbers that blocks hold, NODATA where there is none."""
        return "float32" if self.kind == "tiles" and not self.classes else "int16"

    @property
    def tags(self) -> dict[str, str]:
        """Metadata of every map beside what it is made with."""
        if not self.classes:
            return {}
        return {CLASSES_TAG: json.dumps({str(number): name for number, name in self.classes})}

    def bands(self, options: MapOptions) -> tuple[MapBand, ...]:
        """Return the bands of the map."""
        if self.kind == "heights":
            return options.bands
        if not self.classes:
            return (MapBand(self.label, self.unit, dtype="float32"),)
        numbers = {number for number, _ in self.classes}
        free = next(number for number in (0, LARGEST_CLASS, *range(LARGEST_CLASS)) if number not in numbers)
        return (MapBand(self.label, dtype="uint8", nodata=free, classes=coloured_classes(self.classes)),)

    def grid(self, scene: Grid) -> Grid:
        """Return the grid of the map of a scene; tiles that reach beyond the scene have a pixel, too."""
        if self.tile == 1:
            return scene
        height, width = (-(-side // self.tile) for side in (scene.height, scene.width))
        transform = scene.transform @ Affine.scale(self.tile)
        return Grid(scene.crs, transform, height, width)

    def in_scene(self, block: Block, shape: tuple[int, int]) -> Block:
        """Return the pixels of a scene of `shape` that a block of the map covers."""
        rows, columns = (
            Span(span.start * self.tile, min(span.stop * self.tile, length))
            for span, length in zip((block.rows, block.columns), shape, strict=True)
        )
        return Block(rows, columns)

    def block_side(self, block: int) -> int:
        """Return the side of a block of the map whose side in the scene is at most `block`, 1 at least."""
        return max(1, block // self.tile)


def refuse_without_effect(config: PredictConfig, content: MapContent) -> None:
    """Refuse options that do nothing for maps of this kind.

    Raises:
        InputError: says which.
    """
    if content.kind == "heights":
        return
    what = "labels of tiles" if content.kind == "tiles" else "classes of pixels"
    of_heights = ("spread", "stac")
    for name in (*of_heights, *(OF_PIXELS if content.kind == "tiles" else ())):
        value = getattr(config, name)
        if value != getattr(PredictConfig, name) and not (name == "window" and value == content.tile):
            whose = "heights" if name in of_heights else "pixels"
            raise InputError(f"{flag_of(name)}: is for maps of {whose}, not of {what}; leave it out")
