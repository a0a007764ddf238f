"""Independence of the splits: distances between their chips, and the scenes that they share.

smallest_distances(splits, places)   # {("train", "val"): 512.0}
shared_scenes(splits, scenes)        # {"val": 120, "test": 0}
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import shapely  # type: ignore[import-untyped,unused-ignore]
from numpy.typing import NDArray

from shards.format.manifest import SPLITS
from shards.write.places import Places, footprints
from shards.write.split_rule import BUFFER

Boxes = NDArray[Any]
"""Footprints as shapely boxes, (chips,)."""

FIRST = 1000
"""Number of chips whose nearest neighbour is searched without a bound."""


def smallest_distances(
    splits: Sequence[str | None], places: Places, crs: str = ""
) -> dict[tuple[str, str], float]:
    """Compute the distance of the nearest two footprints for each pair of splits with chips. 0: they touch.

    Args:
        splits: (N,) split of each chip. Chips in "buffer", in no split or without a position are left out.
        places: places of the same chips.
        crs: CRS, and so the unit, of distances; "": that of the first chip with a position. With chips in
            several UTM zones, for example, that stretches distances by 1 % some 900 km from the first chip's
            meridian, and more beyond: give an equidistant or conic CRS for a continent. A geographic CRS
            measures in degrees.

    Raises:
        InputError: the CRS is unknown, or a chip has no place in it.
    """
    named_N = zip(places.crs, places.known(crs), strict=True)
    crs = crs or next((name for name, known in named_N if known and name is not None), "")
    seen = footprints(places, crs)
    known_N = np.isfinite(seen.centre_N2).all(axis=1)
    split_N = np.asarray(splits, object)
    boxes: dict[str, Boxes] = {}
    for split in SPLITS[:BUFFER]:
        chips = np.flatnonzero(known_N & (split_N == split))
        if chips.size:
            boxes[split] = shapely.box(*seen.low_N2[chips].T, *seen.high_N2[chips].T)
    return {(one, other): _smallest(boxes[one], boxes[other]) for one, other in combinations(boxes, 2)}


def shared_scenes(splits: Sequence[str | None], scenes: Sequence[str | None]) -> dict[str, int]:
    """Count the chips of "val" and of "test" whose scene also has chips in "train".

    Args:
        splits: (N,) split of each chip.
        scenes: (N,) scene of each chip; chips without a known scene (None) share none.
    """
    pairs = list(zip(splits, scenes, strict=True))
    trained = {scene for split, scene in pairs if split == "train" and scene is not None}
    return {
        name: sum(split == name and scene in trained for split, scene in pairs) for name in ("val", "test")
    }


def _smallest(one: Boxes, other: Boxes) -> float:
    """Compute the smallest distance between a box of `one` and a box of `other`."""
    few, many = sorted((one, other), key=len)
    tree = shapely.STRtree(many)
    # The smallest distance of a few chips bounds that of all, and rules most others out at once.
    _, distances = tree.query_nearest(few[:: -(-len(few) // FIRST)], return_distance=True, all_matches=False)
    smallest = float(distances.min())
    if smallest > 0:
        _, distances = tree.query_nearest(few, max_distance=smallest, return_distance=True, all_matches=False)
        smallest = float(distances.min(initial=smallest))
    return smallest
