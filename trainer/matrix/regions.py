"""Regions of a matrix: datasets, or the values of a column; and the blocks of ground that tiles lie in."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from shards.errors import InputError
from shards.read.dataset import Dataset
from shards.read.order import Chips
from shards.storage.objects import name_of
from shards.write.places import places_of
from shards.write.split_bands import band_numbers
from shards.write.split_rule import SplitRule

ALL = "all"
"""Name of what is trained on all regions together."""


@dataclass(frozen=True)
class Region:
    """A region of the matrix."""

    name: str
    data: str
    """Dataset with its tiles."""
    where: str = ""
    """Expression that chooses them; "": all."""
    value: str | int = ""
    """Value of the regions' column."""

    def tiles(self, dataset: Dataset, split: str) -> Chips:
        """Return the region's tiles of a split of its dataset."""
        return dataset.chips(split, where=self.where)


def regions_of(datasets: list[Dataset], column: str) -> list[Region]:
    """Return the regions: the datasets by their folders' names, or the values of the column of one.

    Raises:
        InputError: there are fewer than two, two have one name, or one has no tile to train or to test on.
    """
    if len(datasets) > 1 and column:
        raise InputError(
            f"--region-column {column}: {len(datasets)} datasets are regions themselves; give one dataset, "
            "or leave it out"
        )
    if len(datasets) == 1 and not column:
        raise InputError(
            f"--data {datasets[0].url}: is one region, and a matrix needs two; give more datasets, or "
            "--region-column"
        )
    if column:
        regions = _of_column(datasets[0], column)
    else:
        regions = [Region(name_of(dataset.url), dataset.url) for dataset in datasets]
    names = Counter(region.name for region in regions)
    if ALL in names:
        raise InputError(f"region {ALL!r}: is the name for all regions together; give that region another")
    for name, count in names.items():
        if count > 1:
            raise InputError(f"--data: {count} datasets are called {name}; give their folders other names")
    opened = {dataset.url: dataset for dataset in datasets}
    for region in regions:
        for split in ("train", "test"):
            if not region.tiles(opened[region.data], split).size:
                raise InputError(
                    f"{region.data}: region {region.name} has no tile to {split} on; split it with a share "
                    f"of {split} (treeline split)"
                )
    return regions


def _of_column(dataset: Dataset, column: str) -> list[Region]:
    columns = dataset.index.column_names
    if column not in columns:
        raise InputError(
            f"--region-column {column}: {dataset.url} has no such column; it has {', '.join(columns)}"
        )
    used = np.concatenate([dataset.chips("train"), dataset.chips("test")])
    values = {value for value in dataset.index[column].take(used).to_pylist() if value not in (None, "")}
    if not all(isinstance(value, str | int) for value in values):
        raise InputError(f"--region-column {column}: holds no names; choose another column")
    if len(values) < 2:
        said = f"only {next(iter(values))}" if values else "no region"
        raise InputError(
            f"--region-column {column}: {dataset.url} has {said} among its training and test tiles; a matrix "
            "needs two or more"
        )
    ordered = sorted(values, key=str)
    return [Region(str(value), dataset.url, is_one_of(column, [value]), value) for value in ordered]


def is_one_of(column: str, values: list[Any]) -> str:
    """Write the expression that a column's value is one of these."""
    name = f"`{column.replace('`', '``')}`"
    if len(values) == 1:
        return f"{name} == {values[0]!r}"
    return f"{name} in ({', '.join(map(repr, values))})"


def blocks_of(dataset: Dataset, tiles: Chips) -> list[str]:
    """Name the block of ground of each of these tiles: its band; "" for all where no bands split them."""
    stored = dataset.manifest.split_rule
    rule = SplitRule.from_json(stored) if stored.get("by") == "bands" else SplitRule()
    if not rule.grids:
        return [""] * tiles.size
    places = places_of(dataset.index, dataset.schema, rule.region_column).taken(tiles)
    grid_N, band_N = band_numbers(places, rule.grids)
    return [f"{rule.grids[grid].region} {band}".strip() for grid, band in zip(grid_N, band_N, strict=True)]
