"""Metrics of heights: MAE, RMSE, bias and R2, overall and by height class, from sums that merge exactly.

Score.of(sums_KSL, density_PM).all.rmse       sums of chips, as trainer.devices.score_sums makes them
(ExactScore.empty() + other).in_metres()      sums of a map's pixels, in whole millimetres
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.height_classes import EDGES, NAMES
from trainer.score.exact_totals import rounded

DENSITY_BINS = 140
DENSITY_TOP_M = 35.0
"""Upper end of the density plot, whose bins are 0.25 m wide; the last bin holds what lies beyond."""

SUMS = ("count", "error", "absolute", "squared", "height", "height_squared")
"""Kinds of sums over pixels: their number, errors, absolute and squared errors, heights and their squares."""


@dataclass(frozen=True)
class Metrics:
    """Metrics of some pixels, in metres; NaN if there are none."""

    count: int
    """Number of pixels."""
    mae: float
    """Mean absolute error."""
    rmse: float
    """Root of the mean squared error."""
    bias: float
    """Mean of predicted - measured."""
    r2: float
    """Share of the heights' variance that is explained, 1 - SSE / SST; not a squared correlation."""

    def to_json(self) -> dict[str, float | int | None]:
        """Return the metrics as plain JSON values; NaN becomes null."""
        return {name: None if value != value else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Metrics":
        """Undo `to_json`."""
        read: dict[str, Any] = {n: float("nan") if v is None else v for n, v in values.items()}
        return cls(**read)


@dataclass(frozen=True)
class Score:
    """Sums over pixels from which metrics follow."""

    sums_KS: NDArray[np.float64]
    """Sums by height class (K) and kind of sum (S, see SUMS)."""
    density_PM: NDArray[np.int64] | None = None
    """Number of pixels by predicted (P) and measured (M) height; None if that is not to be drawn."""

    @classmethod
    def of(cls, sums_KSL: NDArray[np.int64], density_PM: NDArray[np.int64] | None = None) -> "Score":
        """Make the score of exact sums over chips, batches and ranks (trainer.score.exact_totals).

        Raises:
            FloatingPointError: a prediction was not a number.
        """
        return cls(finite(rounded(sums_KSL)), density_PM)

    @property
    def all(self) -> Metrics:
        """Metrics over all heights."""
        return metrics_of(self.sums_KS.sum(0))

    @property
    def by_class(self) -> dict[str, Metrics]:
        """Metrics of each height class, by its name."""
        return {name: metrics_of(sums_S) for name, sums_S in zip(NAMES, self.sums_KS, strict=True)}


@dataclass(frozen=True)
class ExactScore:
    """A `Score` whose sums are whole millimetres: the order of pixels does not change a single bit."""

    sums_KS: NDArray[np.object_]
    """Sums as Python's unbounded integers: square millimetres over a country's pixels exceed 64 bits."""
    density_PM: NDArray[np.int64]
    """Number of pixels by predicted and measured height."""

    @classmethod
    def empty(cls) -> "ExactScore":
        """Make a score of no pixels."""
        density_PM = np.zeros((DENSITY_BINS, DENSITY_BINS), np.int64)
        return cls(np.zeros((len(NAMES), len(SUMS)), object), density_PM)

    def add(self, predicted_N: NDArray[np.int64], measured_N: NDArray[np.int64]) -> None:
        """Add at most 2**18 pixels.

        Args:
            predicted_N: millimetres, less than 5 km from 0.
            measured_N: millimetres, less than 5 km from 0 and from the prediction.
        """
        class_N = _classes(measured_N / 1000)
        for column, values_N in enumerate(_kinds(predicted_N, measured_N)):
            self.sums_KS[:, column] += [int(values_N[class_N == k].sum()) for k in range(len(NAMES))]
        self.density_PM[:] += _density(predicted_N / 1000, measured_N / 1000)

    def __add__(self, other: "ExactScore") -> "ExactScore":
        return ExactScore(self.sums_KS + other.sums_KS, self.density_PM + other.density_PM)

    def in_metres(self) -> Score:
        """Convert to a `Score`, rounding once."""
        per_S = [1000**power for power in (0, 1, 1, 2, 1, 2)]
        return Score((self.sums_KS / np.array(per_S, object)).astype(np.float64), self.density_PM)


def finite(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sums over predicted heights, or refuse them.

    Raises:
        FloatingPointError: a prediction was not a number.
    """
    if not np.isfinite(sums).all():
        raise FloatingPointError("a predicted height is not a number; use another checkpoint")
    return sums


def error_sums(predicted_N: NDArray[np.float64], measured_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sums_S from which `metrics_of` follows, of finite numbers in any unit; sums add up."""
    return np.array([values_N.sum() for values_N in _kinds(predicted_N, measured_N)])


def _kinds(predicted_N: NDArray[Any], measured_N: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return the values to sum, in the order of SUMS."""
    error_N = predicted_N - measured_N
    return np.ones_like(error_N), error_N, abs(error_N), error_N**2, measured_N, measured_N**2


def _classes(measured_N: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the number of each height's class; heights in metres."""
    return np.asarray(np.searchsorted(EDGES[1:-1], measured_N, side="right"))


def _density(predicted_N: NDArray[np.float64], measured_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count pixels, (DENSITY_BINS, DENSITY_BINS), by predicted and measured height in metres."""
    bins = [
        np.clip(v * (DENSITY_BINS / DENSITY_TOP_M), 0, DENSITY_BINS - 1).astype(int)
        for v in (predicted_N, measured_N)
    ]
    flat = np.bincount(bins[0] * DENSITY_BINS + bins[1], minlength=DENSITY_BINS**2)
    return flat.reshape(DENSITY_BINS, DENSITY_BINS)


def metrics_of(sums_S: NDArray[np.float64]) -> Metrics:
    """Return the metrics that follow from sums (see SUMS), in their unit."""
    count, error, absolute, squared, height, height_squared = (float(value) for value in sums_S)
    if not count:
        return Metrics(0, *[float("nan")] * 4)
    total_squares = height_squared - height**2 / count
    r2 = 1 - squared / total_squares if total_squares > 0 else float("nan")
    return Metrics(int(count), absolute / count, (squared / count) ** 0.5, error / count, r2)
