"""Facts about bands for `treeline inspect`: each region's chips, its distances between splits, its map.

regions_of(dataset)   # [] if the dataset is not split by bands
"""

from dataclasses import dataclass

import numpy as np

from shards.draw.chip_map import MapPanel
from shards.draw.html import Cell
from shards.format.manifest import SPLITS
from shards.read.dataset import Dataset
from shards.wording import number
from shards.write.leakage import PAIRS, unit_of
from shards.write.places import footprints, places_of
from shards.write.split_bands import BandGrid
from shards.write.split_distance import smallest_distances
from shards.write.split_rule import SplitRule

HEAD = ("region", "chips", *SPLITS, "CRS", "angle", "width of a band", *("-".join(pair) for pair in PAIRS))
"""Heads of the columns of `BandRegion.row`."""


@dataclass(frozen=True, eq=False)
class BandRegion:
    """A region, as its bands divide it."""

    grid: BandGrid
    panel: MapPanel
    """Panel of the map that shows the region."""
    distances: dict[tuple[str, str], float]
    """Smallest distance between chips of two splits, within the region, in units of the grid's CRS."""
    counts: dict[str, int]
    """Number of chips by split."""

    @property
    def row(self) -> tuple[Cell, ...]:
        """Row of the region in a table; see HEAD."""
        grid, unit = self.grid, unit_of(self.grid.crs)
        lengths = (grid.width, *(self.distances.get(pair) for pair in PAIRS))
        return (
            grid.region or "all",
            sum(self.counts.values()),
            *(self.counts[split] for split in SPLITS),
            grid.crs or "unknown",
            f"{grid.angle:g} degrees",
            *(None if length is None else f"{number(length)} {unit}" for length in lengths),
        )


def regions_of(dataset: Dataset) -> list[BandRegion]:
    """Gather what there is to know about each region with chips; [] without bands.

    Raises:
        InputError: a CRS is unknown, or a chip has no place in it.
    """
    stored = dataset.manifest.split_rule
    rule = SplitRule.from_json(stored) if stored.get("by") == "bands" else SplitRule()
    if not rule.grids:
        return []
    places = places_of(dataset.index, dataset.schema, rule.region_column)
    split_N = np.array(dataset.index["split"].to_pylist(), object)
    region_N = np.array(list(places.regions) if rule.region_column else [""] * split_N.size, object)
    found = []
    for grid in rule.grids:
        chips = np.flatnonzero(region_N == grid.region)
        if not chips.size:
            continue
        here, splits = places.taken(chips), split_N[chips].tolist()
        centre_C2 = footprints(here, grid.crs).centre_N2
        borders_K22 = grid.borders(centre_C2.min(axis=0), centre_C2.max(axis=0))
        panel = MapPanel(centre_C2, splits, grid.crs, grid.region, borders_K22)
        distances = smallest_distances(splits, here, grid.crs)
        found.append(BandRegion(grid, panel, distances, {name: splits.count(name) for name in SPLITS}))
    return found
