"""Scores and baselines, held against numbers computed by hand or by NumPy.

- The score is NumPy's; R2 is 1 - SSE / SST. How parts merge: tests/trainer/devices/test_score_sums.py.
- The baselines are the least squares solution and the mean over every measured pixel.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from regressors import stored_images

from shards.format.height_classes import NAMES
from shards.read.dataset import Batch
from trainer.devices.score_sums import height_sums
from trainer.score.baselines import Baselines, fit_baselines
from trainer.score.metrics import DENSITY_BINS, Score

NAN = float("nan")


def random_heights(count: int = 5000, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(predicted, measured) in metres, skewed as heights are, 5 % unmeasured."""
    generator = np.random.default_rng(seed)
    measured = (generator.exponential(3, count) * (generator.random(count) > 0.4)).astype(np.float32)
    predicted = np.maximum(0, 0.6 * measured + generator.normal(0.3, 1, count)).astype(np.float32)
    measured[generator.random(count) < 0.05] = np.nan
    return predicted, measured


# --- scores ---


def scored(predicted: NDArray[np.float32], measured: NDArray[np.float32]) -> Score:
    """The score of one chip, as a row of pixels."""
    pair = [torch.from_numpy(predicted)[None]], torch.from_numpy(measured)[None]
    sums_PKSL, density_PM = height_sums(*pair)
    return Score.of(sums_PKSL[0].numpy(), density_PM.numpy())


def test_the_score_is_numpys() -> None:
    predicted, measured = random_heights()
    metrics, known = scored(predicted, measured).all, np.isfinite(measured)
    p, m = predicted[known].astype(np.float64), measured[known].astype(np.float64)
    assert metrics.count == known.sum()
    assert metrics.mae == pytest.approx(np.abs(p - m).mean(), rel=1e-12)
    assert metrics.rmse == pytest.approx(np.sqrt(((p - m) ** 2).mean()), rel=1e-12)
    assert metrics.bias == pytest.approx((p - m).mean(), rel=1e-12)
    assert metrics.r2 == pytest.approx(1 - ((p - m) ** 2).sum() / ((m - m.mean()) ** 2).sum(), rel=1e-10)


def test_r2_is_the_explained_share_and_no_squared_correlation() -> None:
    measured = np.array([0, 1, 2, 3], np.float32)
    # Perfectly correlated, but 10 m too high: SSE = 400, SST = 5.
    assert scored(measured + 10, measured).all.r2 == pytest.approx(1 - 400 / 5)
    assert scored(np.full(4, 1.5, np.float32), measured).all.r2 == pytest.approx(0)
    assert scored(measured, measured).all.r2 == 1


def test_the_classes_part_the_pixels() -> None:
    score = scored(*random_heights())
    assert sum(metrics.count for metrics in score.by_class.values()) == score.all.count
    assert score.density_PM.sum() == score.all.count


@pytest.mark.parametrize(
    ("height_m", "name"),
    [
        (-1.0, "0 m"),
        (0.0, "0 m"),
        (0.0009, "0 m"),
        (0.002, "0.001-0.5 m"),
        (0.4999, "0.001-0.5 m"),
        (0.5, "0.5-1 m"),
        (1.0, "1-2 m"),
        (1.9999, "1-2 m"),
        (2.0, "2-3 m"),
        (3.0, "3-5 m"),
        (5.0, "5-10 m"),
        (9.9999, "5-10 m"),
        (10.0, "10 m and up"),
        (35.0, "10 m and up"),
        (400.0, "10 m and up"),
    ],
)
def test_a_class_holds_its_lower_edge_and_not_its_upper(height_m: float, name: str) -> None:
    score = scored(np.zeros(1, np.float32), np.array([height_m], np.float32))
    assert {n: metrics.count for n, metrics in score.by_class.items()} == {n: int(n == name) for n in NAMES}


def test_no_pixel_is_no_number_and_json_says_null() -> None:
    nowhere = np.full(3, NAN, np.float32)
    nothing = {"count": 0, "mae": None, "rmse": None, "bias": None, "r2": None}
    assert scored(nowhere, nowhere).all.to_json() == nothing


def test_the_density_has_predicted_in_rows_and_measured_in_columns_and_clips_at_the_ends() -> None:
    predicted, measured = np.array([0.3, 50, -5], np.float32), np.array([1.1, 0.1, 99], np.float32)
    places = np.argwhere(scored(predicted, measured).density_PM).tolist()
    assert places == [[0, DENSITY_BINS - 1], [1, 4], [DENSITY_BINS - 1, 0]]


def test_a_prediction_that_is_no_number_never_improves_a_score_unseen() -> None:
    """A regressor that answers NaN on half of the pixels must not be scored on the other half alone."""
    predicted, measured = np.array([1, NAN], np.float32), np.array([1, 5], np.float32)
    with pytest.raises(FloatingPointError, match="a predicted height is not a number"):
        scored(predicted, measured)
    assert scored(predicted, np.array([1, NAN], np.float32)).all.rmse == 0


# --- baselines ---


def batches(sizes: list[int], constant_band: bool = False) -> list[Batch]:
    """Batches of chips whose height follows the bands, with noise and gaps."""
    made, first = [], 0
    for size in sizes:
        image_BCHW = stored_images(size, 16, 16, seed=first + 1)
        if constant_band:
            image_BCHW[:, 3] = 0
        generator = np.random.default_rng(first)
        height_BHW = (0.002 * image_BCHW[:, 1] - 0.001 * image_BCHW[:, 2] + 1.5).astype(np.float32)
        height_BHW += generator.normal(0, 0.3, height_BHW.shape).astype(np.float32)
        height_BHW[generator.random(height_BHW.shape) < 0.1] = np.nan
        made.append(Batch(np.arange(first, first + size), np.empty((0, 0), np.uint8), image_BCHW, height_BHW))
        first += size
    return made


def test_the_baselines_are_numpys_least_squares_and_mean() -> None:
    parts = batches([5, 8, 1])
    image_NC = np.concatenate([np.moveaxis(part.image_BCHW, 1, -1).reshape(-1, 4) for part in parts])
    height_N = np.concatenate([part.height_BHW.ravel() for part in parts]).astype(np.float64)
    known = np.isfinite(height_N)
    design = np.c_[image_NC, np.ones(len(image_NC))][known].astype(np.float64)
    expected = np.linalg.lstsq(design, height_N[known], rcond=None)[0]
    fitted = fit_baselines(parts, None)
    assert fitted.chips == 14
    assert fitted.mean_height == pytest.approx(height_N[known].mean(), rel=1e-12)
    np.testing.assert_allclose(fitted.coefficients, expected, rtol=1e-6, atol=1e-9)
    one_BCHW = parts[0].image_BCHW
    np.testing.assert_allclose(
        fitted.linear(one_BCHW), np.einsum("bchw,c->bhw", one_BCHW, expected[:4]) + expected[4], rtol=1e-6
    )


def test_a_band_without_contrast_does_not_spoil_the_baseline() -> None:
    fitted = fit_baselines(batches([6], constant_band=True), None)
    assert np.isfinite(fitted.coefficients).all()
    assert fitted.coefficients[1] == pytest.approx(0.002, rel=0.05)


@pytest.mark.parametrize("positions", [None, (1, 2)])
def test_baselines_survive_json(positions: tuple[int, ...] | None) -> None:
    fitted = fit_baselines(batches([2]), None, positions)
    assert Baselines.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted


def test_baselines_that_do_not_name_their_bands_use_all() -> None:
    """As in checkpoints of before: the same figures, and the same bytes when they are saved again."""
    stored = {"mean_height": 2.0, "coefficients": [0.5, -0.25, 0.125, 1.0, 3.0], "chips": 7}
    read = Baselines.from_json(stored)
    assert read.linear(np.array([8, 4, 16, 2]).reshape(1, 4, 1, 1)).tolist() == [[[10.0]]]
    assert json.dumps(read.to_json()) == json.dumps(stored)


@pytest.mark.parametrize("mark", [np.nan, np.inf, -np.inf, -9999.0])
def test_a_missing_pixel_is_left_out_and_one_of_a_band_that_is_not_used_is_not(mark: float) -> None:
    [whole] = batches([6])
    image_BCHW = whole.image_BCHW.astype(np.float32)
    image_BCHW[:, 0, :5] = mark
    without_blue = fit_baselines([replace(whole, image_BCHW=image_BCHW)], -9999, (1, 2))
    assert without_blue == fit_baselines([whole], -9999, (1, 2))
    assert np.isfinite(without_blue.linear(image_BCHW)).all()
    image_BCHW[:, 1, :5] = mark
    rest = replace(whole, image_BCHW=image_BCHW[:, :, 5:], height_BHW=whole.height_BHW[:, 5:])
    with_holes = fit_baselines([replace(whole, image_BCHW=image_BCHW)], -9999, (1, 2))
    np.testing.assert_allclose(
        with_holes.coefficients, fit_baselines([rest], None, (1, 2)).coefficients, rtol=1e-9
    )
