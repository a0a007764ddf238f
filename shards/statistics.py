"""Exact statistics in one pass: count how often each of the 65,536 possible pixel values occurs.

Counts add, in any grouping and order, and everything else follows from them exactly: mean, standard
deviation, percentiles, the clamp, and mean and deviation after clamping, which otherwise need a second
pass over the data. Heights are counted in centimetres.

    counts = Counts.empty(schema)
    counts.add(image_NCHW, height_NHW)         # any number of times, on any number of machines
    statistics = summarise(counts + other_counts, schema)
"""

import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.schema import Chip, Schema

PERCENTILES = (1, 2, 5, 25, 50, 75, 90, 95, 98, 99)
CLAMP_DEVIATIONS = 3.0
"""Pixels are clamped to (0, mean + 3 standard deviations), as the regressors trained so far were."""
CENTIMETRES = 100.0
HEIGHT_LEVELS = np.arange(-32768, 32768)
"""Heights beyond +-327 m are counted at the ends: no plant is that tall."""


def levels_of(dtype: str) -> NDArray[np.int64]:
    """Every value that a pixel of an integer `dtype` can have, ascending."""
    limits = np.iinfo(dtype)
    return np.arange(limits.min, limits.max + 1, dtype=np.int64)


@dataclass(frozen=True)
class Counts:
    """How often each value occurs: pixels_CL by band and level, heights_L by centimetre level."""

    pixels_CL: NDArray[np.int64]
    heights_L: NDArray[np.int64]

    @classmethod
    def empty(cls, schema: Schema) -> "Counts":
        """No chip seen yet."""
        levels = levels_of(schema.dtype).size
        return cls(np.zeros((len(schema.bands), levels), np.int64), np.zeros(HEIGHT_LEVELS.size, np.int64))

    def add(self, image_NCHW: NDArray[Any], height_NHW: NDArray[np.float32]) -> None:
        """Count stored pixels (chips, bands, rows, columns) and heights (chips, rows, columns) in metres."""
        lowest = int(np.iinfo(image_NCHW.dtype).min)
        for band, counts_L in enumerate(self.pixels_CL):
            values = image_NCHW[:, band].astype(np.int64).ravel() - lowest
            counts_L += np.bincount(values, minlength=counts_L.size)
        centimetres = np.rint(height_NHW[np.isfinite(height_NHW)].astype(np.float64) * CENTIMETRES)
        clipped = np.clip(centimetres, HEIGHT_LEVELS[0], HEIGHT_LEVELS[-1]).astype(np.int64)
        self.heights_L[:] += np.bincount(clipped - HEIGHT_LEVELS[0], minlength=HEIGHT_LEVELS.size)

    def add_chips(self, chips: Sequence[Chip]) -> None:
        """Count the pixels of `chips`."""
        images_NCHW = np.stack([chip.image_CHW for chip in chips])
        self.add(images_NCHW, np.stack([chip.height_HW for chip in chips]))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.pixels_CL + other.pixels_CL, self.heights_L + other.heights_L)

    def to_bytes(self) -> bytes:
        """A compressed .npz of the two arrays; the same counts give the same bytes."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, pixels=self.pixels_CL, heights=self.heights_L)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Counts":
        """The inverse of `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls(arrays["pixels"], arrays["heights"])


@dataclass(frozen=True)
class Summary:
    """One band (in stored units) or the height (in metres). Deviations are of the population (no n - 1)."""

    count: int
    minimum: float
    maximum: float
    mean: float
    std: float
    percentiles: dict[str, float]
    """"90": the smallest value that at least 90 % of the pixels do not exceed, and so on."""


@dataclass(frozen=True)
class BandSummary(Summary):
    """A band, and what the regressor's first layer needs."""

    clamp_max: float
    """mean + 3 std, in stored units: pixels are clamped to (0, clamp_max), then divided by it."""
    clamped_mean: float
    """Mean of the clamped, scaled (0..1) pixels."""
    clamped_std: float
    """Standard deviation of the clamped, scaled (0..1) pixels."""


@dataclass(frozen=True)
class Statistics:
    """Of the training split: each band by name, in stored order, and the height."""

    bands: dict[str, BandSummary]
    height: Summary

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Statistics":
        """The inverse of `to_json`."""
        bands = {name: BandSummary(**band) for name, band in values["bands"].items()}
        return cls(bands, Summary(**values["height"]))


def _mean_and_std(values: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[float, float]:
    """Exactly rounded sums (fsum), so that the result depends on nothing but the counts."""
    total = int(counts.sum())
    mean = math.fsum(values * counts) / total
    return mean, math.sqrt(math.fsum((values - mean) ** 2 * counts) / total)


def _summary(values: NDArray[np.float64], counts: NDArray[np.int64]) -> Summary:
    cumulative = np.cumsum(counts)
    total = int(cumulative[-1])
    mean, std = _mean_and_std(values, counts)
    # Integer arithmetic: the rank of the 90th percentile of 10 pixels is 9, never 9.000000001.
    ranks = {str(percent): -(-percent * total // 100) for percent in PERCENTILES}
    percentiles = {name: float(values[np.searchsorted(cumulative, rank)]) for name, rank in ranks.items()}
    return Summary(total, float(values[0]), float(values[-1]), mean, std, percentiles)


def _seen(values: NDArray[Any], counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    present = counts > 0
    return values[present].astype(np.float64), counts[present]


def summarise(counts: Counts, schema: Schema) -> Statistics | None:
    """The statistics that `counts` hold, nodata left out; None where a band or the height has no value."""
    levels, bands = levels_of(schema.dtype), {}
    heights, height_counts = _seen(HEIGHT_LEVELS / CENTIMETRES, counts.heights_L)
    if not heights.size:
        return None
    for name, counts_L in zip(schema.bands, counts.pixels_CL, strict=True):
        valid = np.ones(levels.size, bool) if schema.nodata is None else levels != schema.nodata
        values, value_counts = _seen(levels[valid], counts_L[valid])
        if not values.size:
            return None
        summary = _summary(values, value_counts)
        # A band that is dark throughout must not be divided by zero.
        clamp_max = max(summary.mean + CLAMP_DEVIATIONS * summary.std, 1.0)
        mean, std = _mean_and_std(np.clip(values, 0, clamp_max) / clamp_max, value_counts)
        bands[name] = BandSummary(**asdict(summary), clamp_max=clamp_max, clamped_mean=mean, clamped_std=std)
    return Statistics(bands, _summary(heights, height_counts))
