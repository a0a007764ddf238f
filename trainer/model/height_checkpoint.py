"""Checkpoints of regressors: folders (trainer.model.checkpoint) and what is in them."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from shards.errors import InputError
from shards.format.manifest import understood
from shards.storage.objects import join, publish
from trainer.decoders.features import DecoderConfig
from trainer.model.checkpoint import (
    CLASSES,
    HEIGHTS,
    PRETRAINED,
    TILES,
    ModelHeader,
    check_version,
    read_checkpoint_folder,
)
from trainer.model.checkpoint_files import pixel_files
from trainer.model.regressor import Regressor
from trainer.score.baselines import Baselines
from trainer.weights.checkpoint_sums import CONFIG
from trainer.weights.run_checkpoints import DAMAGED

VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A regressor with its training data, scores and baselines."""

    regressor: Regressor
    trained_on: dict[str, Any]
    """Dataset's URL and fingerprint, choice of its chips, and the code's version and commit."""
    metrics: dict[str, Any]
    """Scores after the checkpoint's epoch."""
    baselines: Baselines
    fingerprint: str = ""
    """Checksum of configuration, statistics and weights; empty unless the checkpoint was loaded."""

    def save(self, url: str) -> None:
        """Write the folder at `url`."""
        for name, data in self.files().items():
            publish(join(url, name), data)

    def files(self) -> dict[str, bytes]:
        """Return the folder's files by name; config.json comes last."""
        metrics = {**self.metrics, "baselines": self.baselines.to_json()}
        return pixel_files((HEIGHTS, VERSION), self.regressor, self.trained_on, metrics)


def load_checkpoint(url: str, with_weights: bool = True, trust: str = "") -> Checkpoint:
    """Load the checkpoint at `url` (or the best of the run there), on the CPU, in eval mode.

    Args:
        url: folder of a checkpoint or a run.
        with_weights: whether to load the weights. Without them the regressor is on the device "meta", which
            describes it and takes no memory.
        trust: import path of its decoder, if that is the user's own; see trainer.model.trust.

    Raises:
        InputError: there is no checkpoint, or it is incomplete or not trusted.
    """
    folder = read_checkpoint_folder(url, _check_heights, with_weights, trust)
    return Checkpoint(*folder.contents(partial(folder.pixel_model, Regressor), Baselines.from_json))


def _check_heights(url: str, config: dict[str, Any]) -> None:
    """Refuse the checkpoint at `url` if it is not a regressor's; say what it is."""
    if config.get("format") == PRETRAINED:
        raise InputError(
            f"{url}: holds a pre-trained backbone, not a regressor; train one (treeline train --backbone)"
        )
    if config.get("format") in (TILES, CLASSES):
        with understood(join(url, CONFIG), DAMAGED):
            of_tiles = config["format"] == TILES
            label = config["head" if of_tiles else "schema"]["label"]
        what = f"{label} of whole tiles" if of_tiles else f"classes of {label}"
        raise InputError(f"{url}: predicts {what}, no heights; give a checkpoint of heights")
    check_version(url, config, HEIGHTS, VERSION)


@dataclass(frozen=True, kw_only=True)
class CheckpointHeader(ModelHeader):
    """A checkpoint's description of its regressor."""

    decoder: DecoderConfig


def read_checkpoint_header(url: str, trust: str = "") -> CheckpointHeader:
    """Read the description of the checkpoint at `url` without holding its weights in memory.

    The weights are read once, piece by piece, for the fingerprint.

    Raises:
        InputError: there is no checkpoint, or its weights are cut off, or they belong to another regressor.
    """
    described = load_checkpoint(url, with_weights=False, trust=trust)
    regressor = described.regressor
    return CheckpointHeader(
        schema=regressor.schema,
        patch_size=regressor.patch_size,
        decoder=regressor.decoder_config,
        has_spread=regressor.decoder.has_spread,
        trained_on=described.trained_on,
        metrics=described.metrics,
        fingerprint=described.fingerprint,
        statistics=regressor.statistics,
    )
