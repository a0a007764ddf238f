"""Units of prediction: a block of a scene as a task, its pixels, and its result. Knows no model."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from inference.predict.ledger import Ledger
from inference.predict.map_content import MapContent
from inference.predict.map_options import MapOptions
from inference.scenes.masks import OpenMasks, SceneMasks
from inference.scenes.scene import Scene
from inference.tiling.halo import Halo
from inference.tiling.windows import Block, Span
from shards.draw.colours import Palette
from shards.errors import InputError
from shards.format.schema import Schema
from shards.raster.grid import Grid
from shards.raster.missing import mark
from shards.raster.opening import bound_cache
from shards.storage.objects import version_of
from trainer.devices.choice import Kind


@dataclass(frozen=True)
class MapJob:
    """Settings that all tasks of a run share."""

    checkpoint: str
    """URL of the checkpoint itself: which one is a training run's best may change at any moment."""
    fingerprint: str
    """Fingerprint of the checkpoint."""
    schema: Schema
    """Schema of the chips that the model was trained on."""
    options: MapOptions
    content: MapContent
    """Content of the maps: heights, classes of pixels or labels of tiles."""
    bands: tuple[str, ...]
    """Names of the scenes' bands, for scenes whose files do not name them."""
    nodata: float | None
    """Value that means a missing pixel in the scenes, beside what they declare."""
    out: str
    block: int
    """Pixels along each side of a block."""
    device: Kind = "cpu"
    """Kind of device that predicts."""
    palette: Palette = "continuous"
    """Colours of heights, in the style and the picture beside each map."""
    quick_look: bool = False
    """Whether to write a picture beside each map."""
    stac: bool = False
    """Whether to write a STAC item beside each map."""
    trust: str = ""
    """Import path of the checkpoint's own decoder; "" if its decoder is built in."""
    tags: tuple[tuple[str, str], ...] = ()
    """Metadata of every map: names and values."""

    @property
    def block_side(self) -> int:
        """Side of a block in pixels of the map."""
        return self.content.block_side(self.block)

    @property
    def ledger(self) -> Ledger:
        """Ledger of the folder of maps."""
        return Ledger(self.out, self.content.dtype)


@dataclass(frozen=True)
class BlockTask:
    """One block of one scene."""

    scene: str
    """URL of the scene."""
    version: str
    """Version of the scene's file, see `shards.storage.objects.version_of`."""
    name: str
    """Name of its map in the ledger."""
    block: Block
    masks: str = ""
    """Masks of the scene (`SceneMasks`) as JSON; "" without masks."""

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
    """Outcome of a task: its block is in the ledger, or `error` says why not."""

    task: BlockTask
    seconds_read: float = 0.0
    seconds_predicted: float = 0.0
    seconds_waited: float = 0.0
    """Seconds that the predictor waited for pixels."""
    batch_size: int = 0
    """Number of windows per batch when the block was computed; 0 without a block."""
    error: str = ""
    """Reason why there is no block; empty if there is one."""


class Reader:
    """Reader of blocks' pixels, which keeps the last scene open."""

    def __init__(self, job: MapJob) -> None:
        bound_cache()
        self._job = job
        self._scene: Scene | None = None
        self._masks: OpenMasks | None = None

    def __call__(self, task: BlockTask) -> Halo:
        """Read the pixels that the block is computed from.

        Raises:
            InputError: the scene or a mask cannot be read, or was replaced since the run began.
        """
        if self._scene is None or self._scene.url != task.scene:
            self.close()
            if version_of(task.scene) != task.version:
                raise InputError(
                    f"{task.scene}: was replaced while its map was being made; run the command again"
                )
            self._masks = OpenMasks(SceneMasks.from_json(task.masks)) if task.masks else None
            self._scene = Scene(task.scene, self._job.schema, self._job.bands, nodata=self._job.nodata)
        block = self._job.content.in_scene(task.block, self._scene.shape)
        halo = self._scene.halo(block, self._job.options.grid)
        return self._masked(halo, self._scene, self._masks) if self._masks else halo

    def _masked(self, halo: Halo, scene: Scene, masks: OpenMasks) -> Halo:
        """Mark the pixels that a mask drops as missing."""
        _, height, width = halo.image_CHW.shape
        read = Block(Span(halo.row, halo.row + height), Span(halo.column, halo.column + width))
        masked_HW = masks.masked(Grid.of(scene.raster), read)
        if not masked_HW.any():
            return halo
        masked_CHW = np.broadcast_to(masked_HW, halo.image_CHW.shape)
        return replace(halo, image_CHW=mark(halo.image_CHW, masked_CHW, self._job.schema.nodata))

    def close(self) -> None:
        """Close the scene that is open."""
        if self._scene:
            self._scene.raster.close()
            self._scene = None
        if self._masks:
            self._masks.close()
            self._masks = None
