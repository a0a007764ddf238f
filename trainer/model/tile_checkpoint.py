"""Checkpoints of tile tasks: folders from which a model of tiles can be built again. Nothing is unpickled.

config.json          the model's parts, its images, its training data; written last
model.safetensors    weights
statistics.json      statistics of the tiles, for the normalisation
metrics.json         scores so far, and the baselines
"""

from dataclasses import dataclass
from typing import Any

from safetensors.torch import load, save

from shards.errors import InputError
from shards.format.manifest import json_bytes, read_json
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from shards.storage.checksum import hexadecimal
from shards.storage.objects import exists, join, read_bytes
from trainer.model.backbone import build_backbone
from trainer.model.checkpoint import (
    CONFIG,
    METRICS,
    STATISTICS,
    TILES,
    WEIGHTS,
    checkpoint_url,
    refusing_other_weights,
    weights_of,
)
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
        return {
            WEIGHTS: save(weights_of(self.model, encoder.backbone)),
            STATISTICS: json_bytes(encoder.statistics.to_json()),
            METRICS: json_bytes({**self.metrics, "baselines": self.baselines.to_json()}),
            CONFIG: json_bytes(config),
        }


def is_of_tiles(name: str) -> bool:
    """Tell whether a folder is a run of a tile task, or one of its checkpoints."""
    url = join(checkpoint_url(name), CONFIG)
    return exists(url) and read_json(url).get("format") == TILES


def load_tile_checkpoint(name: str) -> TileCheckpoint:
    """Load the checkpoint at `name` (or the best of the run there), on the CPU, in eval mode.

    Raises:
        InputError: it is incomplete, damaged, or of another version.
    """
    url = checkpoint_url(name)
    for file in (CONFIG, WEIGHTS, STATISTICS, METRICS):
        if not exists(join(url, file)):
            raise InputError(
                f"{url}: not a checkpoint ({file} is missing); give a folder that treeline train wrote"
            )
    config, weights = read_json(join(url, CONFIG)), read_bytes(join(url, WEIGHTS))
    if (config.get("format"), config.get("version")) != (TILES, VERSION):
        raise InputError(
            f"{url}: holds {config.get('format')} {config.get('version')}, not {TILES} {VERSION}; use the "
            "version of Treeline that wrote it, or train again"
        )
    statistics = Statistics.from_json(read_json(join(url, STATISTICS)))
    encoder = Encoder(
        Schema.from_json(config["schema"]),
        tuple(config["bands"]),
        statistics,
        build_backbone(config["backbone"]),
    )
    model = TileModel(encoder, TileHead.from_json(config["head"]))
    with refusing_other_weights(join(url, WEIGHTS)):
        model.load_state_dict(load(weights))
    metrics = read_json(join(url, METRICS))
    baselines = TileBaselines.from_json(metrics.pop("baselines"))
    described = (json_bytes(config), json_bytes(statistics.to_json()), weights)
    fingerprint = hexadecimal("".join(map(hexadecimal, described)).encode())
    return TileCheckpoint(model.eval(), config["trained_on"], metrics, baselines, fingerprint)
