"""Scores, baselines and augmentation, held against numbers computed by hand or by NumPy.

- Scores of parts merge into the score of the whole, which is NumPy's; R2 is 1 - SSE / SST.
- The baselines are the least squares solution and the mean over every measured pixel.
- The eight symmetries are distinct, turn image and height alike, and do not depend on the number of ranks.
- Bands are brightened around 1 and dropped as often as asked; one always stays; the same place, the same.
"""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from regressors import statistics_of, stored_images

from shards.format.height_classes import NAMES
from shards.format.schema import Schema
from shards.read.dataset import Batch
from shards.read.order import rank_part
from trainer.data.augment import band_changes, symmetries_of
from trainer.model.normalise import Normalise
from trainer.model.symmetries import SYMMETRIES, apply_symmetries, turned
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
    symmetries = symmetries_of(size, seed=3, epoch=2, seen=7)
    whole_BHW = apply_symmetries(height_BHW[:, None], height_BHW, symmetries)[1]
    start, met = 112, []
    for rank in range(world_size):
        chips = rank_part(np.arange(size), start, rank, world_size)
        part_BHW = height_BHW[torch.from_numpy(chips)]
        mine = rank_part(symmetries_of(size, seed=3, epoch=2, seen=7), start, rank, world_size)
        turned_BHW = apply_symmetries(part_BHW[:, None], part_BHW, mine)[1]
        assert torch.equal(turned_BHW, whole_BHW[torch.from_numpy(chips)])
        met += chips.tolist()
    assert sorted(met) == list(range(size))


def test_symmetries_depend_on_seed_epoch_and_step_and_use_all_eight() -> None:
    drawn = [symmetries_of(64, *at).tolist() for at in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert all(one != other for one, other in combinations(drawn, 2))
    assert symmetries_of(64, 0, 0, 0).tolist() == drawn[0]
    assert set(drawn[0]) == set(range(8))


def test_bands_are_brightened_around_1_and_dropped_as_often_as_asked() -> None:
    changes_BCK = band_changes((20_000, 4), (1, 2, 3), 0.1, 0.25)
    assert changes_BCK is not None
    assert changes_BCK.shape == (20_000, 4, 2)
    assert changes_BCK[..., 0].mean() == pytest.approx(1.0, abs=0.002)
    assert changes_BCK[..., 0].std() == pytest.approx(0.1, abs=0.002)
    # A quarter of the bands, but for the one of the four that stays: 0.25 * 3 / 4.
    assert 1 - changes_BCK[..., 1].mean() == pytest.approx(0.1875, abs=0.005)
    assert changes_BCK[..., 1].max(1).min() == 1
    again = band_changes((20_000, 4), (1, 2, 3), 0.1, 0.25)
    np.testing.assert_array_equal(changes_BCK, again)
    assert band_changes((3, 4), (1, 2, 3), 0.0, 0.0) is None


def test_a_changed_band_is_brighter_or_its_mean() -> None:
    statistics = statistics_of({"nir": (100.0, 0.5, 0.25), "red": (100.0, 0.25, 0.5)})
    layer = Normalise(Schema(("nir", "red"), nodata=-1), ("nir", "red"), statistics)
    image_BCHW = torch.tensor([50, 50, -1, -1], dtype=torch.int16).reshape(1, 2, 1, 2)
    changes_BCK = torch.tensor([[[1.5, 1.0], [1.0, 0.0]]])
    pixels_BCHW, valid_BHW = layer(image_BCHW, changes_BCK)
    # (0.5 * 1.5 - 0.5) / 0.25 = 1, and red is left out: 0, its mean.
    assert pixels_BCHW.flatten().tolist() == [1.0, 1.0, 0.0, 0.0]
    assert torch.equal(valid_BHW, layer(image_BCHW)[1])
