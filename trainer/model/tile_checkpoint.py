"""Checkpoints of tile tasks: folders (trainer.model.checkpoint) and what is in them."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from trainer.model.checkpoint import TILES, check_version, format_of, read_checkpoint_folder
from trainer.model.checkpoint_files import checkpoint_files, weights_files
from trainer.model.encoder import Encoder
from trainer.model.tile_model import TileHead, TileModel
from trainer.score.tile_baselines import TileBaselines

VERSION = 1


@dataclass(frozen=True)
class TileCheckpoint:
    """A model of tiles with its training data, scores and baselines."""

    model: TileModel
    trained_on: dict[str, Any]
    """Dataset's URL and fingerprint, choice of its tiles, and the code's version and commit."""
    metrics: dict[str, Any]
    """Scores after the checkpoint's epoch."""
    baselines: TileBaselines
    fingerprint: str = ""
    """Checksum of configuration, statistics and weights; empty unless the checkpoint was loaded."""

    def files(self) -> dict[str, bytes]:
        """Return the folder's files by name; config.json comes last."""
        encoder = self.model.encoder
        config = {
            "format": TILES,
            "version": VERSION,
            "schema": encoder.schema.to_json(),
            "bands": list(encoder.bands),
            "backbone": encoder.backbone.config.to_diff_dict(),
            "head": self.model.head.to_json(),
            "trained_on": self.trained_on,
        }
        metrics = {**self.metrics, "baselines": self.baselines.to_json()}
        weights = weights_files(self.model, encoder.backbone)
        return checkpoint_files(config, weights, encoder.statistics, metrics)


def is_of_tiles(name: str) -> bool:
    """Tell whether a folder is a run of a tile task, or one of its checkpoints."""
    return format_of(name) == TILES


def load_tile_checkpoint(name: str, with_weights: bool = True, trust: str = "") -> TileCheckpoint:
    """Load the checkpoint at `name` (or the best of the run there), on the CPU, in eval mode.

    Args:
        name: folder of a checkpoint or a run.
        with_weights: whether its weights are wanted. Without them the model is on the device "meta": it says
            what it is, and takes no memory.
        trust: import path that the user names; a model of tiles has no decoder, so none is right.

    Raises:
        InputError: it is incomplete, damaged, or of another version.
    """
    folder = read_checkpoint_folder(
        name, partial(check_version, kind=TILES, version=VERSION), with_weights, trust
    )

    def make() -> TileModel:
        encoder = Encoder(folder.schema, folder.bands, folder.statistics, folder.backbone())
        return TileModel(encoder, TileHead.from_json(folder.config["head"]))

    return TileCheckpoint(*folder.contents(make, TileBaselines.from_json))
