"""Losses, scores, baselines and symmetries, held against numbers computed by hand or by NumPy.

- The loss is a sum over measured pixels that adds up; too low costs more; gradients live below 0.
- Scores of parts merge into the score of the whole, which is NumPy's; R2 is 1 - SSE / SST.
- The baselines are the least squares solution and the mean over every measured pixel.
- The eight symmetries are distinct, turn image and height alike, and do not depend on the number of ranks.
"""

from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from regressors import stored_images

from shards.height_classes import NAMES
from shards.order import rank_part
from shards.reader import Batch
from trainer.augment import SYMMETRIES, apply_symmetries, symmetries_of, turned
from trainer.baselines import Baselines, fit_baselines
from trainer.loss import asymmetric_squared_error
from trainer.metrics import DENSITY_BINS, Score

NAN = float("nan")


def heights(*values: float) -> torch.Tensor:
    """height_BHW of one row."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1)


def everywhere(height_BHW: torch.Tensor) -> torch.Tensor:
    return torch.ones(height_BHW.shape, dtype=torch.bool)


def random_heights(count: int = 5000, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(predicted, measured) in metres, skewed as heights are, 5 % unmeasured."""
    generator = np.random.default_rng(seed)
    measured = (generator.exponential(3, count) * (generator.random(count) > 0.4)).astype(np.float32)
    predicted = np.maximum(0, 0.6 * measured + generator.normal(0.3, 1, count)).astype(np.float32)
    measured[generator.random(count) < 0.05] = np.nan
    return predicted, measured


# --- loss ---


def test_the_asymmetric_loss_by_hand() -> None:
    # 2 m too low: 3 x 4 = 12;  1 m too high: 1;  exact: 0;  0.5 m too low: 3 x 0.25 = 0.75.
    predicted, measured = heights(3, 6, 2, 0.5), heights(5, 5, 2, 1)
    loss, pixels = asymmetric_squared_error(predicted, measured, everywhere(measured), 3.0)
    assert (loss.item(), pixels.item()) == (13.75, 4)


def test_with_factor_1_it_is_the_squared_error() -> None:
    predicted, measured = (torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    loss, pixels = asymmetric_squared_error(predicted, measured, everywhere(measured), 1.0)
    torch.testing.assert_close(loss / pixels, torch.nn.functional.mse_loss(predicted, measured))


def test_pixels_without_a_height_or_without_an_image_cost_nothing_and_pull_nothing() -> None:
    predicted = heights(3, 100, 100).requires_grad_()
    measured, valid = heights(5, NAN, 7), torch.tensor([[[True, True, False]]])
    loss, pixels = asymmetric_squared_error(predicted, measured, valid, 3.0)
    loss.backward()
    assert (loss.item(), pixels.item()) == (12.0, 1)
    assert predicted.grad is not None
    assert predicted.grad.tolist() == [[[-12.0, 0.0, 0.0]]]


def test_no_measured_pixel_is_no_loss_and_no_nan() -> None:
    predicted = heights(3, 4).requires_grad_()
    loss, pixels = asymmetric_squared_error(predicted, heights(NAN, NAN), everywhere(predicted), 3.0)
    loss.backward()
    assert (loss.item(), pixels.item()) == (0.0, 0)
    assert predicted.grad is not None
    assert (predicted.grad == 0).all()


def test_a_prediction_below_0_keeps_its_gradient() -> None:
    predicted = heights(-2).requires_grad_()
    asymmetric_squared_error(predicted, heights(1), everywhere(predicted), 3.0)[0].backward()
    assert predicted.grad is not None
    assert predicted.grad.item() == 3 * 2 * (-2 - 1)


def test_losses_of_parts_add_up() -> None:
    predicted, measured = (torch.from_numpy(values).reshape(-1, 10, 10) for values in random_heights())
    whole = asymmetric_squared_error(predicted, measured, everywhere(predicted), 3.0)
    parts = [
        asymmetric_squared_error(p, m, everywhere(p), 3.0)
        for p, m in zip(predicted.split(7), measured.split(7), strict=True)
    ]
    assert sum(int(pixels) for _, pixels in parts) == int(whole[1])
    assert sum(float(loss) for loss, _ in parts) == pytest.approx(float(whole[0]), rel=1e-5)


# --- scores ---


def scored(predicted: NDArray[np.float32], measured: NDArray[np.float32]) -> Score:
    score = Score.empty()
    score.add(predicted, measured)
    return score


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


@pytest.mark.parametrize("cuts", [[2500], [1, 2, 4999], list(range(0, 5000, 137))])
def test_scores_of_parts_merge_into_the_score_of_the_whole(cuts: list[int]) -> None:
    predicted, measured = random_heights()
    whole, merged = scored(predicted, measured), Score.empty()
    for p, m in zip(np.split(predicted, cuts), np.split(measured, cuts), strict=True):
        merged = scored(p, m) + merged
    np.testing.assert_allclose(merged.sums_KS, whole.sums_KS, rtol=1e-12)
    assert np.array_equal(merged.sums_KS[:, 0], whole.sums_KS[:, 0])
    assert np.array_equal(merged.density_PM, whole.density_PM)
    for name, metrics in whole.by_class.items():
        np.testing.assert_allclose(
            list(vars(merged.by_class[name]).values()), list(vars(metrics).values()), rtol=1e-9
        )


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
    assert Score.empty().all.to_json() == {"count": 0, "mae": None, "rmse": None, "bias": None, "r2": None}


def test_the_density_has_predicted_in_rows_and_measured_in_columns_and_clips_at_the_ends() -> None:
    predicted, measured = np.array([0.3, 50, -5], np.float32), np.array([1.1, 0.1, 99], np.float32)
    places = np.argwhere(scored(predicted, measured).density_PM).tolist()
    assert places == [[0, DENSITY_BINS - 1], [1, 4], [DENSITY_BINS - 1, 0]]


def test_a_prediction_that_is_no_number_never_improves_a_score_unseen() -> None:
    """A regressor that answers NaN on half of the pixels must not be scored on the other half alone."""
    predicted, measured = np.array([1, NAN], np.float32), np.array([1, 5], np.float32)
    try:
        metrics = scored(predicted, measured).all
    except (ValueError, FloatingPointError):
        return
    assert metrics.rmse != 0


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


def test_baselines_survive_json() -> None:
    fitted = fit_baselines(batches([2]), None)
    assert Baselines.from_json(fitted.to_json()) == fitted


# --- symmetries ---


def test_the_eight_symmetries_are_distinct_and_move_no_value_in_or_out() -> None:
    square = torch.arange(9).reshape(3, 3)
    results = [turned(square, symmetry) for symmetry in range(SYMMETRIES)]
    assert SYMMETRIES == 8
    assert torch.equal(results[0], square)
    assert not any(torch.equal(one, other) for one, other in combinations(results, 2))
    for result in results:
        assert sorted(result.flatten().tolist()) == list(range(9))


def test_image_and_height_are_turned_alike_each_chip_by_its_own_symmetry() -> None:
    generator = torch.Generator().manual_seed(0)
    height_BHW = torch.rand(16, 8, 8, generator=generator)
    image_BCHW = torch.stack([height_BHW, -height_BHW], 1)
    before = image_BCHW.clone(), height_BHW.clone()
    symmetries_B = np.arange(16) % 8
    turned_BCHW, turned_BHW = apply_symmetries(image_BCHW, height_BHW, symmetries_B)
    assert torch.equal(turned_BCHW, torch.stack([turned_BHW, -turned_BHW], 1))
    for place, symmetry in enumerate(symmetries_B):
        assert torch.equal(turned_BHW[place], turned(height_BHW[place], int(symmetry)))
    assert torch.equal(image_BCHW, before[0]), "the stored pixels stay as they are"
    assert torch.equal(height_BHW, before[1])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_images_of_every_stored_type_are_turned(dtype: str) -> None:
    image_BCHW = np.random.default_rng(0).integers(0, 255, (8, 2, 4, 4)).astype(dtype)
    turned_BCHW, _ = apply_symmetries(torch.from_numpy(image_BCHW), torch.zeros(8, 4, 4), np.arange(8))
    as_float = apply_symmetries(torch.from_numpy(image_BCHW.astype("f4")), torch.zeros(8, 4, 4), np.arange(8))
    np.testing.assert_array_equal(turned_BCHW.numpy(), as_float[0].numpy().astype(dtype))
    assert turned_BCHW.numpy().dtype == dtype


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 16, 20])
def test_a_chip_is_turned_alike_whatever_the_number_of_ranks(world_size: int) -> None:
    """Ranks apply their part of the global batch's symmetries to their part of its chips."""
    size, height_BHW = 16, torch.rand(16, 4, 4, generator=torch.Generator().manual_seed(1))
    symmetries = symmetries_of(size, seed=3, epoch=2, step=7)
    whole_BHW = apply_symmetries(height_BHW[:, None], height_BHW, symmetries)[1]
    start, met = 112, []
    for rank in range(world_size):
        chips = rank_part(np.arange(size), start, rank, world_size)
        part_BHW = height_BHW[torch.from_numpy(chips)]
        mine = rank_part(symmetries_of(size, seed=3, epoch=2, step=7), start, rank, world_size)
        turned_BHW = apply_symmetries(part_BHW[:, None], part_BHW, mine)[1]
        assert torch.equal(turned_BHW, whole_BHW[torch.from_numpy(chips)])
        met += chips.tolist()
    assert sorted(met) == list(range(size))


def test_symmetries_depend_on_seed_epoch_and_step_and_use_all_eight() -> None:
    drawn = [symmetries_of(64, *at).tolist() for at in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert all(one != other for one, other in combinations(drawn, 2))
    assert symmetries_of(64, 0, 0, 0).tolist() == drawn[0]
    assert set(drawn[0]) == set(range(8))
