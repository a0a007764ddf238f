"""Blocks of ground that scored chips lie in: neighbours err alike, so that intervals are over blocks."""

from collections import Counter

import numpy as np

from shards.errors import InputError
from shards.read.dataset import Dataset
from shards.read.order import Chips
from shards.write.leakage import unit_of
from shards.write.places import Places, footprints, places_of
from shards.write.split_auto import FEWEST_BLOCKS, FEWEST_SCENES, block_sizes
from trainer.score.chip_scores import NO_BLOCKS


def blocks_of_ground(dataset: Dataset, chips: Chips) -> tuple[list[str], str]:
    """Name the block of ground of each of these chips, and say what blocks are: squares, or else scenes.

    Squares are the largest of which 20 hold chips. Where there are no such blocks, all names are "", and what
    is said is why.
    """
    places = places_of(dataset.index, dataset.schema).taken(chips)
    if found := _squares(places):
        return found
    scenes = list(places.scenes)
    count = len({name for name in scenes if name is not None})
    if count >= FEWEST_SCENES and None not in scenes:
        return [str(name) for name in scenes], f"{count:,} scenes"
    why = (
        f"the chips do not fill {FEWEST_BLOCKS} blocks of ground"
        if places.known().all()
        else "some chips have no position"
    )
    scenes_too_few = f"fewer than {FEWEST_SCENES} scenes are named ({count})"
    return [""] * chips.size, f"{NO_BLOCKS}{why}, and {scenes_too_few}"


def _squares(places: Places) -> tuple[list[str], str] | None:
    """Return the square that each chip lies in, and what is said of them; None if there are too few."""
    if not len(places.keys) or not places.known().all():
        return None
    systems = Counter(name for name in places.crs if name is not None)
    crs = systems.most_common(1)[0][0] if systems else ""
    try:
        # Chips in one CRS stay as they are; of several, all are compared in that of most chips.
        compared_in = crs if len(systems) > 1 else ""
        size, count = next(block_sizes(places, compared_in), (0.0, 0))
        if not count:
            return None
        block_N2 = np.floor(footprints(places, compared_in).centre_N2 / size).astype(np.int64)
        return [f"{x} {y}" for x, y in block_N2.tolist()], f"{count:,} squares of {size:g} {unit_of(crs)}"
    except InputError:  # there is no such CRS
        return None
