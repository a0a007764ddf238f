"""Sums of scores on the device, held against NumPy's on the host and against themselves.

- They are NumPy's, by height class and in all, whatever is missing.
- Any batches, any order of chips, any number of ranks and threads give the same bytes of scores and losses.
- What is added up is exact: math.fsum, for numbers of any size, and no number where one of them is none.
- Nothing on the way waits for the device.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy_scores import numpy_sums
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from shards.format.height_classes import NAMES
from trainer.data.pixel_classes import NO_CLASS, confusion
from trainer.devices.exact_sums import chip_totals, exact_sums, folded
from trainer.devices.linear import linear
from trainer.devices.score_sums import chip_sums, class_sums, height_sums
from trainer.losses.loss import TERMS, parse_loss
from trainer.score.baselines import Baselines
from trainer.score.exact_totals import WIDTH, rounded
from trainer.score.metrics import SUMS, Score

NAN, INF = float("nan"), float("inf")
CHIPS = 64
LOSS = parse_loss(tuple(TERMS))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Tests choose their number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def heights(chips: int = CHIPS, size: tuple[int, int] = (16, 16), seed: int = 0) -> tuple[Tensor, Tensor]:
    """(predicted_BHW, measured_BHW) in metres; nothing is measured in chip 1, one class alone in chip 2.

    Elsewhere pixels are missing, as NaN and infinities, and predictions there are no numbers either. Edges of
    classes occur, and heights below and far above all classes.
    """
    generator = np.random.default_rng(seed)
    shape = chips, *size
    measured_BHW = (generator.exponential(3, shape) * (generator.random(shape) > 0.4)).astype(np.float32)
    predicted_BHW = np.maximum(0, 0.6 * measured_BHW + generator.normal(0.3, 1, shape)).astype(np.float32)
    measured_BHW[generator.random(shape) < 0.05] = generator.choice([0.001, 0.5, 1, 3, 10, -2, 700])
    measured_BHW[1:2], measured_BHW[2:3] = np.nan, 4.0
    for mark in (np.nan, np.inf, -np.inf):
        measured_BHW[generator.random(shape) < 0.03] = mark
    predicted_BHW[~np.isfinite(measured_BHW)] = np.nan
    return torch.from_numpy(predicted_BHW), torch.from_numpy(measured_BHW)


def bytes_of(totals: list[tuple[Tensor, ...]]) -> list[bytes]:
    """What is written of the totals of some batches, added up one after another."""
    added = [torch.stack(of_one).sum(0) for of_one in zip(*totals, strict=True)]
    return [
        rounded(one.numpy()).tobytes() if one.shape[-1] == WIDTH else one.numpy().tobytes() for one in added
    ]


def sums_of(predicted_BHW: Tensor, measured_BHW: Tensor) -> tuple[Tensor, ...]:
    """All sums of a batch: of an evaluation, of a validation, and of its loss."""
    (sums_KSL,), density_PM = height_sums([predicted_BHW], measured_BHW)
    known_BHW = measured_BHW.isfinite()
    losses_KB = LOSS.sums(predicted_BHW, measured_BHW, known_BHW, chip_totals)
    return sums_KSL, density_PM, exact_sums(chip_sums(predicted_BHW, measured_BHW)), exact_sums(losses_KB.T)


# --- NumPy's ---


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (7, 9)])
def test_the_sums_are_numpys(size: tuple[int, int]) -> None:
    predicted_BHW, measured_BHW = heights(size=size)
    (sums_KSL,), density_PM = height_sums([predicted_BHW], measured_BHW)
    expected_KS, expected_PM = numpy_sums(predicted_BHW.numpy(), measured_BHW.numpy())
    np.testing.assert_allclose(rounded(sums_KSL.numpy()), expected_KS, rtol=1e-12)
    np.testing.assert_array_equal(density_PM.numpy(), expected_PM)
    sums_S = rounded(exact_sums(chip_sums(predicted_BHW, measured_BHW)).numpy())
    np.testing.assert_allclose(sums_S, expected_KS.sum(0), rtol=1e-12)
    score, expected = Score.of(sums_KSL.numpy(), density_PM.numpy()), Score(expected_KS, expected_PM)
    for name, metrics in {**score.by_class, "all": score.all}.items():
        theirs = {**expected.by_class, "all": expected.all}[name]
        np.testing.assert_allclose(list(vars(metrics).values()), list(vars(theirs).values()), rtol=1e-9)


@pytest.mark.parametrize("lanes", [1, 32, 256])
def test_a_chips_sums_are_its_own_and_its_classes_are_its_whole(lanes: int) -> None:
    """With several lanes as on a GPU, where no two additions of one call meet."""
    predicted_BHW, measured_BHW = heights(size=(20, 20))
    sums_BKS = class_sums([predicted_BHW], measured_BHW, lanes)[:, 0]
    assert sums_BKS.shape == (CHIPS, len(NAMES), len(SUMS))
    for one_KS, *pair in zip(sums_BKS, predicted_BHW, measured_BHW, strict=True):
        np.testing.assert_allclose(one_KS, numpy_sums(*(one.numpy() for one in pair))[0], rtol=1e-12)
    np.testing.assert_allclose(sums_BKS.sum(1), chip_sums(predicted_BHW, measured_BHW), rtol=1e-12)
    assert not sums_BKS[1].any()
    assert sums_BKS[2, :, 0].count_nonzero() == 1


def test_several_predictions_are_scored_as_each_alone() -> None:
    """Also in float64, as baselines are."""
    predicted_BHW, measured_BHW = heights()
    compared = predicted_BHW, predicted_BHW.double() * 1.1, torch.full(measured_BHW.shape, 2.5)
    sums_PKSL, density_PM = height_sums(compared, measured_BHW)
    assert torch.equal(density_PM, height_sums(compared[:1], measured_BHW)[1])
    for together_KSL, one_BHW in zip(sums_PKSL, compared, strict=True):
        assert torch.equal(together_KSL, height_sums([one_BHW], measured_BHW)[0][0])


@pytest.mark.parametrize("mark", [NAN, INF, -INF])
def test_a_prediction_that_is_no_number_has_no_score(mark: float) -> None:
    predicted_BHW, measured_BHW = heights()
    place = tuple(measured_BHW.isfinite().nonzero()[100])
    predicted_BHW[place] = mark
    (sums_KSL,), density_PM = height_sums([predicted_BHW], measured_BHW)
    with pytest.raises(FloatingPointError, match="a predicted height is not a number"):
        Score.of(sums_KSL.numpy(), density_PM.numpy())
    assert np.isnan(rounded(exact_sums(chip_sums(predicted_BHW, measured_BHW)).numpy())).any()


def test_the_linear_regression_is_numpys_and_a_pixels_own() -> None:
    image_BCHW = np.random.default_rng(0).integers(0, 3000, (5, 4, 8, 8)).astype(np.uint16)
    baselines = Baselines(2.0, (0.5, -0.25, 3.0), chips=7, positions=(1, 3))
    stored = torch.from_numpy(image_BCHW)
    values_BHW = linear(stored, [baselines.coefficients], baselines.positions)[:, 0]
    np.testing.assert_allclose(values_BHW, baselines.linear(image_BCHW), rtol=1e-12)
    alone = [linear(one[None], [baselines.coefficients], baselines.positions)[:, 0] for one in stored]
    assert torch.equal(torch.cat(alone), values_BHW)


def test_confusion_leaves_pixels_without_a_class_out() -> None:
    place_BHW = torch.tensor([[[0, 1, NO_CLASS, 1]]])
    assert confusion(torch.tensor([[[0, 0, 1, 1]]]), place_BHW, 2).tolist() == [[1, 0], [1, 1]]


# --- the same bytes ---


@pytest.mark.parametrize("size", [(16, 16), (64, 64)])
def test_any_batches_in_any_order_give_the_same_bytes(size: tuple[int, int]) -> None:
    predicted_BHW, measured_BHW = heights(size=size)
    expected = bytes_of([sums_of(predicted_BHW, measured_BHW)])
    shuffled = torch.from_numpy(np.random.default_rng(1).permutation(CHIPS))
    for order in (torch.arange(CHIPS), shuffled):
        for batch in (1, 7, 64):
            totals = [sums_of(predicted_BHW[chips], measured_BHW[chips]) for chips in order.split(batch)]
            assert bytes_of(totals) == expected, (order[:3], batch)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_gives_the_same_bytes(ranks: int) -> None:
    """Each adds up its part of every batch; then the ranks' totals are added up."""
    predicted_BHW, measured_BHW = heights()
    totals = []
    for rank in range(ranks):
        parts = [chips[rank::ranks] for chips in torch.arange(CHIPS).split(7)]
        sums = [sums_of(predicted_BHW[part], measured_BHW[part]) for part in parts if len(part)]
        totals.append(tuple(torch.stack(of_one).sum(0) for of_one in zip(*sums, strict=True)))
    assert bytes_of(totals[::-1]) == bytes_of([sums_of(predicted_BHW, measured_BHW)])


def test_threads_that_share_a_large_chip_change_nothing() -> None:
    """Threads share out 32,768 numbers and more (ATen, GRAIN_SIZE), of a single row in parts of it."""
    predicted_BHW, measured_BHW = heights(3, (208, 208))

    def sums(part: Tensor) -> Tensor:
        pair = predicted_BHW[part], measured_BHW[part]
        return torch.cat([chip_sums(*pair), class_sums(pair[:1], pair[1]).flatten(1)], 1)

    expected_BS = sums(torch.arange(3))
    torch.set_num_threads(2)
    for batch in (1, 2, 3):
        assert torch.equal(torch.cat([sums(part) for part in torch.arange(3).split(batch)]), expected_BS)


def test_sums_in_lanes_are_the_same_in_any_batch() -> None:
    predicted_BHW, measured_BHW = heights(size=(20, 20))
    whole_BPKS = class_sums([predicted_BHW], measured_BHW, 64)
    parts = torch.arange(CHIPS).split(5)
    assert torch.equal(
        torch.cat([class_sums([predicted_BHW[part]], measured_BHW[part], 64) for part in parts]), whole_BPKS
    )


# --- exactness ---


def numbers(count: int = 500) -> Tensor:
    """Numbers of all sizes and both signs that cancel, with the smallest, the largest, and zeros."""
    generator = np.random.default_rng(0)
    values_N = generator.normal(size=count) * 2.0 ** generator.integers(-1060, 1000, count)
    ends = [5e-324, -5e-324, 2.0**-1022, 1.7e308, -1.7e308, 0.0, -0.0, 1.0]
    return torch.tensor([*values_N, *ends, *-values_N[: count // 2]], dtype=torch.float64)


def test_exact_sums_are_fsums_in_any_order_and_parts() -> None:
    values_B = numbers()
    shuffled = torch.from_numpy(np.random.default_rng(1).permutation(len(values_B)))
    for order in (torch.arange(len(values_B)), shuffled):
        for batch in (1, 50, len(values_B)):
            sums_L = torch.stack([exact_sums(values_B[part]) for part in order.split(batch)]).sum(0)
            assert float(rounded(sums_L.numpy())) == math.fsum(values_B.tolist())


def test_exact_sums_keep_what_floats_lose() -> None:
    values_BX = torch.tensor([[1e16, 2.0], [1.0, 3.0], [-1e16, 4.0]], dtype=torch.float64)
    assert float((values_BX[0] + values_BX[1] + values_BX[2])[0]) == 0
    assert rounded(exact_sums(values_BX).numpy()).tolist() == [1, 9]


@pytest.mark.parametrize("mark", [NAN, INF, -INF])
def test_a_sum_with_what_is_no_number_is_none_and_spoils_no_other(mark: float) -> None:
    sums_XL = exact_sums(torch.tensor([[1.0, 1.0], [mark, 2.0]], dtype=torch.float64))
    total_X = rounded((sums_XL + exact_sums(torch.ones(1, 2))).numpy())
    assert math.isnan(total_X[0])
    assert total_X[1] == 4


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, 257])
def test_folding_adds_up_everything_once(count: int) -> None:
    values_XN = torch.arange(2 * count, dtype=torch.float64).view(2, count)
    expected = values_XN.sum(1).tolist()
    assert folded(values_XN.clone(), 1).tolist() == expected
    assert chip_totals(values_XN).tolist() == expected


def test_losses_of_chips_add_up_to_the_batchs() -> None:
    predicted_BHW, measured_BHW = heights(size=(64, 64))
    known_BHW = measured_BHW.isfinite()
    losses_KB = LOSS.sums(predicted_BHW, measured_BHW, known_BHW, chip_totals)
    np.testing.assert_allclose(
        losses_KB.sum(1), LOSS.sums(predicted_BHW, measured_BHW, known_BHW), rtol=1e-12
    )


# --- waiting ---


class Waits(TorchDispatchMode):
    """Notes operations that on a GPU wait for it: numbers and shapes that the host must know."""

    WAITING = (
        "_local_scalar_dense",
        "nonzero",
        "bincount",
        "masked_select",
        "is_nonzero",
        "unique",
        "index.",
    )

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(str(func).removeprefix("aten.").startswith(name) for name in self.WAITING):
            self.met.append(str(func))
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device() -> None:
    predicted_BHW, measured_BHW = heights()
    image_BCHW = torch.ones(CHIPS, 2, 16, 16, dtype=torch.int16)
    with Waits() as waits:
        sums_of(predicted_BHW, measured_BHW)
        class_sums([predicted_BHW], measured_BHW, 64)
        linear(image_BCHW, [(1.0, 2.0, 3.0)])
        confusion(torch.ones(2, 4, 4, dtype=torch.int64), torch.ones(2, 4, 4, dtype=torch.int64), 3)
    assert not waits.met
    with Waits() as waits:
        float(predicted_BHW[predicted_BHW > 1].sum())
    assert len(waits.met) >= 2
