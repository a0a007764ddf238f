"""What is chosen on half of the tiles is measured on the others; the page's verdict follows from it."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.attention.comparison import Sample, Target, compared
from inference.attention.page import verdict

TILES, PATCHES, PIXELS = 6, 12, 4
TARGET = Target("cover", "trees", 2)


def sample(class_P: NDArray[Any], strength: float = 1.0, tiles: int = TILES) -> Sample:
    """Three heads of noise, of which the second knows the class, and one band that knows it a little."""
    rng = np.random.default_rng(5)
    patches = tiles * PATCHES
    patch_P = np.arange(patches).repeat(PIXELS)
    share_N = np.bincount(patch_P, class_P == 2) / PIXELS
    heads = {f"head {n}": rng.normal(size=patches).astype(np.float32) for n in (1, 2, 3)}
    heads["head 2"] -= (6 * strength * share_N).astype(np.float32)
    untrained = {name: rng.normal(size=patches).astype(np.float32) for name in heads}
    bands = {"vv": (rng.normal(size=class_P.size) + (class_P == 2)).astype(np.float32)}
    unit_N = np.arange(tiles).repeat(PATCHES)
    layers = {"cover": class_P.astype(np.float32)}
    return Sample(layers, bands, patch_P, unit_N, {"attention": heads, "untrained": untrained})


def classes(seed: int = 0, tiles: int = TILES) -> NDArray[np.int64]:
    """Patches of one class each, for the most part."""
    rng = np.random.default_rng(seed)
    class_P = rng.integers(1, 4, tiles * PATCHES).repeat(PIXELS)
    return np.where(rng.random(class_P.size) < 0.1, 1, class_P)


def chosen_and_measured(one: Sample, here_N: NDArray[np.bool_]) -> tuple[float, float]:
    """IoU and AUC on the other patches of head, threshold and side that are best on these; by trying all."""
    is_class_P = one.layers["cover"] == 2
    here_P = here_N[one.patch_P]

    def iou(score_P: NDArray[Any], t: float, side: int, some_P: NDArray[np.bool_]) -> float:
        chosen_P = some_P & (side * score_P >= side * t)
        return float((chosen_P & is_class_P).sum() / (chosen_P | (is_class_P & some_P)).sum())

    def auc(score_P: NDArray[Any], some_P: NDArray[np.bool_]) -> float:
        difference = np.sign(score_P[is_class_P & some_P][:, None] - score_P[~is_class_P & some_P])
        return float((difference.mean(dtype=np.float64) + 1) / 2)

    scores = [score_N[one.patch_P] for score_N in one.heads["attention"].values()]
    tried = [
        (iou(score_P, t, side, here_P), score_P, t, side)
        for score_P in scores
        for side in (1, -1)
        for t in np.unique(score_P[here_P])
    ]
    _, score_P, t, side = max(tried, key=lambda one: one[0])
    by_auc = max(scores, key=lambda score_P: abs(auc(score_P, here_P) - 0.5))
    there = auc(by_auc, ~here_P)
    return iou(score_P, t, side, ~here_P), there if auc(by_auc, here_P) >= 0.5 else 1 - there


@pytest.mark.parametrize("seed", range(4))
def test_what_is_chosen_on_some_tiles_is_measured_on_the_others(seed: int) -> None:
    one = sample(classes(seed), strength=0.2)
    half_N = one.half_N(seed)
    assert half_N is not None
    for unit in range(TILES):
        assert np.unique(half_N[one.unit_N == unit]).size == 1, "a tile is in one half"
    assert half_N.sum() == half_N.size / 2
    found = compared(one, TARGET, seed)["attention"]["on_other_tiles"]
    ways = [chosen_and_measured(one, half_N), chosen_and_measured(one, ~half_N)]
    assert (found["iou"], found["auc"]) == pytest.approx(tuple(np.mean(ways, 0)), abs=1e-9)


def test_a_class_that_half_of_the_tiles_lack_is_not_measured_elsewhere() -> None:
    class_P = classes()
    one = sample(class_P)
    half_N = one.half_N(0)
    assert half_N is not None
    class_P[half_N[one.patch_P] & (class_P == 2)] = 1
    found = compared(sample(class_P), TARGET, 0)
    assert found["attention"]["on_other_tiles"] == {"iou": None, "auc": None}
    assert found["attention"]["best_iou"] == "head 2"
    assert "where they were chosen" in verdict(found)


def test_too_few_tiles_are_not_halved() -> None:
    assert sample(classes(tiles=3), tiles=3).half_N(0) is None
    assert sample(classes(tiles=4), tiles=4).half_N(0) is not None


def test_the_verdict_names_what_is_not_beaten() -> None:
    strong = verdict(compared(sample(classes(), strength=1), TARGET, 0))
    assert strong.startswith("Attention finds it better than all others")
    weak = verdict(compared(sample(classes(), strength=0), TARGET, 0))
    assert weak.startswith("Attention does not find it better than: ")
    assert "bands, averaged over patches" in weak
    nothing = verdict(compared(sample(classes()), Target("cover", "ice", 9), 0))
    assert nothing == "It cannot be measured."


def test_pixels_without_a_value_do_not_count() -> None:
    class_P = classes()
    one = sample(class_P)
    one.layers["cover"][::3] = np.nan
    found = compared(one, TARGET, 0)
    known_P = ~np.isnan(one.layers["cover"])
    assert found["pixels"] == known_P.sum()
    assert found["share"] == pytest.approx((class_P[known_P] == 2).mean())
