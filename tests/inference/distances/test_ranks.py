"""Rank correlations and permutations, worked out by hand."""

import itertools

import numpy as np
import pytest

from inference.distances.ranks import permuted_correlation, ranks_of, spearman


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert ranks_of(np.array([3, 1, 3, 7, 3])).tolist() == [3, 1, 3, 5, 3]


def test_spearman_by_hand() -> None:
    """Ranks 1 2 3 4 against 1 3 2 4: 1 - 6 (0 + 1 + 1 + 0) / (4 (16 - 1)) = 0.8."""
    assert spearman(np.array([1, 5, 6, 9]), np.array([10, 300, 20, 4000])) == pytest.approx(0.8)
    assert spearman(np.arange(5), -(np.arange(5) ** 3)) == pytest.approx(-1)
    # With ties: ranks 1.5 1.5 3 against 1 2 3 are -0.5 -0.5 1 and -1 0 1: 1.5 / sqrt(1.5 * 2).
    assert spearman(np.array([4, 4, 9]), np.array([1, 2, 3])) == pytest.approx(1.5 / np.sqrt(3))
    assert spearman(np.ones(4), np.arange(4)) is None
    assert spearman(np.ones(1), np.ones(1)) is None


def test_three_regions_by_hand() -> None:
    """Distances 1 (ab), 2 (ac), 3 (bc), errors in the same order: rho is 1.

    The six permutations of the regions permute the three distances in all six ways, with rho 1, 0.5, 0.5,
    -0.5, -0.5, -1: of these two are as far from 0, so p is 2/6, however well the data agree.
    """
    distance_RR = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0.0]])
    found = permuted_correlation(distance_RR, 10 * distance_RR, seed=0)
    assert found is not None
    assert (found.rho, found.pairs, found.permutations, found.is_exact) == (pytest.approx(1), 6, 6, True)
    assert found.p == pytest.approx(2 / 6)
    assert (found.low, found.high) == (pytest.approx(-1), pytest.approx(1))


def test_four_regions_are_permuted_in_all_24_ways_and_only_known_pairs_count() -> None:
    generator = np.random.default_rng(2)
    distance_RR = generator.uniform(size=(4, 4))
    distance_RR += distance_RR.T
    error_RR = distance_RR**2 + generator.uniform(0, 0.5, (4, 4))
    error_RR[1, 3] = np.nan
    found = permuted_correlation(distance_RR, error_RR, seed=0)
    used = [(a, b) for a in range(4) for b in range(4) if a != b and (a, b) != (1, 3)]
    rhos = []
    for order in itertools.permutations(range(4)):
        moved = [distance_RR[order[a], order[b]] for a, b in used]
        rhos.append(spearman(np.array(moved), np.array([error_RR[pair] for pair in used])))
    assert found is not None
    assert found.pairs == 11
    assert found.rho == pytest.approx(rhos[0])
    assert found.p == pytest.approx(np.mean([abs(rho) >= abs(rhos[0]) - 1e-12 for rho in rhos]))
    assert found.p >= 1 / 24
    # The middle 95 % of 24 values leaves out none at the lower end, and none at the upper.
    assert (found.low, found.high) == (pytest.approx(min(rhos)), pytest.approx(max(rhos)))


def test_many_regions_are_permuted_at_random_and_chance_is_seldom_told_from_truth() -> None:
    """About one in twenty unrelated matrices has p below 0.05; nearly every real relation has."""
    generator = np.random.default_rng(7)
    by_chance, related = [], []
    for _ in range(40):
        distance_RR = generator.uniform(size=(5, 5))
        distance_RR += distance_RR.T
        noise_RR = generator.uniform(size=(5, 5))
        for found, error_RR in ((by_chance, noise_RR), (related, distance_RR + 0.3 * noise_RR)):
            one = permuted_correlation(distance_RR, error_RR, seed=0)
            assert one is not None
            found.append(one.p < 0.05)
    assert np.mean(by_chance) < 0.15
    assert np.mean(related) > 0.8
    distance_RR = generator.uniform(size=(8, 8))
    distance_RR += distance_RR.T
    drawn = permuted_correlation(distance_RR, distance_RR, seed=0)
    assert drawn is not None
    assert (drawn.permutations, drawn.is_exact) == (10_000, False)
    assert drawn.p < 0.001


def test_two_regions_say_nothing() -> None:
    distance_RR = np.array([[0, 1], [1, 0.0]])
    assert permuted_correlation(distance_RR, np.array([[0, 3], [5, 0.0]]), seed=0) is None
