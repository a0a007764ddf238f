"""Checkpoints of models of pixel classes: folders (trainer.model.checkpoint) and what is in them."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from trainer.model.checkpoint import CLASSES, check_version, format_of, read_checkpoint_folder
from trainer.model.checkpoint_files import pixel_files
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
    make = partial(folder.pixel_model, ClassModel)
    return ClassCheckpoint(*folder.contents(make, ClassBaselines.from_json))
