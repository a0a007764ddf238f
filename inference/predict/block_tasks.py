"""The units of prediction: a block of a scene, its pixels, and what came of it; knows no regressor."""

from dataclasses import asdict, dataclass
from typing import Any

from inference.predict.map_options import MapOptions
from inference.scenes.scene import Scene
from inference.tiling.halo import Halo
from inference.tiling.windows import Block, Span
from shards.errors import InputError
from shards.format.schema import Schema
from shards.raster.opening import bound_cache
from shards.storage.objects import version_of


@dataclass(frozen=True)
class MapJob:
    """Settings that all tasks of a run share."""

    checkpoint: str
    """URL of the checkpoint itself: a training run's best may be another one a moment later."""
    fingerprint: str
    """The checkpoint's."""
    schema: Schema
    """Images that its regressor takes."""
    options: MapOptions
    bands: tuple[str, ...]
    """Names of the scenes' bands, if they do not name themselves."""
    out: str
    block: int
    """Pixels along each side of a block."""
    quick_look: bool = False
    """Whether a picture is wanted beside each map."""
    stac: bool = False
    """Whether a STAC item is wanted beside each map."""
    tags: tuple[tuple[str, str], ...] = ()
    """Metadata of every map: names and values."""


@dataclass(frozen=True)
class BlockTask:
    """One block of one scene."""

    scene: str
    """URL of the scene."""
    version: str
    """Version of its file, see `shards.storage.objects.version_of`."""
    name: str
    """Name of its map in the ledger."""
    block: Block

    @classmethod
    def from_row(cls, values: dict[str, Any]) -> "BlockTask":
        """Build the task whose `to_row` gave `values`."""
        rows, columns = (Span(**values["block"][axis]) for axis in ("rows", "columns"))
        return cls(**{**values, "block": Block(rows, columns)})

    def to_row(self) -> dict[str, Any]:
        """Return plain values by name, as Ray Data carries them."""
        return asdict(self)


@dataclass(frozen=True)
class BlockResult:
    """Outcome of a task: its block is in the ledger, or there is an error."""

    task: BlockTask
    seconds_read: float = 0.0
    seconds_predicted: float = 0.0
    seconds_waited: float = 0.0
    """Seconds that the predictor waited for pixels."""
    error: str = ""
    """Why there is no block; empty if there is one."""


class Reader:
    """Reads the pixels of blocks; keeps the last scene open."""

    def __init__(self, job: MapJob) -> None:
        bound_cache()
        self._job = job
        self._scene: Scene | None = None

    def __call__(self, task: BlockTask) -> Halo:
        """Read what the block is computed from.

        Raises:
            InputError: the scene cannot be read.
        """
        if self._scene is None or self._scene.url != task.scene:
            self.close()
            if version_of(task.scene) != task.version:
                raise InputError(f"{task.scene}: was written again while its map is made; run it again")
            self._scene = Scene(task.scene, self._job.schema, self._job.bands)
        return self._scene.halo(task.block, self._job.options.grid)

    def close(self) -> None:
        """Close the scene that is open."""
        if self._scene:
            self._scene.raster.close()
            self._scene = None
