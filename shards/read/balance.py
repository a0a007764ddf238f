"""Weights of chips, and how often each is met in an epoch. Arrays in, arrays out.

Most chips of a forest are either bare or of middling height; a regressor that meets them as they come has
seen few tall trees. Weights say how often a chip is met, relative to the others:

    weights = height_weights(height_max, edges=(0, 2, 10, 35))
    times = times_met(weights, draws=weights.size, seed=0, epoch=3)
    chips = np.repeat(np.arange(times.size), times)
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shards.errors import InputError

MOST_DRAWS = 2**31
"""With more, a unit of `times_met` is too coarse for the sum of a million chips' rounding errors."""


def height_weights(
    heights: ArrayLike, edges: Sequence[float], shares: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """(chips,) weights with which the chips of each bin of height are met in proportion to `shares`.

    Bin i is edges[i] <= height < edges[i + 1]; lower heights count to the first, higher to the last. The
    share of a bin without chips goes to the other bins, in proportion to theirs.

    Args:
        heights: (chips,) metres; one of the index's columns of heights.
        edges: (bins + 1,) metres, ascending.
        shares: (bins,) not negative, of any sum; equal if left out. The chips of a share of 0 weigh 0, all
            others more than 0. The weights sum to 1.

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
    """(chips,) how often each chip is met in an epoch of `draws` samples; they sum to `draws`.

    Systematic sampling (W. G. Madow, On the theory of systematic sampling II, Annals of Mathematical
    Statistics 20, 1949, pp. 333-354): chips in a random order are laid end to end, each as long as the times
    it is expected, and a comb with one tooth per draw is put down at a random offset. So a chip is met
    floor or ceil of draws * weight / sum times, and the mean over epochs is draws * weight / sum; drawing
    each sample by itself would miss 37 % (1/e) of equally weighted chips in every epoch.

    Lengths are integers, in units of 1 / 2^k draws (k is 42 for a million draws): sums of floats would lose
    or add a draw now and then. A chip expected less than half a unit is never met.

    Args:
        weights: (chips,) not negative, of any sum.
        draws: samples of the epoch, at most MOST_DRAWS.
        seed: of the run.
        epoch: 0, 1, ...; with the seed it decides all, and is independent of `shards.read.order.epoch_order`.

    Raises:
        InputError: a weight is negative or no number, none is above 0, or draws are out of range.
    """
    weight = np.asarray(weights, np.float64)
    wrong = int(np.count_nonzero(~(np.isfinite(weight) & (weight >= 0))))
    if wrong or not weight.any():
        raise InputError(f"{wrong} of {weight.size} weights are no numbers of 0 or more; one must be above 0")
    if not 0 <= draws <= MOST_DRAWS:
        raise InputError(f"{draws} draws: give 0 to {MOST_DRAWS}")
    generator = np.random.default_rng((seed, epoch, 1))  # the order of the epoch has (seed, epoch)
    order = generator.permutation(weight.size)
    bits = 62 - max(draws, weight.size).bit_length()  # no sum of what follows reaches 2^63
    relative = weight[order] / weight.max()
    length = np.rint(relative * (draws / relative.sum()) * 2.0**bits).astype(np.int64)
    edge = np.cumsum(_mended(length, draws << bits, bits)) + generator.integers(1 << bits)
    times = np.empty(weight.size, np.int64)
    times[order] = np.diff(edge >> bits, prepend=0)
    return times


def _mended(length: NDArray[np.int64], total: int, bits: int) -> NDArray[np.int64]:
    """Lengths with the sum `total`, which rounding missed by a millionth of a draw or so.

    The first lengths that are no whole number of draws give or take it, each up to its next whole number: so
    floor and ceil of a length stay, and a chip that is expected exactly twice is met twice.
    """
    lacking = total - int(length.sum())
    above = length & ((1 << bits) - 1)
    room = np.where(above > 0, (1 << bits) - above, 0) if lacking > 0 else above
    before = np.cumsum(room) - room
    mend: NDArray[np.int64] = np.clip(abs(lacking) - before, 0, room)
    return length + mend if lacking > 0 else length - mend
