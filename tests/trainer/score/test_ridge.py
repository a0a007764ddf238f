"""Ridge regression equals its formula, and travels as JSON."""

import json

import numpy as np

from trainer.score.ridge import PENALTIES, Ridge, fit_ridge

GENERATOR = np.random.default_rng(5)


def test_ridge_is_its_formula_with_the_best_penalty_of_five_folds() -> None:
    features_NF = GENERATOR.normal(size=(60, 9))
    weights_F1 = GENERATOR.normal(size=(9, 1))
    values_NL = features_NF @ weights_F1 + 3 + GENERATOR.normal(0, 2, (60, 1))
    is_train_N = np.arange(60) < 40
    fitted_MF = features_NF[is_train_N]
    features_NF = (features_NF - fitted_MF.mean(0)) / fitted_MF.std(0)

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
    np.testing.assert_allclose(
        fit_ridge(features_NF[is_train_N], values_NL[is_train_N]).predict(features_NF[~is_train_N]),
        expected,
        rtol=1e-6,
    )


def test_ridge_with_more_features_than_tiles_does_not_explode() -> None:
    features_NF = GENERATOR.normal(size=(30, 400))
    values_NL = GENERATOR.normal(size=(30, 1))
    predicted = fit_ridge(features_NF[:20], values_NL[:20]).predict(features_NF[20:])
    assert np.abs(predicted).max() < 3


def test_a_constant_feature_counts_nothing_and_units_do_not_matter() -> None:
    features_NF = GENERATOR.normal(size=(40, 3))
    values_NL = features_NF @ GENERATOR.normal(size=(3, 2))
    plain = fit_ridge(features_NF, values_NL).predict(features_NF)
    other_NF = np.concatenate([features_NF * (1e6, 1e-3, 1) + 7, np.full((40, 1), 3.0)], 1)
    np.testing.assert_allclose(fit_ridge(other_NF, values_NL).predict(other_NF), plain, rtol=1e-5, atol=1e-6)


def test_it_is_the_same_after_json() -> None:
    features_NF = GENERATOR.normal(size=(12, 4))
    fitted = fit_ridge(features_NF, features_NF[:, :1])
    read = Ridge.from_json(json.loads(json.dumps(fitted.to_json())))
    np.testing.assert_array_equal(read.predict(features_NF), fitted.predict(features_NF))
