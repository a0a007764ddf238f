"""Sliced Wasserstein distances against closed forms, and what does not change them."""

import numpy as np
import pytest

from inference.distances.sliced import AT_ONCE, Sample, Sliced, sliced_wasserstein

GENERATOR = np.random.default_rng(3)


def points(count: int, width: int = 12) -> np.ndarray:
    return GENERATOR.normal(size=(count, width))


def distance(
    one_ND: np.ndarray, other_MD: np.ndarray, projections: int = 2000, draws: int = 2, threads: int = 0
) -> Sliced:
    samples = [[Sample(0), Sample(1)]] * draws
    (found,) = sliced_wasserstein([one_ND, other_MD], samples, [(0, 1)], projections, seed=1, threads=threads)
    return found


def test_a_shift_is_its_length_over_the_root_of_the_width() -> None:
    """Where clouds differ by a shift d alone, W2^2 along u is (d u)^2, whose mean is |d|^2 / D."""
    one_ND, shift_D = points(300), np.linspace(-2, 3, 12)
    expected = np.linalg.norm(shift_D) / np.sqrt(12)
    found = distance(one_ND, one_ND + shift_D, projections=20_000, draws=4)
    assert found.whole.mean == pytest.approx(expected, rel=0.01)
    assert 0 < found.whole.spread < 0.02 * expected
    assert found.centred.mean < 1e-3 * expected


def test_two_gaussians_shifted_by_a_vector() -> None:
    """Samples of one Gaussian and of a shifted one: the closed form, but for the noise of the samples."""
    shift_D = np.full(12, 1.5)
    found = distance(points(4000), points(3000) + shift_D)
    assert found.whole.mean == pytest.approx(1.5, rel=0.03)
    assert found.centred.mean < 0.1


def test_a_wider_gaussian() -> None:
    """Along every direction W2 of N(0, 1) and N(0, 2^2) is 1 (Dowson and Landau 1982), without any shift."""
    one_ND = points(4000)
    found = distance(one_ND, 2 * one_ND)
    along_D = np.sqrt((one_ND**2).mean())
    assert found.whole.mean == pytest.approx(along_D, rel=0.02)
    assert found.centred.mean == pytest.approx(along_D, rel=0.02)


def test_of_a_cloud_and_itself_there_is_none() -> None:
    one_ND = points(200)
    for other_ND in (one_ND, one_ND[::-1], np.repeat(one_ND, 3, 0)):
        assert distance(one_ND, other_ND).whole.mean < 1e-6


def test_it_is_symmetric_to_the_last_bit() -> None:
    one_ND, other_MD = points(80), 3 * points(50) + 1
    assert distance(one_ND, other_MD) == distance(other_MD, one_ND)


@pytest.mark.parametrize(("count", "other"), [(6, 4), (5, 3), (1, 7), (9, 9)])
def test_samples_of_other_sizes_are_compared_by_quantiles(count: int, other: int) -> None:
    """On a line, repeating each point as often as the other sample has points gives equal sizes."""
    one_N1, other_M1 = points(count, 1), points(other, 1)
    sorted_P, others_P = (
        np.sort(np.repeat(x_N1.astype(np.float32).ravel(), times))
        for x_N1, times in ((one_N1, other), (other_M1, count))
    )
    expected = np.sqrt(((sorted_P - others_P) ** 2).mean())
    assert distance(one_N1, other_M1, projections=1).whole.mean == pytest.approx(expected, rel=1e-5)


def test_threads_change_no_bit_and_more_directions_begin_with_the_same() -> None:
    """Directions are projected in blocks of a fixed size, which bounds the memory, in any threads."""
    one_ND, other_MD = points(150), points(90) + 0.3
    alone = distance(one_ND, other_MD, projections=5 * AT_ONCE + 7, threads=1)
    assert distance(one_ND, other_MD, projections=5 * AT_ONCE + 7, threads=3) == alone
    squares = [distance(one_ND, other_MD, count, draws=1).whole.mean ** 2 * count for count in (1, 2, 3)]
    assert squares[0] < squares[1] < squares[2], "a direction is added to those before"


def test_samples_of_a_cloud_are_those_points() -> None:
    """Drawn anew for each draw; the first draw's directions are the same ones."""
    clouds = [points(100), points(60) + 1]
    rows = [GENERATOR.permutation(100)[:30] for _ in range(2)]

    def measured(clouds: list[np.ndarray], first: list[Sample]) -> list[float]:
        draws = [[sample, Sample(1)] for sample in first]
        (found,) = sliced_wasserstein(clouds, draws, [(0, 1)], 300, seed=1)
        return [found.whole.mean, found.whole.spread]

    alone = [clouds[0][rows[0]], clouds[1]]
    assert measured(clouds, [Sample(0, rows[0])]) == pytest.approx(measured(alone, [Sample(0)]), rel=1e-5)
    same, mixed = (measured(clouds, [Sample(0, rows[0]), Sample(0, rows[n])]) for n in (0, 1))
    assert same != mixed
