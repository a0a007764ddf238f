"""Folders of checkpoints of classes and of tiles, read and checked; for their files see checkpoint.py."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import DINOv3ViTModel

from shards.format.manifest import read_json
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from shards.storage.objects import exists, join
from trainer.model.checkpoint import (
    CONFIG,
    METRICS,
    WEIGHTS,
    check_files,
    check_version,
    checkpoint_url,
    fingerprint_of,
    load_weights,
    read_statistics,
)
from trainer.model.empty_backbone import empty_backbone


@dataclass(frozen=True)
class CheckpointFolder:
    """Contents of a checkpoint's folder."""

    url: str
    """URL of the checkpoint itself."""
    config: dict[str, Any]
    """Description of the model."""
    statistics: Statistics
    """Statistics of the training chips."""
    metrics: dict[str, Any]
    """Scores after the checkpoint's epoch, and the baselines."""
    with_weights: bool
    """Whether its models get the weights; otherwise they are on the device "meta" and take no memory."""

    @property
    def schema(self) -> Schema:
        """Format of the images."""
        return Schema.from_json(self.config["schema"])

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that the backbone sees, in its order."""
        return tuple(self.config["bands"])

    def backbone(self) -> DINOv3ViTModel:
        """Build the backbone, whose weights are to be loaded."""
        return empty_backbone(self.config["backbone"])

    def load_into(self, model: nn.Module) -> str:
        """Give a model the weights, or only see that they fit.

        Returns:
            the checkpoint's fingerprint: checksum of configuration, statistics and weights.

        Raises:
            InputError: they are another model's, or damaged.
        """
        checksum = load_weights(model, join(self.url, WEIGHTS), self.with_weights)
        return fingerprint_of(self.config, self.statistics, checksum)


def format_of(name: str) -> str:
    """Return the format of the checkpoint (or of the best one of the run) at `name`; "" if there is none."""
    url = join(checkpoint_url(name), CONFIG)
    return str(read_json(url).get("format")) if exists(url) else ""


def read_checkpoint_folder(name: str, kind: str, version: int, with_weights: bool) -> CheckpointFolder:
    """Read the checkpoint at `name`, or the best of the run there.

    Args:
        name: folder of a checkpoint or a run.
        kind: format that it must have.
        version: version that it must have.
        with_weights: whether its models get the weights.

    Raises:
        InputError: it is incomplete, or has another format or version.
    """
    url = checkpoint_url(name)
    check_files(url)
    config = read_json(join(url, CONFIG))
    check_version(url, config, kind, version)
    return CheckpointFolder(url, config, read_statistics(url), read_json(join(url, METRICS)), with_weights)
