"""Checkpoints of models of pixel classes: folders (trainer.model.checkpoint) and what is in them."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from shards.format.manifest import understood
from shards.storage.objects import join
from trainer.decoders.features import DecoderConfig
from trainer.model.checkpoint import (
    CLASSES,
    CONFIG,
    DAMAGED,
    METRICS,
    check_version,
    format_of,
    pixel_files,
    read_checkpoint_folder,
)
from trainer.model.class_model import ClassModel
from trainer.score.class_baselines import ClassBaselines

VERSION = 1


@dataclass(frozen=True)
class ClassCheckpoint:
    """A model of pixel classes with its training data, scores and baselines."""

    model: ClassModel
    trained_on: dict[str, Any]
    """Dataset's URL and fingerprint, choice of its chips, and the code's version and commit."""
    metrics: dict[str, Any]
    """Scores after the checkpoint's epoch."""
    baselines: ClassBaselines
    fingerprint: str = ""
    """Checksum of configuration, statistics and weights; empty unless the checkpoint was loaded."""

    def files(self) -> dict[str, bytes]:
        """Return the folder's files by name; config.json comes last."""
        metrics = {**self.metrics, "baselines": self.baselines.to_json()}
        return pixel_files((CLASSES, VERSION), self.model, self.trained_on, metrics)


def is_of_classes(name: str) -> bool:
    """Tell whether a folder is a run that learnt classes of pixels, or one of its checkpoints."""
    return format_of(name) == CLASSES


def load_class_checkpoint(name: str, with_weights: bool = True, trust: str = "") -> ClassCheckpoint:
    """Load the checkpoint at `name` (or the best of the run there), on the CPU, in eval mode.

    Args:
        name: folder of a checkpoint or a run.
        with_weights: whether its weights are wanted; see `load_tile_checkpoint`.
        trust: import path of its decoder, if that is the user's own; see trainer.model.trust.

    Raises:
        InputError: it is incomplete, damaged, or of another format or version.
    """
    folder = read_checkpoint_folder(
        name, partial(check_version, kind=CLASSES, version=VERSION), with_weights, trust
    )
    with understood(join(folder.url, CONFIG), DAMAGED):
        model = ClassModel(
            folder.schema,
            folder.bands,
            folder.statistics,
            folder.backbone(),
            DecoderConfig.from_json(folder.config["decoder"]),
        )
        trained_on = folder.config["trained_on"]
    with understood(join(folder.url, METRICS), DAMAGED):
        baselines = ClassBaselines.from_json(folder.metrics.pop("baselines"))
    fingerprint = folder.load_into(model)
    return ClassCheckpoint(model.eval(), trained_on, folder.metrics, baselines, fingerprint)
