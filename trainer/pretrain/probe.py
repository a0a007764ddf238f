"""Probes of what tokens tell about a label: a regression and nearest neighbours, on features of tiles.

Numbers (floats in the index) are predicted by ridge regression, and scored by R2 and RMSE. Classes (text,
whole numbers, true or false) are told apart by logistic regression, and scored by the share of wrong tiles.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.errors import InputError
from shards.read.dataset import Dataset
from shards.read.order import Chips, subset
from trainer.score.logistic import fit_logistic
from trainer.score.ridge import fit_ridge

NEIGHBOURS = 20
"""Neighbours that vote, as in facebookresearch/dino's evaluation (20 of 10, 20, 100, 200 did best there)."""


class Probe:
    """Labels of some tiles, and the scores that features of these tiles reach."""

    def __init__(self, dataset: Dataset, tiles: Chips, label: str) -> None:
        """Args:
        dataset: the dataset.
        tiles: numbers of the probe's tiles, ascending; see `probe_tiles`.
        label: column of the index.
        """
        self.label = label
        values = dataset.index[label].take(tiles)
        split_N = np.asarray(dataset.index["split"].take(tiles))
        self.is_train_N: NDArray[np.bool_] = split_N == "train"
        if pa.types.is_floating(values.type):
            self.classes = 0
            self.values_NL = values.to_numpy().astype(np.float64)[:, None]
        else:
            names, class_N = np.unique(np.asarray(values.to_pylist()), return_inverse=True)
            self.classes = len(names)
            self.values_NL = (class_N[:, None] == np.arange(self.classes)).astype(np.float64)

    @property
    def decides(self) -> str:
        """Score that is compared over epochs; lower is better."""
        return "probe_error" if self.classes else "probe_rmse"

    def scored(
        self, features_NF: NDArray[np.floating[Any]], kind: str, with_neighbours: bool = True
    ) -> dict[str, float | int | None]:
        """Fit on the training tiles, and score on the others.

        Args:
            features_NF: a row for each tile.
            kind: word with which the scores' names begin.
            with_neighbours: whether nearest neighbours are scored, too.

        Raises:
            FloatingPointError: features are not numbers.
        """
        if not np.isfinite(features_NF).all():
            raise FloatingPointError("the tokens are not numbers any more; lower --learning-rate")
        features_MF, values_ML = features_NF[self.is_train_N], self.values_NL[self.is_train_N]
        fitted = (
            fit_logistic(features_MF, values_ML.argmax(1), self.classes)
            if self.classes
            else fit_ridge(features_MF, values_ML)
        )
        scores = self._scores(fitted.predict(features_NF[~self.is_train_N]))
        numbers: dict[str, float | int | None] = {f"{kind}_{name}": score for name, score in scores.items()}
        if with_neighbours:
            near = self._scores(neighbours(features_NF, self.values_NL, self.is_train_N))
            numbers |= {f"{kind}_knn_{name}": score for name, score in near.items()}
        return numbers

    def _scores(self, predicted_VL: NDArray[np.float64]) -> dict[str, float | None]:
        """Score predictions; R2 is not defined where all tiles have the same label."""
        true_VL = self.values_NL[~self.is_train_N]
        if self.classes:
            return {"error": float((predicted_VL.argmax(1) != true_VL.argmax(1)).mean())}
        fitted_ML = self.values_NL[self.is_train_N]
        predicted_VL = predicted_VL.clip(fitted_ML.min(), fitted_ML.max())
        square = float(((predicted_VL - true_VL) ** 2).mean())
        variance = float(true_VL.var())
        return {"rmse": square**0.5, "r2": 1 - square / variance if variance else None}


def neighbours(
    features_NF: NDArray[np.floating[Any]], values_NL: NDArray[np.float64], is_train_N: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Predict (V, L) as the mean value of the training tiles whose features have the smallest angle."""
    length_N1 = np.linalg.norm(features_NF, axis=1, keepdims=True)
    unit_NF = features_NF / np.maximum(length_N1, 1e-12)
    cosine_VM = unit_NF[~is_train_N] @ unit_NF[is_train_N].T
    count = min(NEIGHBOURS, cosine_VM.shape[1])
    nearest_VK = np.argsort(-cosine_VM, axis=1, kind="stable")[:, :count]
    predicted_VL: NDArray[np.float64] = values_NL[is_train_N][nearest_VK].mean(1)
    return predicted_VL


def probe_tiles(dataset: Dataset, label: str, count: int) -> Chips:
    """Choose the probe's tiles: at most `count` labelled ones each of the splits train and val, ascending.

    Raises:
        InputError: there is no such column, too few tiles have a label, all have the same one, there are more
            classes than half of the tiles, or no class of the validation tiles is known from training.
    """
    columns = dataset.index.column_names
    if label not in columns:
        raise InputError(f"--probe {label}: {dataset.url} has no such column; it has {', '.join(columns)}")
    chosen = []
    for split in ("train", "val"):
        tiles = dataset.chips(split)
        is_known = np.asarray(dataset.index[label].take(tiles).is_valid())
        tiles = tiles[is_known]
        if tiles.size < 2:
            raise InputError(
                f"--probe {label}: {tiles.size} tiles of {split} have a label; two or more are needed"
            )
        chosen.append(tiles[subset(tiles.size, count)])
    values, val_values = (dataset.index[label].take(tiles) for tiles in chosen)
    if len(values.unique()) < 2:
        raise InputError(f"--probe {label}: all training tiles have the same value; choose another column")
    classes = 0 if pa.types.is_floating(values.type) else len(values.unique())
    if classes > len(values) / 2:
        raise InputError(
            f"--probe {label}: {classes} of {len(values)} training tiles have different values, which are no "
            "classes; choose another column"
        )
    if classes and not pc.any(pc.is_in(val_values, values.unique())).as_py():
        raise InputError(
            f"--probe {label}: its values are taken as classes, and no validation tile has one of a training "
            "tile; choose another column"
        )
    return np.sort(np.concatenate(chosen))
