"""How good heights are: MAE, RMSE, bias, R2, in all and by height class, from sums that merge exactly.

score = Score.empty()
score.add(predicted_BHW, height_BHW)             # any number of times, on any number of ranks
(score + other_score).all.rmse
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.height_classes import EDGES, NAMES

DENSITY_BINS = 140
DENSITY_TOP_M = 35.0
"""The density plot has bins of 0.25 m from 0 to 35 m; what lies beyond counts in the last."""

_SUMS = ("count", "error", "absolute", "squared", "height", "height_squared")


@dataclass(frozen=True)
class Metrics:
    """Of some pixels, in metres; NaN where there is none."""

    count: int
    mae: float
    rmse: float
    bias: float
    """Mean of predicted - measured."""
    r2: float
    """1 - SSE / SST, the share of the heights' variance that is explained; not a squared correlation."""

    def to_json(self) -> dict[str, float | int | None]:
        """As plain JSON values; NaN becomes null."""
        return {name: None if value != value else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Score:
    """Sums over pixels: sums_KS by height class and kind, density_PM predicted by measured."""

    sums_KS: NDArray[np.float64]
    density_PM: NDArray[np.int64]

    @classmethod
    def empty(cls) -> "Score":
        """No pixel seen yet."""
        return cls(np.zeros((len(NAMES), len(_SUMS))), np.zeros((DENSITY_BINS, DENSITY_BINS), np.int64))

    def add(self, predicted: NDArray[np.floating[Any]], measured: NDArray[np.floating[Any]]) -> None:
        """Count pixels, both in metres and of one shape; those without a height (NaN) are left out."""
        known = np.isfinite(measured)
        if not np.isfinite(predicted[known]).all():
            raise FloatingPointError("a predicted height is not a number; the checkpoint is of no use")
        predicted_N, measured_N = predicted[known].astype(np.float64), measured[known].astype(np.float64)
        class_N = _classes(measured_N)
        for column, values_N in enumerate(_kinds(predicted_N, measured_N)):
            self.sums_KS[:, column] += np.bincount(class_N, values_N, len(NAMES))
        self.density_PM[:] += _density(predicted_N, measured_N)

    def __add__(self, other: "Score") -> "Score":
        return Score(self.sums_KS + other.sums_KS, self.density_PM + other.density_PM)

    @property
    def all(self) -> Metrics:
        """Over all heights."""
        return _metrics(self.sums_KS.sum(0))

    @property
    def by_class(self) -> dict[str, Metrics]:
        """For each height class by name."""
        return {name: _metrics(sums_S) for name, sums_S in zip(NAMES, self.sums_KS, strict=True)}


@dataclass(frozen=True)
class ExactScore:
    """A `Score` whose sums are whole millimetres: the same in whatever order pixels come, to the last bit."""

    sums_KS: NDArray[np.object_]
    """Python's integers, which have no largest: square millimetres of a country's pixels exceed 64 bits."""
    density_PM: NDArray[np.int64]

    @classmethod
    def empty(cls) -> "ExactScore":
        """No pixel seen yet."""
        score = Score.empty()
        return cls(np.zeros(score.sums_KS.shape, object), score.density_PM)

    def add(self, predicted_N: NDArray[np.int64], measured_N: NDArray[np.int64]) -> None:
        """Count at most 2**18 pixels, in millimetres, none as far as 5 km from 0 or from the other."""
        class_N = _classes(measured_N / 1000)
        for column, values_N in enumerate(_kinds(predicted_N, measured_N)):
            self.sums_KS[:, column] += [int(values_N[class_N == k].sum()) for k in range(len(NAMES))]
        self.density_PM[:] += _density(predicted_N / 1000, measured_N / 1000)

    def __add__(self, other: "ExactScore") -> "ExactScore":
        return ExactScore(self.sums_KS + other.sums_KS, self.density_PM + other.density_PM)

    def in_metres(self) -> Score:
        """The same as a `Score`, rounded once."""
        per_S = [1000**power for power in (0, 1, 1, 2, 1, 2)]
        return Score((self.sums_KS / np.array(per_S, object)).astype(np.float64), self.density_PM)


def _kinds(predicted_N: NDArray[Any], measured_N: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """What is summed, see _SUMS."""
    error_N = predicted_N - measured_N
    return np.ones_like(error_N), error_N, abs(error_N), error_N**2, measured_N, measured_N**2


def _classes(measured_N: NDArray[np.float64]) -> NDArray[np.intp]:
    """The number of each one's height class; metres."""
    return np.asarray(np.searchsorted(EDGES[1:-1], measured_N, side="right"))


def _density(predicted_N: NDArray[np.float64], measured_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """(DENSITY_BINS, DENSITY_BINS) counts, predicted by measured; metres."""
    bins = [
        np.clip(v * (DENSITY_BINS / DENSITY_TOP_M), 0, DENSITY_BINS - 1).astype(int)
        for v in (predicted_N, measured_N)
    ]
    flat = np.bincount(bins[0] * DENSITY_BINS + bins[1], minlength=DENSITY_BINS**2)
    return flat.reshape(DENSITY_BINS, DENSITY_BINS)


def _metrics(sums_S: NDArray[np.float64]) -> Metrics:
    count, error, absolute, squared, height, height_squared = (float(value) for value in sums_S)
    if not count:
        return Metrics(0, *[float("nan")] * 4)
    total_squares = height_squared - height**2 / count
    r2 = 1 - squared / total_squares if total_squares > 0 else float("nan")
    return Metrics(int(count), absolute / count, (squared / count) ** 0.5, error / count, r2)
