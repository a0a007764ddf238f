"""Weights of chips, and how often an epoch has each chip. Arrays in, arrays out.

Most chips of a forest are bare or of middling height, so a regressor trained on all alike sees few tall
trees. Weights say how often a chip comes, relative to the others:

    weights = height_weights(height_max, edges=(0, 2, 10, 35))
    times = times_met(weights, draws=weights.size, seed=0, epoch=3)
    chips = np.repeat(np.arange(times.size), times)
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shards.errors import InputError

MOST_DRAWS = 2**31
"""Most draws of an epoch: beyond, a unit of `times_met` is too coarse for the rounding errors of a million
chips."""


def height_weights(
    heights: ArrayLike, edges: Sequence[float], shares: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Compute (chips,) weights that give each bin of heights its share of an epoch. They sum to 1.

    Bin i is edges[i] <= height < edges[i + 1]; lower heights count to the first bin, higher ones to the last.
    The share of a bin without chips goes to the other bins, in proportion to theirs.

    Args:
        heights: (chips,) metres; one of the index's columns of heights.
        edges: (bins + 1,) metres, ascending.
        shares: (bins,) not negative, with any sum; default: equal. Chips in a bin with share 0 weigh 0, all
            others more than 0.

    Raises:
        InputError: a height is missing; edges do not ascend; shares do not fit.
    """
    height, edge = np.asarray(heights, np.float64), np.asarray(edges, np.float64)
    if edge.size < 2 or not (np.diff(edge) > 0).all():
        raise InputError(f"edges of heights {list(edges)}: give two or more, each above the one before")
    bins = edge.size - 1
    share = np.ones(bins) if shares is None else np.asarray(shares, np.float64)
    if share.shape != (bins,):
        raise InputError(f"{share.size} shares for {bins} bins of height; give one for each bin")
    if not (np.isfinite(share) & (share >= 0)).all():
        raise InputError(f"shares {list(share)}: each must be a number of 0 or more")
    if missing := int(np.count_nonzero(~np.isfinite(height))):
        raise InputError(f"{missing} of {height.size} chips have no height; select those that have one")
    bin_of_chip = np.digitize(height, edge[1:-1])
    count = np.bincount(bin_of_chip, minlength=bins)
    share = np.where(count, share, 0)
    if not share.any():
        raise InputError("no chip is in a bin with a share above 0; change the edges, or the shares")
    share /= share.max()  # so that no sum overflows
    weight_of_bin = share / share.sum() / np.maximum(count, 1)
    return np.asarray(weight_of_bin[bin_of_chip], np.float64)


def times_met(weights: ArrayLike, draws: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Compute (chips,) how often each chip comes in an epoch of `draws` samples; the sum is `draws`.

    Systematic sampling (W. G. Madow, On the theory of systematic sampling II, Annals of Mathematical
    Statistics 20, 1949, pp. 333-354): lay the chips end to end in a random order, each as long as its
    expected count, and put down a comb with one tooth per draw at a random offset. So a chip comes floor or
    ceil of draws * weight / sum times, and on average over epochs draws * weight / sum times. Independent
    draws would miss 37 % (1/e) of equally weighted chips in every epoch.

    Lengths are integers, in units of 1 / 2^k draws (k is 42 for a million draws): sums of floats would lose
    or add a draw now and then. A chip with an expected count below half a unit never comes.

    Args:
        weights: (chips,) not negative, with any sum.
        draws: samples of the epoch, at most MOST_DRAWS.
        seed: seed of the run.
        epoch: 0, 1, ... Seed and epoch decide everything; the draws are independent of
            `shards.read.order.epoch_order`.

    Raises:
        InputError: a weight is negative or not a number, no weight is above 0, or draws are out of range.
    """
    weight = np.asarray(weights, np.float64)
    wrong = int(np.count_nonzero(~(np.isfinite(weight) & (weight >= 0))))
    if wrong or not weight.any():
        raise InputError(
            f"{wrong} of {weight.size} weights are not numbers of 0 or more; one must be above 0"
        )
    if not 0 <= draws <= MOST_DRAWS:
        raise InputError(f"{draws} draws: give 0 to {MOST_DRAWS}")
    generator = np.random.default_rng((seed, epoch, 1))  # the order of the epoch has (seed, epoch)
    order = generator.permutation(weight.size)
    bits = 62 - max(draws, weight.size).bit_length()  # no sum below reaches 2^63
    relative = weight[order] / weight.max()
    length = np.rint(relative * (draws / relative.sum()) * 2.0**bits).astype(np.int64)
    edge = np.cumsum(_mended(length, draws << bits, bits)) + generator.integers(1 << bits)
    times = np.empty(weight.size, np.int64)
    times[order] = np.diff(edge >> bits, prepend=0)
    return times


def _mended(length: NDArray[np.int64], total: int, bits: int) -> NDArray[np.int64]:
    """Adjust lengths to the sum `total`, which rounding missed by a millionth of a draw or so.

    The first lengths that are not whole numbers of draws give or take the difference, each up to its next
    whole number. So floor and ceil of a length stay, and a chip that is expected exactly twice comes twice.
    """
    lacking = total - int(length.sum())
    above = length & ((1 << bits) - 1)
    room = np.where(above > 0, (1 << bits) - above, 0) if lacking > 0 else above
    before = np.cumsum(room) - room
    mend: NDArray[np.int64] = np.clip(abs(lacking) - before, 0, room)
    return length + mend if lacking > 0 else length - mend
