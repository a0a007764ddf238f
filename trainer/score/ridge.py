"""Ridge regression of labels on features of tiles, whose penalty is chosen by five folds. No torch here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

PENALTIES = np.logspace(-4, 4, 17)
"""Penalties to choose from, as shares of the number of tiles; features have deviation 1."""
FOLDS = 5
NO_DEVIATION = 1e-9
"""Deviation below which a feature counts as constant, and is left out."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ridge:
    """Linear functions of features (F), one for each of the labels (L)."""

    weights_FL: Array
    offset_L: Array

    def predict(self, features_NF: NDArray[np.floating[Any]]) -> Array:
        """Return values_NL for tiles (N)."""
        values_NL: Array = features_NF.astype(np.float64) @ self.weights_FL + self.offset_L
        return values_NL

    def to_json(self) -> dict[str, Any]:
        """Return the functions as plain JSON values."""
        return {"weights": self.weights_FL.tolist(), "offset": self.offset_L.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Undo `to_json`."""
        return cls(np.array(values["weights"], np.float64), np.array(values["offset"], np.float64))


def fit_ridge(features_MF: NDArray[np.floating[Any]], values_ML: NDArray[np.floating[Any]]) -> Ridge:
    """Fit the ridge regression whose penalty has the least squared error in five folds of the tiles (M).

    Features are brought to mean 0 and deviation 1; the mean of the values is not penalised.
    """
    targets_ML: Array = values_ML.astype(np.float64)
    scaled_MF, centre_F, scale_F = standardised(features_MF)
    fold_M = np.arange(len(scaled_MF)) % FOLDS
    errors_P = np.zeros(len(PENALTIES))
    for fold in range(min(FOLDS, len(scaled_MF))):
        kept_M = fold_M != fold
        if kept_M.any():
            solved = _solved(scaled_MF[kept_M], targets_ML[kept_M])
            for place, penalty in enumerate(PENALTIES):
                errors_P[place] += (
                    (solved(penalty).predict(scaled_MF[~kept_M]) - targets_ML[~kept_M]) ** 2
                ).sum()
    best = _solved(scaled_MF, targets_ML)(PENALTIES[int(errors_P.argmin())])
    weights_FL = best.weights_FL * scale_F[:, None]
    return Ridge(weights_FL, best.offset_L - centre_F @ weights_FL)


def standardised(features_MF: NDArray[np.floating[Any]]) -> tuple[Array, Array, Array]:
    """Bring features to mean 0 and deviation 1; return them, their means, and the factors that do it.

    The factor of a constant feature is 0.
    """
    features_MF = features_MF.astype(np.float64)
    centre_F, deviation_F = features_MF.mean(0), features_MF.std(0)
    scale_F = np.where(deviation_F > NO_DEVIATION, 1 / np.maximum(deviation_F, NO_DEVIATION), 0)
    return (features_MF - centre_F) * scale_F, centre_F, scale_F


def _solved(features_MF: Array, values_ML: Array) -> Callable[[float], Ridge]:
    """Decompose once for all penalties."""
    centre_F, mean_L = features_MF.mean(0), values_ML.mean(0)
    left_MR, size_R, right_RF = np.linalg.svd(features_MF - centre_F, full_matrices=False)
    seen_RL = left_MR.T @ (values_ML - mean_L)

    def with_penalty(penalty: float) -> Ridge:
        shrunk_R = size_R / (size_R**2 + penalty * len(features_MF))
        weights_FL = right_RF.T @ (shrunk_R[:, None] * seen_RL)
        return Ridge(weights_FL, mean_L - centre_F @ weights_FL)

    return with_penalty
