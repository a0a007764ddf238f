"""`--split-by auto`: the way to split that suits the chips, as a rule that says it in full.

- scenes, where there are five or more and each share gets some
- else blocks of ground, at least 20 of them, with a chip's side as buffer, the largest that meet the shares
- else single chips, whose neighbours may be trained on; what is said of the choice says so
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from shards.errors import InputError
from shards.format.manifest import SPLITS
from shards.write.places import Places, footprints
from shards.write.split_rule import SplitRule, assign

FEWEST_SCENES = 5
"""Fewest scenes that are held out whole: of fewer, a share of a fifth would get one or none."""
FEWEST_BLOCKS = 20
"""Fewest blocks with chips: of fewer, the shares are met by chance alone."""
FEW = 1 / 4
"""Least part of a share that is met below which its few chips are named."""
STEP = 0.85
"""Side of the next smaller block that is tried."""
MOST_TRIED = 12
"""Most sizes of blocks whose split is worked out; the largest come first, since they lose fewest chips."""


def chosen(asked: SplitRule, places: Places) -> tuple[SplitRule, str]:
    """Return the rule to follow and, if `asked` leaves the choice to us, a line that says which and why."""
    if asked.by != "auto":
        return asked, ""
    names = list(places.scenes)
    count = len({name for name in names if name is not None})
    if sum(share > 0 for share in asked.shares) == 1:
        return replace(asked, by="key"), "split (auto): nothing is held out"
    why = f"there {'is' if count == 1 else 'are'} {count:,} scene{'' if count == 1 else 's'}"
    if count >= FEWEST_SCENES and None not in names:
        rule = replace(asked, by="scene")
        if _least_met(rule, assign(rule, places)) > 0:
            return rule, f"split (auto): by scene; {why}"
        why += ", and by scene a share gets none"
    if found := blocks_that_suit(asked, places):
        rule, blocks = found
        return rule, (
            f"split (auto): by blocks, {blocks:,} of them, as with --block-size {rule.block_size:g} --buffer "
            f"{rule.buffer:g}; {why}{_said_of_few(rule, assign(rule, places))}"
        )
    return replace(asked, by="key"), (
        f"split (auto): by key, so that neighbours of held-out chips are trained on; {why}, and "
        f"{'too few chips' if places.known().all() else 'no positions'} for {FEWEST_BLOCKS} blocks"
    )


def blocks_that_suit(asked: SplitRule, places: Places) -> tuple[SplitRule, int] | None:
    """Return the rule by blocks that meets the shares best, and its number of blocks; None if none does."""
    if not len(places.keys) or not places.known().all():
        return None
    systems = Counter(name for name in places.crs if name is not None)
    # Chips in several CRSs are split in that of most chips.
    crs = systems.most_common(1)[0][0] if len(systems) > 1 else ""
    best: tuple[float, SplitRule, int] | None = None
    tried = 0
    try:
        for size, blocks in block_sizes(places, crs):
            rule = replace(asked, by="blocks", block_size=size, buffer=places.side, crs=crs)
            met = _least_met(rule, assign(rule, places))
            if met > 0 and (best is None or met > best[0]):
                best = met, rule, blocks
            tried += 1
            if met >= 1 / 2 or tried == MOST_TRIED:
                break
    except InputError:  # a chip has no place in that CRS
        return None
    return best and (best[1], best[2])


def block_sizes(places: Places, crs: str) -> Iterator[tuple[float, int]]:
    """Yield sides of blocks, the largest first, with the number of blocks that have chips: enough of them."""
    seen = footprints(places, crs)
    extent = float((seen.high_N2.max(axis=0) - seen.low_N2.min(axis=0)).max())
    size = extent / math.sqrt(FEWEST_BLOCKS) * 2
    while size >= 2 * places.side:
        rounded = float(f"{size:.3g}")
        block_N2 = np.floor(seen.centre_N2 / rounded)
        blocks = np.unique(block_N2[:, 0] + 1j * block_N2[:, 1]).size
        if blocks >= FEWEST_BLOCKS:
            yield rounded, blocks
        size *= STEP


def _said_of_few(rule: SplitRule, split_N: np.ndarray[tuple[int], np.dtype[np.str_]]) -> str:
    """Name the share that fares worst, where it gets so few chips that their scores say little; else ""."""
    if _least_met(rule, split_N) >= FEW:
        return ""
    counts = {split: int((split_N == split).sum()) for split in SPLITS[: len(rule.shares)]}
    shares = dict(zip(counts, rule.shares, strict=True))
    worst = min((split for split in counts if shares[split]), key=lambda split: counts[split] / shares[split])
    return (
        f"; {worst} has only {counts[worst]:,} of {sum(counts.values()):,} chips, whose scores say little: "
        "give more scenes, or --split-by key, by which neighbours are trained on"
    )


def _least_met(rule: SplitRule, split_N: np.ndarray[tuple[int], np.dtype[np.str_]]) -> float:
    """Return how far the share that fares worst is met, 1 for wholly, by the chips outside the buffer."""
    counts = [int((split_N == split).sum()) for split in SPLITS[: len(rule.shares)]]
    if not sum(counts):
        return 0.0
    return min(count / sum(counts) / share for count, share in zip(counts, rule.shares, strict=True) if share)
