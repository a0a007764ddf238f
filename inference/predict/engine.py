"""Interface of what predicts blocks and assembles maps: this process (`in_process`) or Ray (`on_ray`)."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from inference.predict.block_tasks import BlockResult, BlockTask, MapJob
from inference.predict.scene_map import SceneMap
from trainer.devices.choice import Computes, Kind, Precision


class Engine(Protocol):
    """Machinery that predicts, in this process or on many machines."""

    device: Kind
    """Kind of device that predicts."""
    readers: int
    """Most blocks that are read at a time."""
    maps_at_once: int
    """Most maps that are assembled at a time, while blocks of other scenes are predicted."""

    def computes(self, precision: Precision) -> Computes:
        """Return what the device makes of the precision that was asked for."""

    def batch_size(self, job: MapJob) -> int:
        """Find how many windows at a time suit the machines that predict."""

    def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
        """Predict the blocks of the tasks, in any order."""

    def complete(self, scene_map: SceneMap, job: MapJob) -> str:
        """Assemble a map, as `inference.predict.scene_map.complete` does; called from several threads."""
