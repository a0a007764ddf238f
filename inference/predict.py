"""`treeline predict`: whole scenes -> maps. The work of one block, and what is around it; no Ray here."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

import shards
from inference.block import predict_block
from inference.config import PredictConfig
from inference.geotiff import WriteBlock, map_writer
from inference.scene import Scene
from inference.windows import Block, WindowGrid, blocks_of
from shards.errors import InputError
from shards.progress import progress
from shards.storage import check_writable, exists, expand, join, stem_of
from trainer.checkpoint import Checkpoint, load_checkpoint

MAP_SUFFIX = ".chm.tif"


@dataclass(frozen=True)
class Task:
    """One block of one scene."""

    scene: str
    block: Block


Predicted = tuple[Task, NDArray[np.int16]]
"""A task and its map in decimetres."""

Engine = Callable[[PredictConfig, list[Task]], Iterator[Predicted]]
"""Does tasks, here or on many machines, and hands them back in any order."""


@dataclass
class BlockPredictor:
    """Does tasks with one regressor in memory and one scene open; what each worker is."""

    config: PredictConfig
    _scene: Scene | None = None
    checkpoint: Checkpoint = field(init=False)

    def __post_init__(self) -> None:
        self.checkpoint = load_checkpoint(self.config.checkpoint)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.regressor = self.checkpoint.regressor.to(device)
        self.grid = WindowGrid.with_overlap(
            self.config.window, self.config.overlap, self.regressor.patch_size
        )

    def __call__(self, task: Task) -> NDArray[np.int16]:
        """The block's map in decimetres."""
        if self._scene is None or self._scene.url != task.scene:
            self.close()
            self._scene = Scene(task.scene, self.regressor.schema, self.config.bands)
        halo = self._scene.halo(task.block, self.grid)
        return predict_block(self.regressor, task.block, halo, self.grid, self.config.batch_size)

    def close(self) -> None:
        """Close the scene that is open."""
        if self._scene:
            self._scene.raster.close()
            self._scene = None


def predict_here(config: PredictConfig, tasks: list[Task]) -> Iterator[Predicted]:
    """Do the tasks in this process."""
    predictor = BlockPredictor(config)
    try:
        for task in tasks:
            yield task, predictor(task)
    finally:
        predictor.close()


def predict(config: PredictConfig, engine: Engine) -> dict[str, str]:
    """Predict every scene; returns the URL of each one's map.

    Raises:
        InputError: a scene, the checkpoint, an option or the output cannot be used; found before any work.
    """
    checkpoint = load_checkpoint(config.checkpoint)
    WindowGrid.with_overlap(config.window, config.overlap, checkpoint.regressor.patch_size)
    if min(config.block, config.batch_size) < 1:
        raise InputError(f"--block {config.block} --batch-size {config.batch_size}: must be at least 1")
    maps = _map_urls(config)
    check_writable(config.out)
    with ExitStack() as stack:
        scenes = {
            url: stack.enter_context(Scene(url, checkpoint.regressor.schema, config.bands)) for url in maps
        }
        tasks = [
            Task(url, block)
            for url, scene in scenes.items()
            for block in blocks_of(*scene.shape, config.block)
        ]
        pixels = sum(scene.shape[0] * scene.shape[1] for scene in scenes.values())
        advance = stack.enter_context(progress(f"predict {len(maps)} scenes", pixels, "pixels"))
        _write_maps(engine(config, tasks), tasks, MapWriters(maps, scenes, tags(config, checkpoint)), advance)
    return maps


def tags(config: PredictConfig, checkpoint: Checkpoint) -> dict[str, str]:
    """What a map's metadata says of how it was made: nothing that the pixels do not depend on."""
    return {
        "TREELINE_VERSION": shards.__version__,
        "TREELINE_DATASET": str(checkpoint.trained_on["fingerprint"]),
        "TREELINE_EPOCH": str(checkpoint.metrics["epoch"]),
        "TREELINE_WINDOW": str(config.window),
        "TREELINE_OVERLAP": str(config.overlap),
    }


@dataclass(frozen=True)
class MapWriters:
    """The maps that are being written."""

    urls: dict[str, str]
    scenes: dict[str, Scene]
    tags: dict[str, str]

    def open(self, scene: str, stack: ExitStack) -> WriteBlock:
        """A writer for the map of `scene`, finished when `stack` is closed."""
        return stack.enter_context(map_writer(self.urls[scene], self.scenes[scene].raster, self.tags))


def _write_maps(
    predicted: Iterable[Predicted], tasks: list[Task], writers: MapWriters, advance: Callable[[int], None]
) -> None:
    """Write blocks as they come; finish each map with its last block, and none if anything fails."""
    missing = {scene: sum(task.scene == scene for task in tasks) for scene in writers.urls}
    with ExitStack() as unfinished:
        opened: dict[str, tuple[ExitStack, WriteBlock]] = {}
        for task, decimetres_HW in predicted:
            if task.scene not in opened:
                stack = unfinished.enter_context(ExitStack())
                opened[task.scene] = stack, writers.open(task.scene, stack)
            stack, write = opened[task.scene]
            write(task.block, decimetres_HW)
            missing[task.scene] -= 1
            if not missing[task.scene]:
                stack.close()
            advance(decimetres_HW.size)


def _map_urls(config: PredictConfig) -> dict[str, str]:
    """The map's URL for each scene's."""
    maps: dict[str, str] = {}
    for url in (match for pattern in config.scenes for match in expand(pattern)):
        target = join(config.out, stem_of(url) + MAP_SUFFIX)
        if target in maps.values() and maps.get(url) != target:
            raise InputError(
                f"{url}: another scene has the same name, and maps are named after scenes; rename one"
            )
        if exists(target):
            raise InputError(f"{target}: is already there; choose another --out or delete it first")
        maps[url] = target
    if not maps:
        raise InputError("no scene given; name at least one")
    return maps
