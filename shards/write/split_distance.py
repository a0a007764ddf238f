"""How independent the splits are: the distances between their chips, and the scenes that they share.

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
from shards.write.split_rule import BUFFER, Places, footprints

Boxes = NDArray[Any]
"""(chips,) shapely boxes."""

FIRST = 1000
"""Chips of which the nearest neighbour is looked for without a bound."""


def smallest_distances(
    splits: Sequence[str | None], places: Places, crs: str = ""
) -> dict[tuple[str, str], float]:
    """Of each pair of splits that have chips: how near their nearest two footprints are. 0: they touch.

    Args:
        splits: (N,) of the chips; those in "buffer" or in none are left out, as are chips without a position.
        places: of the same chips.
        crs: in which, and in whose units, distances are measured; "": that of the first chip with a position.
            This is the chips' own where all have the same. Of chips in several zones of UTM, say, it
            stretches distances by 1 % some 900 km from the first one's meridian, and more beyond: name an
            equidistant or conic one for a continent. A geographic one measures in degrees.

    Raises:
        InputError: an unknown CRS, or one in which a chip has no place.
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
    """How many chips of "val" and of "test" come from a scene that also has chips in "train".

    Args:
        splits: (N,) of the chips.
        scenes: (N,) of the same chips; those of no known scene (None) share none.
    """
    pairs = list(zip(splits, scenes, strict=True))
    trained = {scene for split, scene in pairs if split == "train" and scene is not None}
    return {
        name: sum(split == name and scene in trained for split, scene in pairs) for name in ("val", "test")
    }


def _smallest(one: Boxes, other: Boxes) -> float:
    """Between any box of `one` and any of `other`."""
    few, many = sorted((one, other), key=len)
    tree = shapely.STRtree(many)
    # The nearest of all is no farther than that of a few: with this bound, most others are done at once.
    _, distances = tree.query_nearest(few[:: -(-len(few) // FIRST)], return_distance=True, all_matches=False)
    smallest = float(distances.min())
    if smallest > 0:
        _, distances = tree.query_nearest(few, max_distance=smallest, return_distance=True, all_matches=False)
        smallest = float(distances.min(initial=smallest))
    return smallest
