"""The map of one scene: where it goes, which blocks it has, how they are put together when all are done."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from inference.geotiff import NODATA, MapGrid, grid_of, map_writer
from inference.ledger import Ledger
from inference.scene import Scene
from inference.scene_list import MAP_ENDING
from inference.tasks import Job
from inference.windows import Block, blocks_of
from shards.checksum import hexadecimal
from shards.errors import DatasetError, InputError
from shards.storage import name_of, version_of

OPENED_AT_ONCE = 16
"""Scenes whose headers are read side by side: on S3 each takes some requests."""


@dataclass(frozen=True)
class SceneMap:
    """What is to be made of one scene."""

    scene: str
    """Its URL."""
    url: str
    """Of the map."""
    grid: MapGrid
    identity: str
    """Digits that stand for the scene's file and for what the map is made with."""

    @property
    def stem(self) -> str:
        """Of the map's file."""
        return name_of(self.url).removesuffix(MAP_ENDING)

    @property
    def name(self) -> str:
        """In the ledger: a scene that was written again has another one."""
        return f"{self.stem}-{self.identity}"

    @property
    def pixels(self) -> int:
        """Of the scene."""
        return self.grid.height * self.grid.width

    def blocks(self, size: int) -> list[Block]:
        """All, row by row."""
        return list(blocks_of(self.grid.height, self.grid.width, size))


@dataclass(frozen=True)
class Failed:
    """A scene that has no map, and why."""

    scene: str
    reason: str


def survey(targets: dict[str, str], job: Job, made_with: str) -> Iterator[SceneMap | Failed]:
    """What is to be made of each scene, in order, from its header alone.

    Args:
        targets: the map's URL for each scene's.
        job: of all.
        made_with: stands for the regressor and the options.
    """

    def look(scene: str) -> SceneMap | Failed:
        try:
            with Scene(scene, job.schema, job.bands) as opened:
                identity = hexadecimal(f"{version_of(scene)} {made_with}".encode())[:8]
                return SceneMap(scene, targets[scene], grid_of(opened.raster), identity)
        except InputError as error:
            return Failed(scene, str(error))

    with ThreadPoolExecutor(OPENED_AT_ONCE) as threads:
        yield from threads.map(look, targets)


def assemble(scene_map: SceneMap, blocks: list[Block], job: Job, tags: dict[str, str]) -> None:
    """Write the map of blocks that are all in the ledger.

    Raises:
        DatasetError: a block is damaged, or no pixel has a height.
        InputError: a block is not there.
    """
    valid, ledger = 0, Ledger(job.out)
    with map_writer(scene_map.url, scene_map.grid, job.method.bands, tags) as write:
        for block in blocks:
            stored_CHW = ledger.read(scene_map.name, block)
            valid += int(np.count_nonzero(stored_CHW[0] != NODATA))
            write(block, stored_CHW)
        if not valid:
            raise DatasetError(f"{scene_map.scene}: no pixel has all bands that the regressor reads")
