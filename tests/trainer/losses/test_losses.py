"""Losses, held against numbers computed by hand.

- Every term, as a scalar, is what its formula gives on a few pixels; the patch gradient is NumPy's too.
- A loss is a function of sums: a batch in parts has the loss and the gradient that it has in one.
- The counts are known without a prediction, and where a term says so, they alone tell its slope, bit for bit.
- What is not measured costs nothing and pulls nothing, whatever stands there; no pixel is no loss and no NaN.
- Predictions at and below 0 m keep a gradient that pulls them up, and none that outweighs a batch.
- Weights go in straight lines over training; a word that is none is refused in one line.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from math import log, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from shards.errors import InputError
from trainer.fit.objective import surrogate
from trainer.losses.loss import TERMS, Loss, parse_loss
from trainer.losses.loss_terms import mirrored_log
from trainer.losses.patch_gradient import FLAT

NAN = float("nan")
LOG_2 = log(2)
CHMV2 = ("silog:1:0@0..0.3", "charbonnier:0:1@0..0.3", "patch_gradient:0:0.075@0.05..0.5")
CHIPS = 6


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Two that wait for each other on busy cores take a hundred times as long over so few pixels."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def metres(rows: list[list[float]]) -> Tensor:
    """height_BHW of one chip."""
    return torch.tensor([rows], dtype=torch.float64)


def value(word: str, predicted_BHW: Tensor, height_BHW: Tensor) -> float:
    """The loss of one term where the height is a number."""
    loss = parse_loss((word,))
    return loss.value(loss.sums(predicted_BHW, height_BHW, height_BHW.isfinite()), 0.0).item()


def chips(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(predicted, height, measured) of six chips, unequally measured; the last one nowhere."""
    generator = np.random.default_rng(seed)
    height_BHW = generator.exponential(3, (CHIPS, 16, 18)) * (generator.random((CHIPS, 16, 18)) > 0.3)
    predicted_BHW = 0.7 * height_BHW + generator.normal(0.2, 1, height_BHW.shape)
    share_B = np.array([0, 0.01, 0.02, 0.05, 0.1, 1])
    measured_BHW = generator.random(height_BHW.shape) >= share_B[:, None, None]
    height_BHW[~measured_BHW] = np.nan
    return torch.from_numpy(predicted_BHW), torch.from_numpy(height_BHW), torch.from_numpy(measured_BHW)


def gradient_of_ranks(loss: Loss, cuts: list[int], share_done: float) -> tuple[float, Tensor]:
    """(loss, gradient by the predictions) where each rank has the chips between two cuts."""
    predicted_BHW, height_BHW, measured_BHW = chips()
    predicted_BHW.requires_grad_()
    bounds = [0, *cuts, CHIPS]
    parts = [slice(first, last) for first, last in pairwise(bounds)]
    local = [loss.sums(predicted_BHW[part], height_BHW[part], measured_BHW[part]) for part in parts]
    global_K = torch.stack(local).sum(0).detach()
    for sums_K in local:
        surrogate(loss, sums_K, global_K, share_done).backward()
    assert predicted_BHW.grad is not None
    return loss.value(global_K, share_done).item(), predicted_BHW.grad


# --- by hand ---

PREDICTED, HEIGHT = metres([[3, 6, 2, 0.5]]), metres([[5, 5, 2, 1]])  # errors -2, 1, 0, -0.5


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("squared", (4 + 1 + 0 + 0.25) / 4),
        ("absolute", (2 + 1 + 0 + 0.5) / 4),
        # 2 - 1/2, 1 - 1/2 (or 1/2), 0, 0.25/2
        ("smooth_l1", (1.5 + 0.5 + 0 + 0.125) / 4),
        # 2 - 1/4, 1 - 1/4, 0, 0.5 - 1/4 (or 0.25 / 1)
        ("smooth_l1(beta=0.5)", (1.75 + 0.75 + 0 + 0.25) / 4),
        ("asymmetric", (3 * 4 + 1 + 0 + 3 * 0.25) / 4),
        ("asymmetric(factor=1)", (4 + 1 + 0 + 0.25) / 4),
        # Above 2 m the fourth power, below the third.
        ("asymmetric_focal", (3 * 16 + 1 + 0 + 3 * 0.125) / 4),
        # Above 1 m the third power, at 1 m the square.
        ("asymmetric_focal(gamma=0,threshold=1)", (3 * 8 + 1 + 0 + 3 * 0.25) / 4),
        ("asymmetric_focal(factor=2,gamma=0,threshold=10)", (2 * 4 + 1 + 0 + 2 * 0.25) / 4),
        ("asymmetric_focal(gamma=0,threshold=0.5,tall_gamma=2)", (3 * 16 + 1 + 0 + 3 * 0.0625) / 4),
        # Neighbours' errors differ by 3, -1, -0.5.
        ("gradient", (3 + 1 + 0.5) / 3),
    ],
)
def test_terms_of_errors_by_hand(word: str, expected: float) -> None:
    assert value(word, PREDICTED, HEIGHT) == pytest.approx(expected, rel=1e-12)


def test_charbonnier_by_hand() -> None:
    # sqrt(2^2 + 1.5^2) = 2.5 and sqrt(0.8^2 + 1.5^2) = 1.7, less 1.5.
    got = value("charbonnier(epsilon=1.5)", metres([[3, 5.8, 2]]), metres([[5, 5, 2]]))
    assert got == pytest.approx((1.0 + 0.2 + 0) / 3, rel=1e-12)


def test_silog_by_hand() -> None:
    # d = log 2, log 8 = 3 log 2: mean of squares 5 log(2)^2, square of mean 4 log(2)^2.
    predicted_BHW, height_BHW = metres([[2, 8]]), metres([[1, 1]])
    for word, share in (("silog", 5 - 0.85 * 4), ("silog(variance=0)", 5), ("silog(variance=1)", 1)):
        assert value(word, predicted_BHW, height_BHW) == pytest.approx(sqrt(share) * LOG_2, abs=1.1e-4)


def test_silog_counts_ground_as_its_smallest_height() -> None:
    # d = 0 and, one smallest height below it, -log 2: the mirror image of log 2.
    got = value("silog(variance=0,smallest=0.5)", metres([[0.5, 0]]), metres([[0, 0.2]]))
    assert got == pytest.approx(sqrt(LOG_2**2 / 2), abs=1.1e-4)


def test_gradient_takes_pairs_of_which_both_are_measured() -> None:
    # Along the row |(3 - 1) - 0| = 2, along the column |(2 - 1) - 0| = 1; the corner has no height.
    predicted_BHW = metres([[1, 3], [2, 7]])
    assert value("gradient", predicted_BHW, metres([[0, 0], [0, NAN]])) == pytest.approx(3 / 2)
    # 2 and 7 - 2 along the rows, 1 and 7 - 3 along the columns.
    assert value("gradient", predicted_BHW, metres([[0, 0], [0, 0]])) == pytest.approx((2 + 5 + 1 + 4) / 4)


def test_patch_gradient_of_one_pixel_by_hand() -> None:
    # log heights 0, 0, 0.06 in each row: Sobel (1 + 2 + 1) 0.06 = 0.24, steepness
    # sqrt(0.24^2 + 0.1^2) = 0.26; measured is flat: 0, 0.1. One of three resolutions has a pixel, and no
    # patch fits.
    assert FLAT == 0.1
    predicted_BHW = torch.tensor([0, 0, 0.06], dtype=torch.float64).exp().expand(1, 3, 3)
    expected = (0.3 * 0.16 + 0.4 * (0.24 / 0.26) ** 2 / 2) / 3
    got = value("patch_gradient", predicted_BHW, torch.ones(1, 3, 3, dtype=torch.float64))
    assert got == pytest.approx(expected, rel=1e-12)


def test_patch_gradient_of_one_patch_by_hand() -> None:
    # Now Sobel is 0, 0, 0.24 in each of three rows, steepness 0.1, 0.1, 0.26: it spreads over 0.16.
    predicted_BHW = torch.tensor([0, 0, 0, 0, 0.06], dtype=torch.float64).exp().expand(1, 5, 5)
    expected = (0.3 * 0.16 / 3 + 0.6 * (0.16 + 0) / 2 + 0.4 * (0.24 / 0.26) ** 2 / 2 / 3) / 3
    got = value("patch_gradient", predicted_BHW, torch.ones(1, 5, 5, dtype=torch.float64))
    assert got == pytest.approx(expected, rel=1e-12)


def numpys_patch_gradient(predicted_HW: NDArray[Any], height_HW: NDArray[Any]) -> float:
    """Of heights of 0.1 m and more, NaN where not measured: NaN spreads to all that is made of it."""
    kernel, of_scales = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]), []
    for scale in (1, 2, 4):
        steepness, directions = [], []
        for metres_HW in (predicted_HW, height_HW):
            rows, columns = (side // scale for side in metres_HW.shape)
            blocks = metres_HW[: rows * scale, : columns * scale].reshape(rows, scale, columns, scale)
            squares = sliding_window_view(np.log(blocks.mean((1, 3))), (3, 3))
            slopes = np.stack([(squares * k).sum((-1, -2)) for k in (kernel, kernel.T)])
            steepness.append(np.sqrt((slopes**2).sum(0) + FLAT**2))
            directions.append(slopes / steepness[-1])
        ranges = [np.ptp(sliding_window_view(steepness, (k, k), (1, 2)), (-1, -2)) for k in (3, 5)]
        magnitude = np.nanmean(np.abs(steepness[0] - steepness[1]))
        spread = np.mean([np.nanmean(np.abs(of[0] - of[1])) for of in ranges])
        turned = np.nanmean(((directions[0] - directions[1]) ** 2).sum(0)) / 2
        of_scales.append(0.3 * magnitude + 0.6 * spread + 0.4 * turned)
    return float(np.mean(of_scales))


def test_patch_gradient_is_numpys_with_holes_and_odd_sides() -> None:
    generator = np.random.default_rng(0)
    height_HW, predicted_HW = generator.uniform(0.1, 9, (2, 33, 38))
    height_HW[3, 4] = height_HW[20:23, 30] = NAN
    got = value("patch_gradient", torch.from_numpy(predicted_HW)[None], torch.from_numpy(height_HW)[None])
    assert got == pytest.approx(numpys_patch_gradient(predicted_HW, height_HW), rel=1e-10)


def test_a_common_factor_of_all_heights_is_no_edge() -> None:
    height_BHW = torch.from_numpy(np.random.default_rng(0).uniform(0.5, 9, (1, 16, 16)))
    assert value("patch_gradient", 3 * height_BHW, height_BHW) == pytest.approx(0, abs=1e-12)
    assert value("silog(variance=1)", 3 * height_BHW, height_BHW) == pytest.approx(0, abs=1e-6)


def test_an_edge_a_pixel_aside_is_better_than_none_for_patches_and_worse_for_pixels() -> None:
    """Why patches: images and measurements are not registered to the pixel."""
    height_BHW = torch.ones(1, 16, 16)
    height_BHW[:, :, 8:] = 6.0
    aside_BHW, none_BHW = height_BHW.roll(1, 2), torch.full_like(height_BHW, 3.5)
    aside_BHW[:, :, 0] = 1.0
    patches, pixels = "patch_gradient(magnitude=0,direction=0)", "gradient"
    assert value(patches, aside_BHW, height_BHW) < 0.5 * value(patches, none_BHW, height_BHW)
    assert value(pixels, aside_BHW, height_BHW) > value(pixels, none_BHW, height_BHW)


@pytest.mark.parametrize("word", TERMS)
def test_a_perfect_prediction_costs_nothing_and_pulls_nothing(word: str) -> None:
    height_BHW = torch.from_numpy(np.random.default_rng(0).uniform(0.2, 9, (2, 16, 16)))
    predicted_BHW, loss = height_BHW.clone().requires_grad_(), parse_loss((word,))
    sums_K = loss.sums(predicted_BHW, height_BHW, height_BHW.isfinite())
    cost = loss.value(sums_K, 0.0)
    cost.backward()
    assert cost.item() == pytest.approx(0, abs=1e-9)
    assert predicted_BHW.grad is not None
    assert predicted_BHW.grad.abs().max() < 1e-9


# --- sums ---


@pytest.mark.parametrize("cuts", [[4], [1, 3], [2, 2], [1, 2, 3, 4, 5]], ids=str)
@pytest.mark.parametrize("words", [*((word,) for word in TERMS), CHMV2], ids="-".join)
def test_ranks_with_unequal_parts_have_the_loss_and_the_gradient_of_one(
    words: tuple[str, ...], cuts: list[int]
) -> None:
    loss, share_done = parse_loss(words), 0.2
    whole, whole_BHW = gradient_of_ranks(loss, [], share_done)
    parts, parts_BHW = gradient_of_ranks(loss, cuts, share_done)
    assert whole > 0
    assert parts == pytest.approx(whole, rel=1e-12)
    torch.testing.assert_close(parts_BHW, whole_BHW, rtol=1e-12, atol=1e-12 * float(whole_BHW.abs().max()))


@pytest.mark.parametrize("words", [*((word,) for word in TERMS), CHMV2], ids="-".join)
def test_the_surrogate_has_the_gradient_of_the_value(words: tuple[str, ...]) -> None:
    loss, (predicted_BHW, height_BHW, measured_BHW) = parse_loss(words), chips()
    predicted_BHW.requires_grad_()
    loss.value(loss.sums(predicted_BHW, height_BHW, measured_BHW), 0.2).backward()
    by_sums_BHW = gradient_of_ranks(loss, [], 0.2)[1]
    assert predicted_BHW.grad is not None
    largest = float(predicted_BHW.grad.abs().max())
    assert largest > 0
    torch.testing.assert_close(by_sums_BHW, predicted_BHW.grad, rtol=1e-12, atol=1e-12 * largest)


@pytest.mark.parametrize("side", [3, 16])
@pytest.mark.parametrize("word", TERMS)
def test_counts_are_known_without_a_prediction(word: str, side: int) -> None:
    """In a chip of 3 x 3 pixels the patch gradient has no patch of 5 x 5, and nothing at half resolution."""
    predicted_BHW, height_BHW, measured_BHW = (values[:, :side] for values in chips())
    loss = parse_loss((word,))
    sums_K, counts_K = loss.sums(predicted_BHW, height_BHW, measured_BHW), loss.counts(measured_BHW)
    assert counts_K.dtype == sums_K.dtype
    is_count_K = counts_K != 0
    assert is_count_K.any()
    assert torch.equal(counts_K[is_count_K], sums_K[is_count_K])
    # What is left out is no count: with other predictions those stay, and the rest is another sum.
    others_K = loss.sums(predicted_BHW + 1.5 * torch.rand(predicted_BHW.shape), height_BHW, measured_BHW)
    assert not (sums_K == others_K)[~is_count_K & (sums_K != 0)].any()


@pytest.mark.parametrize(
    "words", [*((word,) for word in TERMS), ("squared", "gradient:0.1"), CHMV2], ids="-".join
)
def test_counts_alone_tell_the_slope_where_a_loss_says_so(words: tuple[str, ...]) -> None:
    predicted_BHW, height_BHW, measured_BHW = chips()
    loss, gradients = parse_loss(words), []
    for counts_alone in (False, True):
        leaf_BHW = predicted_BHW.clone().requires_grad_()
        sums_K = loss.sums(leaf_BHW, height_BHW, measured_BHW)
        surrogate(loss, sums_K, loss.counts(measured_BHW) if counts_alone else sums_K, 0.1).backward()
        gradients.append(leaf_BHW.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert torch.equal(*gradients) == loss.counts_tell_slope
    assert loss.counts_tell_slope == ("silog" not in "".join(words))


def test_an_average_of_averages_would_differ() -> None:
    """What sums are for: the parts of the tests above are unequal enough to tell."""
    loss, (predicted_BHW, height_BHW, measured_BHW) = parse_loss(("squared",)), chips()
    whole = loss.value(loss.sums(predicted_BHW, height_BHW, measured_BHW), 0.0)
    averages = [
        loss.value(loss.sums(predicted_BHW[part], height_BHW[part], measured_BHW[part]), 0.0)
        for part in (slice(0, 2), slice(2, CHIPS))
    ]
    assert sum(averages).item() / 2 != pytest.approx(whole.item(), rel=1e-3)


@pytest.mark.parametrize("word", TERMS)
def test_gradients_are_those_of_finite_differences(word: str) -> None:
    loss, generator = parse_loss((word,)), np.random.default_rng(1)
    predicted_BHW = torch.from_numpy(generator.normal(1, 2, (1, 7, 8))).requires_grad_()
    height_BHW = torch.from_numpy(generator.uniform(0.2, 5, (1, 7, 8)))
    measured_BHW = torch.from_numpy(generator.random((1, 7, 8)) > 0.05)

    def cost(predicted_BHW: Tensor) -> Tensor:
        return loss.value(loss.sums(predicted_BHW, height_BHW, measured_BHW), 0.0)

    assert torch.autograd.gradcheck(cost, predicted_BHW, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_are_float64_and_half_precision_is_left_before_anything_is_computed(dtype: torch.dtype) -> None:
    loss, (predicted_BHW, height_BHW, measured_BHW) = parse_loss(tuple(TERMS)), chips()
    predicted_BHW, height_BHW = predicted_BHW.to(dtype), height_BHW.float()
    expected_K = loss.sums(predicted_BHW.float(), height_BHW, measured_BHW)
    with torch.autocast("cpu", torch.bfloat16):
        got_K = loss.sums(predicted_BHW, height_BHW, measured_BHW)
    assert got_K.dtype == torch.float64
    assert torch.equal(got_K, expected_K)
    exact_K = loss.sums(predicted_BHW.double(), height_BHW.double(), measured_BHW)
    torch.testing.assert_close(got_K, exact_K, rtol=1e-4, atol=1e-3)


def test_so_many_pixels_are_summed_as_exactly_as_each_is_known() -> None:
    height_BHW = torch.rand(1, 512, 512, generator=torch.Generator().manual_seed(0))
    loss = parse_loss(("absolute",))
    sums_K = loss.sums(torch.zeros_like(height_BHW), height_BHW, height_BHW.isfinite())
    assert sums_K.tolist() == [pytest.approx(height_BHW.double().sum().item(), rel=1e-13), 512 * 512]


# --- what is not measured ---


@pytest.mark.parametrize("words", [*((word,) for word in TERMS), CHMV2], ids="-".join)
def test_a_batch_without_a_measured_pixel_has_no_loss_and_no_gradient(words: tuple[str, ...]) -> None:
    loss, height_BHW = parse_loss(words), torch.full((2, 16, 16), NAN)
    predicted_BHW = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    sums_K = loss.sums(predicted_BHW, height_BHW, height_BHW.isfinite())
    assert loss.value(sums_K, 0.2).item() == 0
    surrogate(loss, sums_K, sums_K, 0.2).backward()
    assert predicted_BHW.grad is not None
    assert (predicted_BHW.grad == 0).all()
    assert set(loss.parts(sums_K).values()) == {0.0}


@pytest.mark.parametrize("junk", [NAN, float("inf"), -1e30])
@pytest.mark.parametrize("word", TERMS)
def test_nothing_that_stands_where_nothing_is_measured_matters(word: str, junk: float) -> None:
    loss, (predicted_BHW, height_BHW, measured_BHW) = parse_loss((word,)), chips()
    expected_K = loss.sums(predicted_BHW, height_BHW, measured_BHW)
    spoilt_BHW = predicted_BHW.masked_fill(~measured_BHW, junk).requires_grad_()
    spoilt_K = loss.sums(spoilt_BHW, height_BHW.masked_fill(~measured_BHW, junk), measured_BHW)
    assert torch.equal(spoilt_K, expected_K)
    surrogate(loss, spoilt_K, spoilt_K, 0.0).backward()
    assert spoilt_BHW.grad is not None
    assert (spoilt_BHW.grad[~measured_BHW] == 0).all()
    assert spoilt_BHW.grad.isfinite().all()


# --- predictions at and below 0 ---


@pytest.mark.parametrize("predicted", [-30.0, -1.0, -0.01, 0.0])
@pytest.mark.parametrize("word", [word for word in TERMS if "gradient" not in word])
def test_a_prediction_below_0_is_pulled_up(word: str, predicted: float) -> None:
    predicted_BHW = metres([[predicted, 2]]).requires_grad_()
    loss = parse_loss((word,))
    loss.value(
        loss.sums(predicted_BHW, metres([[1, 2]]), torch.ones(1, 1, 2, dtype=torch.bool)), 0
    ).backward()
    assert predicted_BHW.grad is not None
    assert predicted_BHW.grad[0, 0, 0] < -1e-3


def test_the_mirrored_logarithm_is_log_above_and_never_flat_nor_steeper_than_at_its_middle() -> None:
    heights = torch.tensor([-1000, -1, -0.01, 0, 5e-4, 1e-3, 2e-3, 0.1, 1, 40], dtype=torch.float64)
    heights.requires_grad_()
    logs = mirrored_log(heights, 1e-3)
    (slopes,) = torch.autograd.grad(logs.sum(), heights)
    torch.testing.assert_close(logs[5:], heights[5:].log())
    torch.testing.assert_close(slopes, 1 / (1e-3 + (heights - 1e-3).abs()))
    assert logs[1].item() == pytest.approx(2 * log(1e-3) - log(1.002))
    assert (logs.diff() > 0).all()


# --- words ---


def test_weights_go_straight_from_one_to_the_other() -> None:
    loss = parse_loss(CHMV2)
    got = {
        share_done: [one.at(share_done) for one in loss.terms]
        for share_done in (0, 0.05, 0.15, 0.275, 0.6, 1)
    }
    assert got[0] == [1, 0, 0]
    assert got[0.05] == pytest.approx([5 / 6, 1 / 6, 0])
    assert got[0.15] == pytest.approx([0.5, 0.5, 0.075 * 0.1 / 0.45])
    assert got[0.275] == pytest.approx([1 / 12, 11 / 12, 0.0375])
    assert got[0.6] == got[1] == [0, 1, 0.075]


@pytest.mark.parametrize(
    ("word", "weights"),
    [
        ("squared", [1, 1, 1, 1]),
        ("squared:2", [2, 2, 2, 2]),
        ("squared:1:0", [1, 0.75, 0.5, 0]),
        ("squared:0.5@0.5", [0, 0, 0.5, 0.5]),
        ("squared:0:1@0.25..0.75", [0, 0, 0.5, 1]),
        ("squared@0.5", [0, 0, 1, 1]),
    ],
)
def test_a_weight_at_0_a_quarter_a_half_and_1(word: str, weights: list[float]) -> None:
    loss = parse_loss((word, "absolute"))
    assert [loss.terms[0].at(share_done) for share_done in (0, 0.25, 0.5, 1)] == weights


def test_the_value_is_the_weighted_sum_of_the_parts() -> None:
    loss, (predicted_BHW, height_BHW, measured_BHW) = parse_loss(CHMV2), chips()
    sums_K = loss.sums(predicted_BHW, height_BHW, measured_BHW)
    parts = loss.parts(sums_K)
    assert list(parts) == ["silog", "charbonnier", "patch_gradient"]
    expected = 0.5 * parts["silog"] + 0.5 * parts["charbonnier"] + 0.075 / 4.5 * parts["patch_gradient"]
    assert loss.value(sums_K, 0.15).item() == pytest.approx(expected, rel=1e-12)
    for word, part in parts.items():
        alone = parse_loss((word,))
        assert alone.value(alone.sums(predicted_BHW, height_BHW, measured_BHW), 0.0).item() == part


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "names no term; choose one of squared, absolute, "),
        (("sqared",), "sqared: there is no term 'sqared'; choose one of squared, absolute, smooth_l1, "),
        (("",), "there is no term ''"),
        (
            ("asymmetric(facter=3)",),
            "asymmetric(facter=3): asymmetric has no key 'facter'; choose one of factor",
        ),
        (("silog(x=1)",), "choose one of variance, smallest"),
        (("squared(x=1)",), "squared(x=1): squared has no key 'x'; it has no keys; leave the brackets out"),
        (("smooth_l1(beta=1,beta=2)",), "beta is given twice"),
        (("asymmetric(factor=three)",), "factor is 'three'; it must be a number above 0"),
        (("asymmetric(factor)",), "factor is ''; it must be a number above 0"),
        (("asymmetric(factor=0)",), "factor is '0'; it must be a number above 0"),
        (("asymmetric_focal(gamma=-1)",), "gamma is '-1'; it must be a number of 0 or more"),
        (("charbonnier(epsilon=nan)",), "epsilon is 'nan'"),
        (("silog(variance=1.5)",), "variance is '1.5'; it must be a number from 0 to 1"),
        (("squared:x",), "squared:x: the weight is 'x'; it must be a number of 0 or more"),
        (("squared:1:-1",), "the end weight is '-1'"),
        (("squared:inf",), "the weight is 'inf'"),
        (("squared@2",), "FROM is '2'; it must be a number from 0 to 1"),
        (("squared:1:0@0..x",), "TO is 'x'"),
        (("squared:1:0@0.5..0.5",), "let FROM be less than TO"),
        (("squared:1@0..0.5",), "TO is when END_WEIGHT is reached"),
        (("squared:1:2:3",), "squared:1:2:3: cannot be read; write NAME(KEY=NUMBER,...):WEIGHT"),
        (("asymmetric(factor=3",), "asymmetric(factor=3: cannot be read"),
        (("squared", "squared:2"), "squared:2: squared is given twice"),
        (("squared@0.5",), "squared@0.5: all terms are off from 0 to 0.5 of the training"),
        (("squared:1:0@0..0.3", "absolute@0.5"), "all terms are off from 0.3 to 0.5"),
        (("squared:0",), "all terms are off from 0 to 1"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_a_word_that_is_none_is_refused_in_one_line(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)) as raised:
        parse_loss(words)
    assert str(raised.value).startswith("--loss")
    assert "\n" not in str(raised.value)
