"""Every distance of one folder of embeddings: between its regions, and between halves of each."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.config import DistancesConfig
from inference.distances.energy import energy_distances
from inference.distances.regions import Regions
from inference.distances.sliced import Sample, Spread, sliced_wasserstein
from inference.distances.told_apart import ToldApart, told_apart
from inference.distances.whitening import whitened
from shards.progress import Advance

AS_THEY_ARE, CENTRED, WHITENED = "as they are", "centred", "whitened"
VIEWS = {
    AS_THEY_ARE: "vectors as the checkpoint gives them, rounded to float16",
    CENTRED: "each region's vectors less their own mean: what is left differs in shape, not in place",
    WHITENED: "vectors with the mean and the covariance of all regions together (each counts alike) taken "
    "out, so that models with vectors of different lengths can be compared",
}
"""Name of each way to look at the vectors, and what it is."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class View:
    """Distances of one view: between regions off the diagonal, between halves of a region on it."""

    sliced_RR: FloatArray
    """Sliced Wasserstein distance, mean over draws."""
    spread_RR: FloatArray
    """Its standard deviation over draws."""
    energy_RR: FloatArray

    def between(self) -> FloatArray:
        """Return the sliced distances of all pairs of regions."""
        return self.sliced_RR[np.triu_indices(len(self.sliced_RR), 1)]

    def within(self) -> FloatArray:
        """Return the sliced distances of halves."""
        return self.sliced_RR.diagonal()

    def to_json(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return plain JSON values."""

        def numbers(one: int, other: int) -> dict[str, float]:
            return {
                "sliced_wasserstein": float(self.sliced_RR[one, other]),
                "spread": float(self.spread_RR[one, other]),
                "energy": float(self.energy_RR[one, other]),
            }

        pairs = zip(*np.triu_indices(len(names), 1), strict=True)
        between = [{"regions": [names[a], names[b]], **numbers(int(a), int(b))} for a, b in pairs]
        within = [{"region": name, **numbers(place, place)} for place, name in enumerate(names)]
        return {"between": between, "within": within}


@dataclass(frozen=True, eq=False)
class Measured:
    """Measurements of one folder."""

    views: dict[str, View]
    told_apart: dict[str, ToldApart]
    """Classifier by view; there is none of centred vectors, which have nothing to tell regions by."""
    directions: int
    """Number of whitened directions."""


def measure(regions: Regions, config: DistancesConfig, advance: Advance) -> Measured:
    """Measure a folder; `advance` is told how many directions are projected."""
    clouds = regions.clouds()
    white = whitened(clouds)
    views = _views(clouds, regions, config, advance, (AS_THEY_ARE, CENTRED))
    views |= _views(white, regions, config, advance, (WHITENED,))
    advance(0, "classifiers")
    fitted = {
        name: told_apart(np.concatenate(chosen), regions.region_N, regions.is_fitted_N, regions.is_scored_N)
        for name, chosen in ((AS_THEY_ARE, clouds), (WHITENED, white))
    }
    return Measured(views, fitted, white[0].shape[1])


def _views(
    clouds: list[FloatArray],
    regions: Regions,
    config: DistancesConfig,
    advance: Advance,
    names: tuple[str, ...],
) -> dict[str, View]:
    """Measure clouds as they are and, where two names are given, centred."""
    count = len(clouds)
    places = [(int(one), int(other)) for one, other in zip(*np.triu_indices(count, 1), strict=True)]
    own = [(number, number) for number in range(count)]
    half_pairs = [(count + 2 * number, count + 2 * number + 1) for number in range(count)]
    halves = [_halves(regions.halves(config.seed + draw)) for draw in range(config.draws)]
    whole = [Sample(number) for number in range(count)]
    sliced = sliced_wasserstein(
        clouds,
        [[*whole, *of_draw] for of_draw in halves],
        [*places, *half_pairs],
        config.projections,
        config.seed,
        advance,
    )
    found = {}
    for name in names:
        advance(0, f"energy distances, {name}")
        chosen = [one.centred if name == CENTRED else one.whole for one in sliced]
        energy = energy_distances([_points(clouds, one, name) for one in whole], places)
        by_draw = [
            energy_distances([_points(clouds, one, name) for one in of_draw], _neighbours(count))
            for of_draw in halves
        ]
        energy += np.mean(by_draw, 0).tolist()
        found[name] = _view([*places, *own], count, chosen, energy)
    return found


def _halves(of_regions: list[tuple[Any, Any]]) -> list[Sample]:
    return [Sample(number, half) for number, halves in enumerate(of_regions) for half in halves]


def _neighbours(count: int) -> list[tuple[int, int]]:
    """Return the pairs of halves among halves alone."""
    return [(2 * number, 2 * number + 1) for number in range(count)]


def _points(clouds: list[FloatArray], sample: Sample, name: str) -> FloatArray:
    """Return a sample's points, less their own mean where they are centred."""
    points_ND = clouds[sample.cloud] if sample.rows is None else clouds[sample.cloud][sample.rows]
    return points_ND - points_ND.mean(0) if name == CENTRED else points_ND


def _view(places: list[tuple[int, int]], count: int, sliced: list[Spread], energy: list[float]) -> View:
    """Lay out numbers of pairs as symmetric matrices."""
    matrices = np.zeros((3, count, count))
    for (one, other), spread, energetic in zip(places, sliced, energy, strict=True):
        matrices[:, one, other] = matrices[:, other, one] = spread.mean, spread.spread, energetic
    return View(*matrices)
