"""Chips that are scored by `treeline evaluate`: whether they fit the checkpoint, and what is said of them."""

from typing import Any

from shards.errors import InputError
from shards.format.band_values import difference
from shards.format.schema import Schema
from shards.read.dataset import Dataset
from shards.read.order import Chips
from shards.said import say
from shards.version import made_by_code
from shards.write.leakage import leakage, sharing_scenes
from trainer.config import EvaluateConfig
from trainer.devices.choice import Precision
from trainer.score.evaluation import SHARING


def refuse_other_label(name: str, theirs: Schema, ours: Schema) -> None:
    """Refuse chips of the dataset called `name` whose label is not that of the training.

    Raises:
        InputError: says both labels.
    """
    if theirs.label != ours.label:
        raise InputError(
            f"{name}: chips have {theirs.label or 'no label'}, but the checkpoint was trained on "
            f"{ours.label}; choose another --data"
        )


def refuse_other_images(name: str, theirs: Schema, ours: Schema) -> None:
    """Refuse chips of the dataset called `name` whose images are not like those of the training.

    Raises:
        InputError: says what differs.
    """
    if differs := difference(theirs, ours):
        raise InputError(
            f"{name}: chips {differs}; they must be as in training, so choose another --data or --checkpoint"
        )


def chips_to_score(config: EvaluateConfig, dataset: Dataset) -> Chips:
    """Return the chips that the options choose, ascending.

    Raises:
        InputError: there is none.
    """
    chips = dataset.chips(config.split, config.limit, config.where)
    if not chips.size:
        where = f" where {config.where}" if config.where else ""
        raise InputError(
            f"{config.data}: no chip is in the split {config.split!r}{where}; choose another --split"
            f"{' or --where' if where else ''}"
        )
    return chips


def about_scores(
    config: EvaluateConfig, fingerprint: str, dataset: Dataset, chips: int, precision: Precision
) -> dict[str, Any]:
    """Describe what was scored, as plain JSON values; print troubles, and how near splits are to each other.

    Args:
        config: the options.
        fingerprint: the checkpoint's.
        dataset: the dataset.
        chips: number of chips that were scored.
        precision: precision in which they were predicted.
    """
    for trouble in dataset.troubles():
        say(trouble)
    shared: dict[str, int] = {}
    if config.split in ("val", "test"):
        shared[SHARING] = sharing_scenes(dataset.url, dataset.manifest, config.split)
        said = leakage(dataset.url, dataset.manifest)
        say(f"{config.data}: {said}")
    return {
        "checkpoint": config.checkpoint,
        "checkpoint_fingerprint": fingerprint,
        "data": config.data,
        "fingerprint": dataset.manifest.fingerprint,
        "split": config.split,
        "where": config.where,
        "limit": config.limit,
        "chips": chips,
        **shared,
        "precision": precision,
        **made_by_code(),
    }
