"""Energy distances and nearest points against brute force, and whitening against its definition."""

import itertools

import numpy as np
import pytest

from inference.distances import energy
from inference.distances.energy import energy_distances
from inference.distances.nearest import mean_to_nearest
from inference.distances.whitening import whitened

GENERATOR = np.random.default_rng(11)


def brute(one_ND: np.ndarray, other_MD: np.ndarray) -> float:
    between = np.mean([np.linalg.norm(x - y) for x in one_ND for y in other_MD])
    within = [
        np.mean([np.linalg.norm(x - y) for x, y in itertools.combinations(points_ND, 2)])
        for points_ND in (one_ND, other_MD)
    ]
    return float(2 * between - sum(within))


@pytest.mark.parametrize("rows", [512, 4])
def test_energy_is_that_of_its_formula(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "ROWS", rows)
    samples = [GENERATOR.normal(size=(count, 5)) + count / 10 for count in (9, 14, 5)]
    pairs = [(0, 1), (2, 0)]
    expected = [brute(samples[one], samples[other]) for one, other in pairs]
    assert energy_distances(samples, pairs) == pytest.approx(expected, rel=1e-9)


def test_of_two_samples_of_one_distribution_the_mean_is_none() -> None:
    """Without bias: as often below 0 as above, where the biased form is above 0 by the mean over n."""
    found = [
        energy_distances([GENERATOR.normal(size=(20, 3)) for _ in range(2)], [(0, 1)])[0] for _ in range(300)
    ]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    assert 0.2 < np.mean(np.array(found) < 0) < 0.8


def test_the_nearest_are_the_nearest() -> None:
    points_ND, sources_MD = GENERATOR.normal(size=(30, 4)), GENERATOR.normal(size=(50, 4))
    apart_NM = np.linalg.norm(points_ND[:, None] - sources_MD, axis=2)
    for count in (1, 5, 50, 80):
        expected_N = np.sort(apart_NM, 1)[:, :count].mean(1)
        np.testing.assert_allclose(mean_to_nearest(points_ND, sources_MD, count), expected_N, rtol=1e-9)


def test_whitened_clouds_together_have_no_mean_and_one_deviation() -> None:
    """Each cloud counts alike, whatever its size, and a direction that hardly varies is left out."""
    mixing_DD = GENERATOR.normal(size=(4, 4)) * [1, 5, 20, 100]
    clouds = [GENERATOR.normal(size=(count, 4)) @ mixing_DD + count for count in (300, 90)]
    constant = [np.column_stack([cloud_ND, np.full(len(cloud_ND), 7.0)]) for cloud_ND in clouds]
    found = whitened(constant)
    assert found[0].shape == (300, 4)
    mean_K = np.mean([cloud_NK.mean(0) for cloud_NK in found], 0)
    square_KK = np.mean([cloud_NK.T @ cloud_NK / len(cloud_NK) for cloud_NK in found], 0)
    np.testing.assert_allclose(mean_K, 0, atol=1e-9)
    np.testing.assert_allclose(square_KK, np.eye(4), atol=1e-9)
    for scaled, cloud_NK in zip(whitened([1000 * c for c in constant]), found, strict=True):
        np.testing.assert_allclose(np.abs(scaled), np.abs(cloud_NK), atol=1e-6)


def test_few_points_have_few_whitened_directions() -> None:
    clouds = [GENERATOR.normal(size=(20, 30)) for _ in range(3)]
    assert whitened(clouds)[0].shape == (20, 6)
