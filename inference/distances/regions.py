"""Tiles of each region, drawn from a folder of embeddings: which are used, and which are held out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from inference.config import DistancesConfig
from inference.embed.embeddings import Embeddings
from shards.errors import InputError

LEAST_TILES = 8
"""Fewest tiles of a region: each half must have some."""
STRIPS = 8
"""Strips into which a region is cut, from west to east, where no split holds tiles out."""
HELD_OUT = ("test", "val")
"""Splits that can be held out, the better one first."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Regions:
    """Some tiles of each region."""

    embeddings: Embeddings
    names: tuple[str, ...]
    """Regions, sorted."""
    rows: tuple[Rows, ...]
    """Rows of each region's drawn tiles, in the order of their keys."""
    counts: tuple[int, ...]
    """Number of all tiles of each region."""
    without: int
    """Number of tiles that have no region."""
    is_fitted_N: NDArray[np.bool_]
    """Drawn tiles, region after region, that a classifier may learn from."""
    is_scored_N: NDArray[np.bool_]
    """Tiles that the classifier is scored on."""
    held_out: str
    """How these were chosen, in words."""

    def halves(self, seed: int) -> list[tuple[Rows, Rows]]:
        """Cut each region's drawn tiles in two at random; returns their places among these."""
        generator = np.random.default_rng(seed)
        mixed = [generator.permutation(len(rows)) for rows in self.rows]
        return [(np.sort(one[: len(one) // 2]), np.sort(one[len(one) // 2 :])) for one in mixed]

    @property
    def all_rows(self) -> Rows:
        """Rows of all drawn tiles, region after region."""
        return np.concatenate(self.rows)

    @property
    def region_N(self) -> Rows:
        """Number of the region of each drawn tile."""
        return np.repeat(np.arange(len(self.rows)), [len(rows) for rows in self.rows])

    def clouds(self) -> list[NDArray[np.float64]]:
        """Return the vectors of each region's drawn tiles."""
        return [self.embeddings.vectors_ND[rows].astype(np.float64) for rows in self.rows]

    def column(self, name: str) -> Any:
        """Return a column of all tiles, as an array of pyarrow."""
        return self.embeddings.columns[name].combine_chunks()

    def sources(self, region: str, region_column: str) -> Rows:
        """Return the rows of all tiles of a region that training may have learned from."""
        column = self.column(region_column).cast("string")
        of_region_N = np.asarray(pc.fill_null(pc.equal(column, region), False))
        is_train_N = np.asarray(pc.fill_null(pc.equal(self.column("split"), "train"), False))
        learned = np.flatnonzero(of_region_N & is_train_N)
        return learned if learned.size else np.flatnonzero(of_region_N)


def regions_of(embeddings: Embeddings, config: DistancesConfig) -> Regions:
    """Find the regions of a folder's tiles, and draw the tiles to use.

    Raises:
        InputError: there is no such column, only one region, or a region with too few tiles.
    """
    column, url = config.region_column, embeddings.url
    if column not in embeddings.columns.column_names:
        raise InputError(
            f"--region-column {column}: {url} has no such column; it has "
            f"{', '.join(embeddings.columns.column_names)}"
        )
    values = embeddings.columns[column].combine_chunks().cast("string")
    without = values.null_count
    names = sorted(value for value in pc.unique(values).to_pylist() if value is not None)
    if len(names) < 2:
        raise InputError(
            f"{url}: all its tiles are of one region in the column {column} ({', '.join(names) or 'none'}); "
            "distances need two or more"
        )
    region_N, key_N = np.asarray(values.to_pylist(), object), np.asarray(embeddings.columns["key"])
    rows, counts = [], []
    for number, name in enumerate(names):
        of_region = np.flatnonzero(region_N == name)
        if of_region.size < LEAST_TILES:
            raise InputError(
                f"{url}: region {name} has {of_region.size} tiles; {LEAST_TILES} or more are needed, so "
                "embed more, or leave it out (treeline embed --where)"
            )
        # In the order of the keys, so that the same tiles are drawn for every checkpoint.
        of_region = of_region[np.argsort(key_N[of_region], kind="stable")]
        generator = np.random.default_rng((config.seed, number))
        places = np.sort(generator.permutation(of_region.size)[: config.tiles])
        rows.append(of_region[places])
        counts.append(of_region.size)
    fitted, scored, said = _held_out(embeddings, rows)
    return Regions(embeddings, tuple(names), tuple(rows), tuple(counts), without, fitted, scored, said)


def _held_out(embeddings: Embeddings, rows: list[Rows]) -> tuple[NDArray[np.bool_], NDArray[np.bool_], str]:
    """Choose the tiles to fit and to score a classifier on: by split, else by strips of each region."""
    split_N = np.asarray(embeddings.columns["split"].to_pylist(), object)
    for split in HELD_OUT:
        if all((split_N[of] == "train").sum() > 1 and (split_N[of] == split).any() for of in rows):
            every = np.concatenate(rows)
            said = f"fitted on the split train, scored on {split}"
            return split_N[every] == "train", split_N[every] == split, said
    fitted = [_even_strips(embeddings, of) for of in rows]
    is_fitted_N = np.concatenate(fitted)
    order = "from west to east" if "x" in embeddings.columns.column_names else "in the order of their keys"
    said = f"fitted on every other one of {STRIPS} strips of each region {order}, scored on the rest"
    return is_fitted_N, ~is_fitted_N, said


def _even_strips(embeddings: Embeddings, rows: Rows) -> NDArray[np.bool_]:
    """Tell which tiles are in every other strip; without positions strips follow the keys."""
    order = np.arange(rows.size)
    if "x" in embeddings.columns.column_names:
        x_N = embeddings.columns["x"].take(rows).to_numpy().astype(np.float64)
        order = np.argsort(x_N, kind="stable")
    strip_N = np.empty(rows.size, np.int64)
    strip_N[order] = np.arange(rows.size) * STRIPS // rows.size
    is_even_N: NDArray[np.bool_] = strip_N % 2 == 0
    return is_even_N
