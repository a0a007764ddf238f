"""The probe: ridge regression equals its formula, neighbours are the nearest, and scores are as defined."""

import numpy as np

from trainer.pretrain.probe import PENALTIES, neighbours, ridge

GENERATOR = np.random.default_rng(5)


def test_ridge_is_its_formula_with_the_best_penalty_of_five_folds() -> None:
    features_NF = GENERATOR.normal(size=(60, 9))
    weights_F1 = GENERATOR.normal(size=(9, 1))
    values_NL = features_NF @ weights_F1 + 3 + GENERATOR.normal(0, 2, (60, 1))
    is_train_N = np.arange(60) < 40

    def solved(rows: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        centre, mean = features_NF[rows].mean(0), values_NL[rows].mean(0)
        away = features_NF[rows] - centre
        gram = away.T @ away + penalty * rows.sum() * np.eye(9)
        return np.linalg.solve(gram, away.T @ (values_NL[rows] - mean)), centre, mean

    errors = []
    for penalty in PENALTIES:
        total = 0.0
        for fold in range(5):
            rows = is_train_N & ((np.arange(60) % 5 != fold) | ~is_train_N)
            weights, centre, mean = solved(rows, penalty)
            held = is_train_N & ~rows
            total += float((((features_NF[held] - centre) @ weights + mean - values_NL[held]) ** 2).sum())
        errors.append(total)
    weights, centre, mean = solved(is_train_N, PENALTIES[int(np.argmin(errors))])
    expected = (features_NF[~is_train_N] - centre) @ weights + mean
    np.testing.assert_allclose(ridge(features_NF, values_NL, is_train_N), expected, rtol=1e-6)


def test_ridge_with_more_features_than_tiles_does_not_explode() -> None:
    features_NF = GENERATOR.normal(size=(30, 400))
    values_NL = GENERATOR.normal(size=(30, 1))
    predicted = ridge(features_NF, values_NL, np.arange(30) < 20)
    assert np.abs(predicted).max() < 3


def test_neighbours_are_the_nearest_by_angle() -> None:
    angle_N = np.linspace(0, np.pi, 60)
    features_NF = np.stack([np.cos(angle_N), np.sin(angle_N)], 1) * GENERATOR.uniform(0.1, 9, (60, 1))
    is_train_N = np.arange(60) != 30
    predicted = neighbours(features_NF, angle_N[:, None], is_train_N)
    near = np.sort(np.abs(np.delete(angle_N, 30) - angle_N[30]))[:20]
    chosen = np.abs(np.delete(angle_N, 30) - angle_N[30]) <= near[-1]
    np.testing.assert_allclose(predicted, np.delete(angle_N, 30)[chosen].mean(), rtol=1e-6)
