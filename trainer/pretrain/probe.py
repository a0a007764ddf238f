"""Probes of what tokens tell about a label: ridge regression and nearest neighbours, on features of tiles.

Numbers (floats in the index) are predicted, and scored by R2 and RMSE. Classes (text, whole numbers, true or
false) are told apart by a ridge regression on their indicators, and scored by accuracy.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.errors import InputError
from shards.read.dataset import Dataset
from shards.read.order import Chips, subset

PENALTIES = np.logspace(-4, 4, 17)
"""Ridge penalties to choose from, as shares of the number of tiles; features have deviation 1."""
FOLDS = 5
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
        """
        scores = self._scores(ridge(self._scaled(features_NF), self.values_NL, self.is_train_N))
        numbers: dict[str, float | int | None] = {f"{kind}_{name}": score for name, score in scores.items()}
        if with_neighbours:
            near = self._scores(neighbours(features_NF, self.values_NL, self.is_train_N))
            numbers |= {f"{kind}_knn_{name}": score for name, score in near.items()}
        return numbers

    def _scaled(self, features_NF: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Bring features to mean 0 and deviation 1 over the training tiles; constant ones become 0."""
        features_NF = features_NF.astype(np.float64)
        fitted_MF = features_NF[self.is_train_N]
        deviation_F = fitted_MF.std(0)
        scaled_NF: NDArray[np.float64] = np.where(
            deviation_F > 1e-9, (features_NF - fitted_MF.mean(0)) / np.maximum(deviation_F, 1e-9), 0
        )
        return scaled_NF

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


def ridge(
    features_NF: NDArray[np.float64], values_NL: NDArray[np.float64], is_train_N: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Predict the values of the tiles that are not for training, (V, L), by ridge regression.

    The penalty is the one with the least squared error in five folds of the training tiles.
    """
    train_MF, train_ML = features_NF[is_train_N], values_NL[is_train_N]
    fold_M = np.arange(len(train_MF)) % FOLDS
    errors_P = np.zeros(len(PENALTIES))
    for fold in range(min(FOLDS, len(train_MF))):
        kept_M = fold_M != fold
        if kept_M.any():
            solved = _solved(train_MF[kept_M], train_ML[kept_M])
            for place, penalty in enumerate(PENALTIES):
                away = solved(penalty)(train_MF[~kept_M]) - train_ML[~kept_M]
                errors_P[place] += (away**2).sum()
    return _solved(train_MF, train_ML)(PENALTIES[int(errors_P.argmin())])(features_NF[~is_train_N])


Predict = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _solved(features_MF: NDArray[np.float64], values_ML: NDArray[np.float64]) -> Callable[[float], Predict]:
    """Decompose once for all penalties; the mean is not penalised."""
    centre_F, mean_L = features_MF.mean(0), values_ML.mean(0)
    left_MR, size_R, right_RF = np.linalg.svd(features_MF - centre_F, full_matrices=False)
    seen_RL = left_MR.T @ (values_ML - mean_L)

    def with_penalty(penalty: float) -> Predict:
        shrunk_R = size_R / (size_R**2 + penalty * len(features_MF))
        weights_FL = right_RF.T @ (shrunk_R[:, None] * seen_RL)
        return lambda features_NF: (features_NF - centre_F) @ weights_FL + mean_L

    return with_penalty


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


def band_features(pixels_BCHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """Return features_BF that any model should beat: mean and deviation of each band's valid pixels."""
    weights_B1HW = valid_BHW[:, None].float()
    count_BC = weights_B1HW.sum((2, 3)).clamp(min=1)
    mean_BC = (pixels_BCHW * weights_B1HW).sum((2, 3)) / count_BC
    away_BCHW = (pixels_BCHW - mean_BC[..., None, None]) * weights_B1HW
    deviation_BC = (away_BCHW.square().sum((2, 3)) / count_BC).sqrt()
    return torch.cat([mean_BC, deviation_BC], 1)


def probe_tiles(dataset: Dataset, label: str, count: int) -> Chips:
    """Choose the probe's tiles: at most `count` labelled ones each of the splits train and val, ascending.

    Raises:
        InputError: there is no such column, too few tiles have a label, all have the same one, or no class of
            the validation tiles is known from training.
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
    if not pa.types.is_floating(values.type) and not pc.any(pc.is_in(val_values, values.unique())).as_py():
        raise InputError(
            f"--probe {label}: its values are taken as classes, and no validation tile has one of a training "
            "tile; choose another column"
        )
    return np.sort(np.concatenate(chosen))
