"""Tiles cut from scenes: windows side by side from the first pixel, row by row, scene after scene.

A window that does not lie wholly in its scene is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from inference.config import EmbedConfig
from inference.scenes.check import findings_of
from inference.scenes.scene import Scene
from inference.scenes.scene_list import find_scenes
from inference.tiling.windows import Block, Span, WindowGrid
from shards.errors import InputError
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from shards.raster.finding import Finding
from shards.raster.grid import Grid
from shards.raster.opening import bound_cache
from shards.storage.checksum import hexadecimal
from shards.storage.objects import stem_of, version_of


@dataclass(frozen=True)
class _Windows:
    """The windows of one scene."""

    url: str
    version: str
    grid: Grid
    rows: int
    columns: int

    @property
    def count(self) -> int:
        return self.rows * self.columns


class SceneTiles:
    """See `inference.embed.tiles.Tiles`."""

    def __init__(self, config: EmbedConfig, schema: Schema) -> None:
        """Read the scenes' headers.

        Raises:
            InputError: a scene cannot be read or is not like the checkpoint's images, or none holds a window.
        """
        bound_cache()
        self.size = config.tile_size or schema.chip_size
        if self.size < 1:
            raise InputError(f"--tile-size {config.tile_size}: give a number of pixels")
        self._schema, self._bands, self._nodata = schema, config.bands, config.nodata
        scenes = find_scenes(config.scenes, config.asset)
        self.remark = scenes.remark
        self._scenes = [self._look(url) for url in scenes.urls]
        self._first = np.cumsum([0, *(windows.count for windows in self._scenes)])
        self.count = int(self._first[-1])
        if not self.count:
            raise InputError(
                f"--tile-size {self.size}: no scene is that large; give a smaller one, a multiple of the "
                "backbone's patches"
            )
        named = "\n".join(f"{windows.url} {windows.version}" for windows in self._scenes)
        self.identity = {
            "scenes": hexadecimal(named.encode()),
            "tile_size": self.size,
            "bands_of_scenes": " ".join(config.bands),
        }
        if config.nodata is not None:
            self.identity["nodata_of_scenes"] = config.nodata

    def _look(self, url: str) -> _Windows:
        with Scene(url, self._schema, self._bands, nodata=self._nodata) as scene:
            rows, columns = (length // self.size for length in scene.shape)
            return _Windows(url, version_of(url), Grid.of(scene.raster), rows, columns)

    def findings(self, statistics: Statistics) -> dict[str, tuple[Finding, ...]]:
        """See Tiles.

        Raises:
            InputError: a scene cannot be read.
        """
        found: dict[str, tuple[Finding, ...]] = {}
        for windows in self._scenes:
            with self._opened(windows) as scene:
                if findings := findings_of(scene, statistics) + scene.assumed:
                    found[windows.url] = findings
        return found

    def columns(self, start: int, stop: int) -> pa.Table:
        """See Tiles."""
        places = list(self._places(start, stop))
        footprints = [self._footprint(*place) for place in places]
        centres = [footprint.centroid for footprint in footprints]
        named = [(stem_of(windows.url), row, column) for windows, row, column in places]
        return pa.table(
            {
                "key": [f"{scene}:{row}:{column}" for scene, row, column in named],
                "split": pa.nulls(len(places), pa.string()),
                "scene": [scene for scene, _, _ in named],
                "row": pa.array([row for _, row, _ in named], pa.int64()),
                "column": pa.array([column for _, _, column in named], pa.int64()),
                "x": [centre.x for centre in centres],
                "y": [centre.y for centre in centres],
                "crs": [windows.grid.crs.to_string() for windows, _, _ in places],
                "geometry": pa.array(shapely.to_wkb(footprints).tolist(), pa.binary()),
            }
        )

    def images(self, start: int, stop: int, batch_size: int) -> Iterator[NDArray[Any]]:
        """See Tiles.

        Raises:
            InputError: a scene cannot be read, or was replaced since its header was.
        """
        scene: Scene | None = None
        grid, batch = WindowGrid(self.size, self.size), list[NDArray[Any]]()
        try:
            for windows, row, column in self._places(start, stop):
                if scene is None or scene.url != windows.url:
                    if scene is not None:
                        scene.raster.close()
                    scene = self._opened(windows)
                block = Block(Span(row, row + self.size), Span(column, column + self.size))
                batch.append(scene.halo(block, grid).image_CHW)
                if len(batch) == batch_size:
                    yield np.stack(batch)
                    batch = []
            if batch:
                yield np.stack(batch)
        finally:
            if scene is not None:
                scene.raster.close()

    def _opened(self, windows: _Windows) -> Scene:
        if version_of(windows.url) != windows.version:
            raise InputError(
                f"{windows.url}: was replaced while it was being embedded; run the command again"
            )
        return Scene(windows.url, self._schema, self._bands, nodata=self._nodata)

    def _places(self, start: int, stop: int) -> Iterator[tuple[_Windows, int, int]]:
        """Find the scene, and the first row and column, of each tile."""
        for number in range(start, stop):
            place = int(np.searchsorted(self._first, number, side="right")) - 1
            windows = self._scenes[place]
            row, column = divmod(number - int(self._first[place]), windows.columns)
            yield windows, row * self.size, column * self.size

    def _footprint(self, windows: _Windows, row: int, column: int) -> Any:
        """Return the square on the ground, in the scene's CRS."""
        corners = ((0, 0), (0, 1), (1, 1), (1, 0))
        transform = windows.grid.transform
        return shapely.Polygon(
            [transform @ (column + self.size * right, row + self.size * down) for down, right in corners]
        )
