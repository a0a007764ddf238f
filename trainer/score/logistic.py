"""Multinomial logistic regression of classes on features of tiles; folds choose the penalty. No torch here.

It minimises the tiles' mean cross-entropy plus half the penalty times the sum of squared weights, by Newton's
method with conjugate gradients. The problem is convex, so the same tiles give the same classifier.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.score.ridge import FOLDS, Array, standardised

PENALTIES = np.logspace(2, -4, 7)
"""Penalties to choose from, the strongest first; features have deviation 1."""
NEWTON_STEPS = 50
"""Most steps of Newton's method; about five are usual."""
INNER_STEPS = 100
"""Most steps of conjugate gradients for one of Newton's."""
FLAT = 1e-4
"""Length of the gradient at which a minimum counts as found."""
SMALLEST_DIRECTION = 1e-9
"""Share of the largest singular value below which a direction of the features is left out."""


@dataclass(frozen=True)
class Logistic:
    """Logits of classes (C) as linear functions of features (F)."""

    weights_FC: Array
    offset_C: Array
    """Offsets; minus infinity for a class that no fitted tile has."""

    def logits(self, features_NF: NDArray[np.floating[Any]]) -> Array:
        """Return logits_NC for tiles (N)."""
        logits_NC: Array = features_NF.astype(np.float64) @ self.weights_FC + self.offset_C
        return logits_NC

    def predict(self, features_NF: NDArray[np.floating[Any]]) -> Array:
        """Return probability_NC for tiles (N)."""
        return np.exp(_log_shares(self.logits(features_NF)))


def fit_logistic(
    features_MF: NDArray[np.floating[Any]], class_M: NDArray[np.int64], classes: int
) -> Logistic:
    """Fit the regression whose penalty has the least cross-entropy in five folds of the tiles (M).

    Features are brought to mean 0 and deviation 1; offsets are not penalised. A fold's tiles of a class that
    the other folds do not have count nothing.

    Args:
        features_MF: features of the tiles.
        class_M: number of each tile's class, from 0.
        classes: number of classes; some may have no tile.
    """
    scaled_MF, centre_F, scale_F = standardised(features_MF)
    # Turned onto their principal directions, the features are independent, and fewer where tiles are few.
    left_MR, size_R, right_RF = np.linalg.svd(scaled_MF, full_matrices=False)
    kept_R = size_R > SMALLEST_DIRECTION * size_R.max(initial=0.0)
    points_MR = left_MR[:, kept_R] * size_R[kept_R]
    fold_M = np.arange(len(points_MR)) % FOLDS
    errors_P = np.zeros(len(PENALTIES))
    for fold in range(min(FOLDS, len(points_MR))):
        held_M = fold_M == fold
        scored_M = held_M & np.isin(class_M, class_M[~held_M])
        if not scored_M.any():
            continue
        found = None
        for place, penalty in enumerate(PENALTIES):
            found = _fitted(points_MR[~held_M], class_M[~held_M], classes, penalty, found)
            log_SC = _log_shares(found.logits(points_MR[scored_M]))
            errors_P[place] -= np.take_along_axis(log_SC, class_M[scored_M, None], 1).sum()
    best = _fitted(points_MR, class_M, classes, PENALTIES[int(errors_P.argmin())], None)
    weights_FC = scale_F[:, None] * (right_RF[kept_R].T @ best.weights_FC)
    return Logistic(weights_FC, best.offset_C - centre_F @ weights_FC)


def _fitted(
    points_MR: Array, class_M: NDArray[np.int64], classes: int, penalty: float, start: Logistic | None
) -> Logistic:
    """Minimise by Newton's method from `start`; classes without a tile get no weight."""
    known_K, place_M = np.unique(class_M, return_inverse=True)
    problem = _Problem(points_MR, place_M, len(known_K), penalty)
    if start is None:
        values_QK = np.zeros((points_MR.shape[1] + 1, len(known_K)))
        values_QK[-1] = np.log(np.bincount(place_M) / len(place_M))
    else:
        values_QK = np.concatenate([start.weights_FC[:, known_K], start.offset_C[None, known_K]])
    values_QK = problem.minimum(values_QK)
    weights_RC, offset_C = np.zeros((points_MR.shape[1], classes)), np.full(classes, -np.inf)
    weights_RC[:, known_K], offset_C[known_K] = values_QK[:-1], values_QK[-1]
    return Logistic(weights_RC, offset_C)


class _Problem:
    """Mean cross-entropy with its penalty, over weights and offsets (Q = R + 1 rows) of K classes."""

    def __init__(self, points_MR: Array, place_M: NDArray[np.int64], classes: int, penalty: float) -> None:
        self.points_MQ = np.concatenate([points_MR, np.ones((len(points_MR), 1))], 1)
        self.is_class_MK = (place_M[:, None] == np.arange(classes)).astype(np.float64)
        self.penalty_Q1 = np.full((self.points_MQ.shape[1], 1), penalty)
        self.penalty_Q1[-1] = 0

    def loss(self, values_QK: Array) -> float:
        """Return what is minimised."""
        log_MK = _log_shares(self.points_MQ @ values_QK)
        penalty = (self.penalty_Q1 * values_QK**2).sum() / 2
        return float(penalty - (self.is_class_MK * log_MK).sum() / len(log_MK))

    def minimum(self, values_QK: Array) -> Array:
        """Return the values at the minimum, searched for from these."""
        for _ in range(NEWTON_STEPS):
            share_MK = np.exp(_log_shares(self.points_MQ @ values_QK))
            gradient_QK = self._over_tiles(share_MK - self.is_class_MK) + self.penalty_Q1 * values_QK
            if np.linalg.norm(gradient_QK) <= FLAT:
                break
            step_QK = self._newton_step(gradient_QK, share_MK)
            slope, before, length = float((gradient_QK * step_QK).sum()), self.loss(values_QK), 1.0
            # Armijo's rule: a step is halved until it keeps a ten-thousandth of what the slope promises.
            while self.loss(values_QK + length * step_QK) > before + 1e-4 * length * slope:
                length /= 2
                if length < 1e-9:  # rounding decides: nearer is not possible
                    return values_QK
            values_QK = values_QK + length * step_QK
        return values_QK

    def _over_tiles(self, values_MK: Array) -> Array:
        averaged_QK: Array = self.points_MQ.T @ values_MK / len(values_MK)
        return averaged_QK

    def _newton_step(self, gradient_QK: Array, share_MK: Array) -> Array:
        """Solve curvature @ step = -gradient by conjugate gradients, as closely as the gradient is small."""
        spread_M1 = (share_MK * (1 - share_MK)).mean(1, keepdims=True)
        diagonal_Q1 = (self.points_MQ**2 * spread_M1).mean(0)[:, None] + self.penalty_Q1 + 1e-12
        step_QK, left_QK = np.zeros_like(gradient_QK), -gradient_QK
        length = float(np.linalg.norm(gradient_QK))
        enough = min(0.1, length**0.5) * length
        turned_QK = left_QK / diagonal_Q1
        search_QK, product = turned_QK, float((left_QK * turned_QK).sum())
        for _ in range(INNER_STEPS):
            moved_MK = share_MK * (self.points_MQ @ search_QK)
            bent_QK = self._over_tiles(moved_MK - share_MK * moved_MK.sum(1, keepdims=True))
            bent_QK += self.penalty_Q1 * search_QK
            curvature = float((search_QK * bent_QK).sum())
            if curvature <= 0:  # only by rounding, for the problem is convex
                break
            step_QK = step_QK + product / curvature * search_QK
            left_QK = left_QK - product / curvature * bent_QK
            if np.linalg.norm(left_QK) <= enough:
                break
            turned_QK = left_QK / diagonal_Q1
            before, product = product, float((left_QK * turned_QK).sum())
            search_QK = turned_QK + product / before * search_QK
        return step_QK if step_QK.any() else -gradient_QK / diagonal_Q1


def _log_shares(logits_NC: Array) -> Array:
    """Return the logarithms of the classes' probabilities."""
    logits_NC = logits_NC - logits_NC.max(1, keepdims=True)
    shares_NC: Array = logits_NC - np.log(np.exp(logits_NC).sum(1, keepdims=True))
    return shares_NC
