"""Errors beside distances: of pairs of regions, and of tiles by distance to the nearest source tiles."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from inference.config import DistancesConfig
from inference.distances.energy import ROWS, distances
from inference.distances.errors import Errors
from inference.distances.measured import Measured
from inference.distances.ranks import RankCorrelation, permuted_correlation, spearman
from inference.distances.regions import Regions
from shards.errors import InputError

FloatArray = NDArray[np.float64]


SOURCES = 16_384
"""Sources that points are compared with at a time."""


@dataclass(frozen=True, eq=False)
class OfTiles:
    """Tiles of one region, as trainings on another predicted them."""

    trained_on: str
    tested_on: str
    rows_T: NDArray[np.int64]
    """Rows of the tiles."""
    distance_T: FloatArray
    """Mean distance to the nearest source tiles."""
    error_T: FloatArray
    rho: float | None
    """Spearman's rank correlation of both."""


@dataclass(frozen=True, eq=False)
class DistanceChecks:
    """Errors of one kind of training beside one folder's distances."""

    kind: str
    rmse_RR: FloatArray
    """Error of trainings on the row's region, tested on the column's; NaN: there is none."""
    correlations: dict[str, RankCorrelation | None]
    """Correlation with the sliced distance, by view."""
    tiles: tuple[OfTiles, ...]

    def to_json(self, names: tuple[str, ...], sliced_RR: FloatArray) -> dict[str, Any]:
        """Return plain JSON values; `sliced_RR` are the distances of vectors as they are."""
        places = [(int(a), int(b)) for a, b in zip(*np.nonzero(np.isfinite(self.rmse_RR)), strict=True)]
        points = [
            {
                "trained_on": names[a],
                "tested_on": names[b],
                "distance": float(sliced_RR[a, b]),
                "rmse": float(self.rmse_RR[a, b]),
            }
            for a, b in places
        ]
        found = {view: one and one.to_json() for view, one in self.correlations.items()}
        tiles = [
            {"trained_on": t.trained_on, "tested_on": t.tested_on, "tiles": len(t.rows_T), "rho": t.rho}
            for t in self.tiles
        ]
        return {"kind": self.kind, "points": points, "rank_correlation": found, "tiles": tiles}


def check_errors(errors: Errors, regions: Regions) -> None:
    """Refuse errors that say nothing about these regions.

    Raises:
        InputError: no training on one of them was tested on another, or on none of their tiles.
    """
    found = [errors.rmse_RR(kind, regions.names) for kind in errors.kinds]
    if not any(_apart(rmse_RR).any() for rmse_RR in found):
        raise InputError(
            f"--errors {errors.url}: no training on one of {', '.join(regions.names)} was tested on another "
            "of them"
        )
    if not set(pc.unique(errors.table["key"]).to_pylist()) & set(regions.column("key").to_pylist()):
        raise InputError(
            f"--errors {errors.url}: none of its keys is in {regions.embeddings.url}; give predictions and "
            "embeddings of the same tiles"
        )


def compare(
    errors: Errors, regions: Regions, measured: Measured, config: DistancesConfig
) -> list[DistanceChecks]:
    """Set errors beside distances, for each kind of training that has some."""
    compared = []
    row_of = {key: row for row, key in enumerate(regions.column("key").to_pylist())}
    for kind in errors.kinds:
        rmse_RR = errors.rmse_RR(kind, regions.names)
        apart_RR = _apart(rmse_RR)
        if not apart_RR.any():
            continue
        correlations = {
            name: permuted_correlation(view.sliced_RR, rmse_RR, config.seed)
            for name, view in measured.views.items()
        }
        pairs = zip(*np.nonzero(apart_RR), strict=True)
        tiles = [_of_tiles(errors, kind, (int(a), int(b)), regions, row_of, config) for a, b in pairs]
        known = tuple(one for one in tiles if one is not None)
        compared.append(DistanceChecks(kind, rmse_RR, correlations, known))
    return compared


def _apart(rmse_RR: FloatArray) -> NDArray[np.bool_]:
    """Tell which pairs are of different regions, and have an error."""
    return np.isfinite(rmse_RR) & ~np.eye(len(rmse_RR), dtype=bool)


def _of_tiles(
    errors: Errors,
    kind: str,
    pair: tuple[int, int],
    regions: Regions,
    row_of: dict[str, int],
    config: DistancesConfig,
) -> OfTiles | None:
    """Measure at most as many tiles as --tiles; None if there are no embeddings of them."""
    trained_on, tested_on = (regions.names[place] for place in pair)
    known = errors.of_tiles(kind, trained_on, tested_on)
    pairs = [(row_of[key], error) for key, error in known.items() if key in row_of]
    if not pairs:
        return None
    rows_T, error_T = (np.array(values) for values in zip(*pairs, strict=True))
    chosen = np.sort(np.random.default_rng(config.seed).permutation(rows_T.size)[: config.tiles])
    rows_T, error_T = rows_T[chosen], error_T[chosen]
    vectors_ND = regions.embeddings.vectors_ND
    sources = regions.sources(trained_on, config.region_column)
    distance_T = mean_to_nearest(vectors_ND[rows_T], vectors_ND[sources], config.neighbours)
    return OfTiles(trained_on, tested_on, rows_T, distance_T, error_T, spearman(distance_T, error_T))


def mean_to_nearest(
    points_ND: NDArray[np.floating[Any]], sources_MD: NDArray[np.floating[Any]], count: int
) -> FloatArray:
    """Return each point's mean distance to its `count` nearest sources, or to all if there are fewer."""
    found = []
    for start in range(0, len(points_ND), ROWS):
        point_RD = points_ND[start : start + ROWS].astype(np.float64)
        nearest_RK = np.empty((len(point_RD), 0))
        for first in range(0, len(sources_MD), SOURCES):
            apart_RS = distances(point_RD, sources_MD[first : first + SOURCES].astype(np.float64))
            both = np.concatenate([nearest_RK, apart_RS], 1)
            nearest_RK = np.partition(both, min(count, both.shape[1]) - 1, axis=1)[:, :count]
        found.append(np.sort(nearest_RK, 1).mean(1))
    return np.concatenate(found)
