"""The best threshold and the AUC are what trying out all of them, and all pairs, gives; also with ties."""

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.score.thresholds import Ranked, iou_at


def case(seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Scores with many ties, and for each the pixels of the class and all its pixels; some have none."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 40))
    score_N = rng.integers(0, 6, size) / 4 if seed % 2 else rng.normal(size=size).round(1)
    count_N = rng.integers(0, 5, size)
    return score_N, rng.binomial(count_N, 0.4), count_N


def pixel_by_pixel(
    score_N: NDArray[np.float64], positive_N: NDArray[np.int64], count_N: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The score of each pixel, and whether it is of the class."""
    is_class = [np.arange(n) < k for k, n in zip(positive_N, count_N, strict=True)]
    return score_N.repeat(count_N), np.concatenate([np.zeros(0, bool), *is_class])


@pytest.mark.parametrize("seed", range(40))
def test_it_is_what_brute_force_finds(seed: int) -> None:
    score_N, positive_N, count_N = case(seed)
    score_P, is_class_P = pixel_by_pixel(score_N, positive_N, count_N)
    ranked = Ranked(score_N)
    best, auc = ranked.best(positive_N, count_N), ranked.auc(positive_N, count_N)
    if not is_class_P.any():
        assert (best, auc) == (None, None)
        return
    tried = {
        (side, t): (chosen_P & is_class_P).sum() / (chosen_P | is_class_P).sum()
        for t in np.unique(score_N)
        for side, chosen_P in (("above", score_P >= t), ("below", score_P <= t))
    }
    assert best is not None
    assert best.iou == pytest.approx(max(tried.values()), abs=1e-12)
    assert tried[best.side, best.threshold] == pytest.approx(best.iou, abs=1e-12)
    assert iou_at(score_N, positive_N, count_N, best) == pytest.approx(best.iou, abs=1e-12)
    if is_class_P.all():
        assert auc is None
        return
    difference = score_P[is_class_P][:, None] - score_P[~is_class_P]
    assert auc == pytest.approx(np.where(difference == 0, 0.5, difference > 0).mean(), abs=1e-12)


def test_a_score_that_tells_all_and_one_that_tells_nothing() -> None:
    is_class_N, one_N = np.array([0, 1, 0, 1, 1]), np.ones(5)
    perfect = Ranked(-is_class_N)
    best = perfect.best(is_class_N, one_N)
    assert best is not None
    assert (best.iou, best.side) == (1.0, "below")
    assert perfect.auc(is_class_N, one_N) == 0.0
    even = Ranked(one_N)
    best = even.best(is_class_N, one_N)
    assert best is not None
    assert best.iou == pytest.approx(3 / 5), "all are called so"
    assert even.auc(is_class_N, one_N) == 0.5
