"""The turn in which bands are dealt to splits.

turn_of((0.6, 0.2, 0.2), bands=7)   # (0, 0, 0, 2, 1, 0, 0): train, train, train, test, val, train, train
"""

import math
from collections.abc import Iterator, Sequence
from itertools import count as count_from

from shards.errors import InputError

TURN = (0, 2, 1)
"""Numbers of splits in the order of a turn: train, test, val, as in M3LEO (geetiles) and the SAR paper."""
LONGEST_EXACT = 20
"""Most bands of a turn that has the shares exactly, so that multiples of 1/20 are met by each turn."""


def turn_of(shares: tuple[float, ...], bands: int) -> tuple[int, ...]:
    """Deal `bands` bands to splits, in turn: the number of the split of each band.

    Shares that are multiples of 1/20, or of any 1/n up to that, are met exactly by each turn of at most 20
    bands; other shares by the shortest turn that meets them in the end. Within a turn, the bands of train
    come first, then those of test, then those of val: (0.6, 0.2, 0.2) gives 3 : 1 : 1. Of all bands, each
    split has its share to within one band, and each share above 0 has a band; a last turn that is cut short
    holds what is left to deal.

    Raises:
        InputError: there are too few bands for these shares.
    """
    if bands < 2:
        raise InputError(f"--split-bands {bands}: give 2 or more")
    if not _fits(_apportioned(shares, bands), shares, bands):
        least = next(more for more in count_from(bands) if _fits(_apportioned(shares, more), shares, more))
        given = " ".join(f"{share:g}" for share in shares)
        raise InputError(f"--split-bands {bands}: too few for --shares {given}; give {least} or more")
    for counts in _turns(shares, bands):
        times, left = divmod(bands, sum(counts))
        behind = [bands * share - times * count for share, count in zip(shares, counts, strict=True)]
        last = _rounded(behind, left, [0] * len(counts), counts)
        if _fits([times * count + more for count, more in zip(counts, last, strict=True)], shares, bands):
            return times * _in_order(counts) + _in_order(last)
    raise AssertionError("a turn of all bands has the shares")


def _turns(shares: tuple[float, ...], bands: int) -> Iterator[list[int]]:
    """Yield the bands of each split in turns to try: the shortest exact one, if short, then longer ones."""
    for length in range(1, min(LONGEST_EXACT, bands) + 1):
        exact = [round(length * share) for share in shares]
        if all(
            abs(count - length * share) < 1e-6 and bool(count) == (share > 0)
            for count, share in zip(exact, shares, strict=True)
        ):
            yield exact
            break
    for length in range(sum(share > 0 for share in shares), bands + 1):
        yield _apportioned(shares, length)


def _fits(counts: list[int], shares: tuple[float, ...], bands: int) -> bool:
    """Tell whether these are all bands, and each share has its own to within one."""
    near = (abs(count - bands * share) <= 1 + 1e-9 for count, share in zip(counts, shares, strict=True))
    return sum(counts) == bands and all(near)


def _in_order(counts: Sequence[int]) -> tuple[int, ...]:
    """Deal this many bands to each split, in the order of a turn."""
    return tuple(split for split in TURN if split < len(counts) for _ in range(counts[split]))


def _apportioned(shares: tuple[float, ...], bands: int) -> list[int]:
    """Deal `bands` to shares by the largest remainder; each share above 0 gets one at least, if there are."""
    least = [int(share > 0) for share in shares]
    return _rounded([bands * share for share in shares], bands, least, [bands * one for one in least])


def _rounded(wanted: Sequence[float], total: int, least: Sequence[int], most: Sequence[int]) -> list[int]:
    """Round to whole numbers between `least` and `most` that sum to `total`, by the largest remainder.

    Equal remainders go to the first; if there is no such sum, it is as near as can be.
    """
    exact = [round(one, 9) for one in wanted]  # 5 x 0.6 is 3
    counts = [min(max(math.floor(one), low), high) for one, low, high in zip(exact, least, most, strict=True)]
    while left := total - sum(counts):
        step = 1 if left > 0 else -1
        free = [n for n, count in enumerate(counts) if least[n] <= count + step <= most[n]]
        if not free:
            break
        remainders = [step * round(one - count, 9) for one, count in zip(exact, counts, strict=True)]
        counts[max(free, key=lambda n: remainders[n])] += step
    return counts
