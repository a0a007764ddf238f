"""`treeline evaluate` of a model of tiles: its scores beside those of the two baselines."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from shards.errors import InputError
from shards.progress import Advance, progress
from shards.read.dataset import Dataset, open_dataset
from shards.read.order import Chips, subset
from trainer.config import EvaluateConfig
from trainer.data.feed import feed
from trainer.data.labels import TileLabels, tile_labels, with_a_label
from trainer.devices.cards import chosen_here, computes
from trainer.devices.choice import Precision
from trainer.devices.precision import autocast, predicting
from trainer.evaluate.evaluated import about_scores, refuse_other_images
from trainer.fit.labels import decided
from trainer.model.encoder import band_features
from trainer.model.frozen_backbone import placed_on
from trainer.model.tile_checkpoint import TileCheckpoint, load_tile_checkpoint
from trainer.score.tile_baselines import MODEL
from trainer.score.tile_evaluation import TileEvaluation


@dataclass(frozen=True)
class TilePredictions:
    """Predicted labels of tiles."""

    tiles: Chips
    """Numbers of the tiles in the dataset, ascending, without those that have no valid patch or lie in a
    left-out shard."""
    predicted: dict[str, NDArray[np.float64]]
    """Values, or numbers of classes, of these tiles by the name of what predicts: the model, baselines."""


def predict_tiles(
    checkpoint: TileCheckpoint,
    dataset: Dataset,
    tiles: Chips,
    device: torch.device,
    batch_size: int = EvaluateConfig.batch_size,
    advance: Advance = lambda count: None,
    precision: Precision = "float32",
) -> TilePredictions:
    """Predict the label of these tiles (numbers in the dataset, ascending); `advance` hears of each batch.

    Raises:
        InputError: the tiles' bands are not those that the model was trained on.
        FloatingPointError: a prediction is not a number.
    """
    refuse_other_images(dataset.url, dataset.schema, checkpoint.model.encoder.schema)
    model, head = placed_on(checkpoint.model, precision, device), checkpoint.model.head
    met, found = [tiles[:0]], dict[str, list[NDArray[np.float64]]]()
    with torch.no_grad(), predicting(precision):
        for fed in feed(dataset.batches(tiles, batch_size), dataset.schema, device):
            with autocast(precision, device):
                outputs_BK, seen_B = model.predict(fed.image_BCHW)
            features_BF = band_features(*model.encoder.normalise(fed.image_BCHW))
            if not outputs_BK[seen_B].isfinite().all():
                raise FloatingPointError("a predicted label is not a number; use another checkpoint")
            is_seen_B = seen_B.cpu().numpy()
            met.append(fed.batch.chips[is_seen_B])
            values = {MODEL: decided(outputs_BK, len(head.classes))}
            values |= checkpoint.baselines.predicted(features_BF.cpu().numpy())
            for name, values_B in values.items():
                found.setdefault(name, []).append(values_B[is_seen_B])
            advance(len(fed.batch.chips))
    return TilePredictions(
        np.concatenate(met), {name: np.concatenate(parts) for name, parts in found.items()}
    )


def labels_for(checkpoint: TileCheckpoint, dataset: Dataset, tiles: Chips) -> TileLabels:
    """Read the labels that the model predicts, of these tiles of the dataset.

    Raises:
        InputError: one of them cannot be a label; those of other tiles are not looked at.
    """
    head = checkpoint.model.head
    return tile_labels(dataset, head.label, bool(head.classes), head.classes, tiles)


def evaluate_tiles(config: EvaluateConfig) -> TileEvaluation:
    """Score the checkpoint on the labelled tiles of a split.

    Raises:
        InputError: no tile has a label, a label to score on is wrong, or the tiles are not like those of the
            training.
    """
    if config.limit is not None and config.limit < 1:
        raise InputError(f"--limit {config.limit}: give 1 or more")
    device = torch.device(chosen_here(config.device, config.precision))
    asked = computes(config.precision, device)
    checkpoint = load_tile_checkpoint(config.checkpoint, trust=config.trust)
    dataset = open_dataset(config.data, config.reading.read_options)
    head = checkpoint.model.head
    tiles = with_a_label(dataset, head.label, dataset.chips(config.split, where=config.where))
    tiles = tiles[subset(tiles.size, config.limit)]
    # The baselines were fitted in training, so that no other label counts.
    labels = labels_for(checkpoint, dataset, tiles)
    if not tiles.size:
        where = f" where {config.where}" if config.where else ""
        raise InputError(
            f"{config.data}: no tile of the split {config.split!r}{where} has a label {head.label}; choose "
            f"another --split{' or --where' if where else ''}"
        )
    asked.say()
    with progress("predict", tiles.size, "tiles") as advance:
        found = predict_tiles(
            checkpoint, dataset, tiles, device, config.batch_size, advance, config.precision
        )
    about = about_scores(config, checkpoint.fingerprint, dataset, int(found.tiles.size), asked.precision)
    if not found.tiles.size:
        raise InputError(f"{config.data}: no tile has a valid patch; choose another --split or --where")
    about["without_pixels"] = int(tiles.size - found.tiles.size)
    return TileEvaluation(
        head.label,
        head.unit,
        head.classes,
        dataset.index.select(["key", "split", *dataset.manifest.attributes]).take(found.tiles),
        labels.values_N[found.tiles],
        found.predicted,
        about,
    )
