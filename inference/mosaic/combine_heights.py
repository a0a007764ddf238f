"""Several observations of each pixel combined into one height, with their number, spread and newest day.

Arrays in, arrays out. Observations come one by one, in the same order for every pixel; only the median keeps
all of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from inference.maps.map_file import HEIGHT, NODATA, MapBand

Method = Literal["weighted", "median", "newest", "least-uncertain"]

BANDS = (
    HEIGHT,
    MapBand("number of maps"),
    MapBand("spread between maps", "m", 0.01),
    MapBand("newest day", "days since 1970-01-01"),
)
CM_PER_DM = 10.0
"""Centimetres in a decimetre."""
LARGEST = float(np.iinfo(np.int16).max)


@dataclass(frozen=True)
class Observation:
    """What one map observes in the pixels of a block."""

    height_HW: NDArray[np.float32]
    """Decimetres, NaN where there is none."""
    merit_HW: NDArray[Any] | float
    """Merit of each pixel. "weighted": its weight, above 0. "newest" and "least-uncertain": the observation
    with the largest merit is taken, the first of equals. "median": not used."""
    day: int | None
    """Day of the map, in days since 1970-01-01; None if unknown."""


class _Combination(Protocol):
    def add(self, valid_HW: NDArray[np.bool_], observation: Observation) -> None:
        """Add an observation."""

    def height(self, count_HW: NDArray[np.int32]) -> NDArray[Any]:
        """Return heights in decimetres where `count_HW`, the number of observations, is above 0.

        Other pixels may have any value.
        """


class _Mean:
    def __init__(self, shape: tuple[int, int]) -> None:
        self._total_HW, self._weights_HW = np.zeros(shape), np.zeros(shape)

    def add(self, valid_HW: NDArray[np.bool_], observation: Observation) -> None:
        weight_HW = np.where(valid_HW, observation.merit_HW, 0.0)
        self._total_HW += weight_HW * np.where(valid_HW, observation.height_HW, 0.0)
        self._weights_HW += weight_HW

    def height(self, count_HW: NDArray[np.int32]) -> NDArray[Any]:
        return np.asarray(self._total_HW / np.where(count_HW > 0, self._weights_HW, 1.0))


class _Best:
    def __init__(self, shape: tuple[int, int]) -> None:
        self._height_HW, self._merit_HW = np.zeros(shape, np.float32), np.full(shape, -np.inf)

    def add(self, valid_HW: NDArray[np.bool_], observation: Observation) -> None:
        better_HW = valid_HW & (observation.merit_HW > self._merit_HW)
        np.copyto(self._height_HW, observation.height_HW, where=better_HW)
        np.copyto(self._merit_HW, observation.merit_HW, where=better_HW)

    def height(self, count_HW: NDArray[np.int32]) -> NDArray[Any]:
        return self._height_HW


class _Median:
    def __init__(self, shape: tuple[int, int]) -> None:
        self._heights: list[NDArray[np.float32]] = []

    def add(self, valid_HW: NDArray[np.bool_], observation: Observation) -> None:
        self._heights.append(observation.height_HW)

    def height(self, count_HW: NDArray[np.int32]) -> NDArray[Any]:
        height_NHW = np.sort(np.stack(self._heights), axis=0)  # NaN last
        middle = [
            np.take_along_axis(height_NHW, np.maximum(place_HW, 0)[None], axis=0)[0].astype(np.float64)
            for place_HW in ((count_HW - 1) // 2, count_HW // 2)
        ]
        return np.asarray((middle[0] + middle[1]) / 2)


_COMBINATIONS: dict[Method, Callable[[tuple[int, int]], _Combination]] = {
    "weighted": _Mean,
    "median": _Median,
    "newest": _Best,
    "least-uncertain": _Best,
}


def combine(observations: Iterable[Observation], shape: tuple[int, int], method: Method) -> NDArray[np.int16]:
    """Combine observations into stored_CHW, with bands as BANDS.

    A pixel is -9999 where there is no observation, its day also where no observation has one. The spread is
    the standard deviation of the observations, divided by their number: 0 for a single one.
    """
    combination = _COMBINATIONS[method](shape)
    count_HW, newest_HW = np.zeros(shape, np.int32), np.full(shape, NODATA, np.int32)
    total_HW, squares_HW = np.zeros(shape), np.zeros(shape)
    for observation in observations:
        valid_HW = ~np.isnan(observation.height_HW)
        height_HW = np.where(valid_HW, observation.height_HW, 0.0).astype(np.float64)
        count_HW += valid_HW
        total_HW += height_HW
        squares_HW += height_HW**2
        if observation.day is not None:
            np.maximum(newest_HW, observation.day, out=newest_HW, where=valid_HW)
        combination.add(valid_HW, observation)
    observed_HW = count_HW > 0
    if not observed_HW.any():
        return np.full((len(BANDS), *shape), NODATA, np.int16)
    height_HW = combination.height(count_HW)
    # Whole numbers wherever heights are: nothing is rounded before the root.
    scatter_HW = np.maximum(count_HW * squares_HW - total_HW**2, 0.0)
    spread_HW = CM_PER_DM * np.sqrt(scatter_HW) / np.maximum(count_HW, 1)
    stored = [np.rint(np.clip(values_HW, 0, LARGEST)) for values_HW in (height_HW, count_HW, spread_HW)]
    return np.where(observed_HW, np.stack([*stored, newest_HW]), NODATA).astype(np.int16)
