"""Percentiles of a scene beside those of the training."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.schema import Schema
from shards.format.statistics import Statistics

LEAST_PIXELS = 100
"""Fewest sampled pixels that anything is concluded from."""
PERCENTS = ("2", "5", "25", "50", "75")
QUARTERS = slice(2, 5)
MEDIAN = 3
"""Places in PERCENTS."""


@dataclass(frozen=True)
class ScenePercentiles:
    """Percentiles of a scene and of the training, of the bands that both have."""

    names: tuple[str, ...]
    of_file: tuple[str, ...]
    """Names of all bands of the scene's file, in its order."""
    values_BN: NDArray[np.float64]
    scene_BP: NDArray[np.float64]
    """Percentiles of the sampled pixels, as PERCENTS."""
    scene_95_B: NDArray[np.float64]
    """95th percentile of the sampled pixels."""
    trained_BP: NDArray[np.float64]
    low_B: NDArray[np.float64]
    """First percentile in training."""
    high_B: NDArray[np.float64]
    """90th percentile in training."""
    top_B: NDArray[np.float64]
    """99th percentile in training."""
    most_B: NDArray[np.float64]
    """Largest value in training."""
    are_bytes: bool = False
    """Whether pixels are stored as bytes, which those of the training are not."""

    @property
    def are_above_0(self) -> bool:
        """Whether values have logarithms, but for a few zeros."""
        return bool((self.low_B >= 0).all() and (self.trained_BP[:, QUARTERS] > 0).all())

    @property
    def brightest(self) -> int:
        """Place of the band with the largest median in training."""
        return int(self.trained_BP[:, MEDIAN].argmax())

    def said(self, band: int) -> str:
        """Say a band's median and range."""
        low, high = (f"{value:.4g}" for value in (self.low_B[band], self.top_B[band]))
        median = f"{self.scene_BP[band, MEDIAN]:.4g}"
        return f"band {self.names[band]} has the median {median}, in training 98 % lie in {low} to {high}"


def compared(
    stored_BN: NDArray[Any], of_file: tuple[str, ...], schema: Schema, statistics: Statistics
) -> ScenePercentiles | None:
    """Compare stored pixels with the training, in the unit of the values; None if too little is known.

    Args:
        stored_BN: sampled pixels of the training's bands.
        of_file: names of all bands of the scene's file.
        schema: the schema of the training's chips.
        statistics: statistics of these chips.
    """
    needed = {*PERCENTS, "1", "90", "99"}
    names = tuple(
        name
        for name in schema.bands
        if name in statistics.bands and needed <= statistics.bands[name].percentiles.keys()
    )
    if not names or stored_BN.shape[1] < LEAST_PIXELS:
        return None
    scalings = np.array([schema.scaling(name) for name in names])
    places = [schema.bands.index(name) for name in names]
    values_BN = stored_BN[places].astype(np.float64) * scalings[:, :1] + scalings[:, 1:]
    trained = [statistics.bands[name] for name in names]

    def of_training(percents: Iterable[str]) -> NDArray[np.float64]:
        return np.array([[one.percentiles[percent] for percent in percents] for one in trained])

    *scene_PB, scene_95_B = np.percentile(values_BN, [*map(int, PERCENTS), 95], axis=1)
    low_B, high_B, top_B = of_training(("1", "90", "99")).T
    return ScenePercentiles(
        names=names,
        of_file=of_file,
        values_BN=values_BN,
        scene_BP=np.stack(scene_PB, axis=1),
        scene_95_B=scene_95_B,
        trained_BP=of_training(PERCENTS),
        low_B=low_B,
        high_B=high_B,
        top_B=top_B,
        most_B=np.array([one.maximum for one in trained]),
    )
