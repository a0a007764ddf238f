"""Which chips are met more often: weights by height, and how often each chip occurs in an epoch.

weights = height_weights(height_max, edges=(0, 2, 5, 10, 35))        # every bin as often as the others
times = times_met(weights, draws=400_000, seed=0, epoch=3)            # sums to 400,000
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError


def height_weights(
    heights: NDArray[np.floating], edges: Sequence[float], shares: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """(chips,) weights that sum to 1, with which bins of heights are met in proportion to `shares`.

    Args:
        heights: (chips,) a height of each chip, in metres.
        edges: bin i is edges[i] <= height < edges[i + 1]; the first and last are open at their outer ends.
        shares: of the bins; default: equal. The share of a bin without chips goes to the others.

    Raises:
        InputError: edges that do not rise, shares that do not fit them, or chips without a height.
    """
    bins = len(edges) - 1
    if bins < 1 or not all(low < high for low, high in pairwise(edges)):
        raise InputError(f"height bins {' '.join(map(str, edges))}: give two or more rising edges in metres")
    wanted = np.ones(bins) if shares is None else np.asarray(shares, np.float64)
    if wanted.shape != (bins,) or not (np.isfinite(wanted) & (wanted >= 0)).all() or not wanted.any():
        raise InputError(f"shares {shares}: give {bins}, one for each height bin, 0 or more, not all 0")
    if not np.isfinite(heights).all():
        raise InputError(
            f"{np.count_nonzero(~np.isfinite(heights)):,} of {heights.size:,} chips have no height; "
            "leave them out before balancing"
        )
    bin_of_chip = np.searchsorted(np.asarray(edges[1:-1], np.float64), heights, side="right")
    chips = np.bincount(bin_of_chip, minlength=bins)
    wanted = np.where(chips > 0, wanted, 0.0)
    if not wanted.any():
        raise InputError("every chip is in a height bin whose share is 0; choose other shares or edges")
    weights: NDArray[np.float64] = (wanted / wanted.sum() / np.maximum(chips, 1))[bin_of_chip]
    return weights


def times_met(weights: NDArray[np.float64], draws: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """(chips,) how often each chip occurs in an epoch of `draws` samples; a function of (seed, epoch).

    Systematic sampling (Madow and Madow 1944): one random offset, chips in a random order. The counts sum to
    `draws`, each is the chip's expected number rounded down or up, and their expectation is exact.
    """
    # 1: not the generator that draws the order.
    generator = np.random.default_rng((seed, epoch, 1))
    shuffled = generator.permutation(weights.size)
    expected = np.cumsum(weights[shuffled])
    expected *= draws / expected[-1]
    reached = np.floor(expected + generator.random()).astype(np.int64)
    # The last one is `draws` plus an offset below 1, which rounding must not carry over or below.
    reached = np.minimum(reached, draws)
    reached[weights[shuffled].nonzero()[0][-1] :] = draws
    times = np.empty(weights.size, np.int64)
    times[shuffled] = np.diff(reached, prepend=0)
    return times
