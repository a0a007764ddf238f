"""Logistic regression: the minimum of its formula, the best penalty of five folds, finite numbers."""

import numpy as np
import pytest

from trainer.score import logistic
from trainer.score.logistic import PENALTIES, fit_logistic
from trainer.score.ridge import fit_ridge

GENERATOR = np.random.default_rng(8)


def drawn(tiles: int, classes: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw features, and classes with logits that are linear in them."""
    features_NF = GENERATOR.normal(size=(tiles, width))
    logits_NC = features_NF @ GENERATOR.normal(size=(width, classes)) + GENERATOR.gumbel(
        size=(tiles, classes)
    )
    return features_NF, logits_NC.argmax(1)


@pytest.mark.parametrize("penalty", [10.0, 0.1, 1e-4])
def test_it_is_the_minimum_of_its_formula(penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "PENALTIES", np.array([penalty]))
    features_NF, class_N = drawn(80, 3, 6)
    features_NF = (features_NF - features_NF.mean(0)) / features_NF.std(0)
    fitted = fit_logistic(features_NF, class_N, 3)

    def loss(weights_FC: np.ndarray, offset_C: np.ndarray) -> float:
        logits_NC = features_NF @ weights_FC + offset_C
        own_N = logits_NC[np.arange(80), class_N]
        return float((np.log(np.exp(logits_NC).sum(1)) - own_N).mean() + penalty * (weights_FC**2).sum() / 2)

    least = loss(fitted.weights_FC, fitted.offset_C)
    for _ in range(50):
        change_FC, change_C = GENERATOR.normal(size=(6, 3)), GENERATOR.normal(size=3)
        for size in (1e-3, 0.1):
            assert loss(fitted.weights_FC + size * change_FC, fitted.offset_C + size * change_C) > least
    np.testing.assert_allclose(fitted.predict(features_NF).mean(0), np.bincount(class_N) / 80, atol=1e-4)


def test_its_penalty_is_the_best_of_five_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    features_NF, class_N = drawn(60, 3, 20)
    features_NF = (features_NF - features_NF.mean(0)) / features_NF.std(0)
    chosen = fit_logistic(features_NF, class_N, 3)
    errors = []
    for penalty in PENALTIES:
        monkeypatch.setattr(logistic, "PENALTIES", np.array([penalty]))
        errors.append(0.0)
        for fold in range(5):
            held_N = np.arange(60) % 5 == fold
            found = logistic._fitted(features_NF[~held_N], class_N[~held_N], 3, penalty, None)
            share_NC = found.predict(features_NF[held_N])
            errors[-1] -= np.log(share_NC[np.arange(held_N.sum()), class_N[held_N]]).sum()
    monkeypatch.setattr(logistic, "PENALTIES", PENALTIES[[int(np.argmin(errors))]])
    assert 0 < np.argmin(errors) < len(PENALTIES) - 1, "neither end is best here"
    expected = fit_logistic(features_NF, class_N, 3).predict(features_NF)
    np.testing.assert_allclose(chosen.predict(features_NF), expected, atol=1e-6)


def test_a_class_between_two_others_is_found_which_a_regression_on_indicators_misses() -> None:
    class_N = np.arange(300) % 3
    features_N1 = (class_N + GENERATOR.normal(0, 0.15, 300))[:, None]
    by_ridge_N = fit_ridge(features_N1, class_N[:, None] == np.arange(3)).predict(features_N1).argmax(1)
    by_logistic_N = fit_logistic(features_N1, class_N, 3).predict(features_N1).argmax(1)
    assert (by_ridge_N == class_N)[class_N == 1].mean() < 0.7
    assert (by_logistic_N == class_N).mean() > 0.98


def test_separable_tiles_constant_features_and_a_class_without_tiles_give_finite_numbers() -> None:
    features_NF = np.concatenate([GENERATOR.normal(size=(12, 40)), np.full((12, 1), 3.0)], 1)
    class_N = np.array([0, 2] * 5 + [3, 0])
    fitted = fit_logistic(features_NF, class_N, 4)
    probability_NC = fitted.predict(GENERATOR.normal(size=(9, 41)))
    assert np.isfinite(probability_NC).all()
    np.testing.assert_allclose(probability_NC.sum(1), 1)
    assert (probability_NC[:, 1] == 0).all()
    again = fit_logistic(features_NF, class_N, 4)
    np.testing.assert_array_equal(again.weights_FC, fitted.weights_FC)
