"""What a regressor must beat: the mean of the training heights, and a per-pixel linear regression.

Both are fitted exactly, from sums over all pixels of the training chips, and travel in the checkpoint.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.order import Chips, subset
from shards.reader import Batch, Dataset

_BATCH = 256


@dataclass(frozen=True)
class Baselines:
    """Predictors in metres that know nothing of a pixel's surroundings."""

    mean_height: float
    coefficients: tuple[float, ...]
    """Metres per stored unit of each stored band, then the intercept in metres."""
    chips: int
    """The number of training chips behind them."""

    def linear(self, image_BCHW: NDArray[Any]) -> NDArray[np.float64]:
        """height_BHW in metres from all stored bands, unclamped."""
        slopes_C, intercept = np.array(self.coefficients[:-1]), self.coefficients[-1]
        result: NDArray[np.float64] = (
            np.einsum("bchw,c->bhw", image_BCHW.astype(np.float64), slopes_C) + intercept
        )
        return result

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**vars(self), "coefficients": list(self.coefficients)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Baselines":
        """The inverse of `to_json`."""
        return cls(**{**values, "coefficients": tuple(values["coefficients"])})


def baselines_of(dataset: Dataset, chips: Chips, limit: int) -> Baselines:
    """Fitted to at most `limit` of these chips."""
    sample = chips[subset(chips.size, limit)]
    return fit_baselines(dataset.batches(sample, _BATCH), dataset.schema.nodata)


def fit_baselines(batches: Iterable[Batch], nodata: float | None) -> Baselines:
    """Least squares over every pixel with a height and without nodata of the batches' chips."""
    products, targets, chips = np.zeros(0), np.zeros(0), 0
    for batch in batches:
        image_NC = np.moveaxis(batch.image_BCHW, 1, -1).reshape(-1, batch.image_BCHW.shape[1])
        design_NC = np.column_stack([image_NC.astype(np.float64), np.ones(len(image_NC))])
        height_N = batch.height_BHW.reshape(-1).astype(np.float64)
        known_N = np.isfinite(height_N)
        if nodata is not None:
            known_N &= (image_NC != nodata).all(1)
        design_NC, height_N = design_NC[known_N], height_N[known_N]
        if not chips:
            products, targets = np.zeros((design_NC.shape[1],) * 2), np.zeros(design_NC.shape[1])
        products += design_NC.T @ design_NC
        targets += design_NC.T @ height_N
        chips += len(batch.chips)
    # Bands differ by orders of magnitude from the constant 1: scaled, the equations are well conditioned.
    scale = np.sqrt(np.diag(products))
    scale[scale == 0] = 1.0
    solution = np.linalg.lstsq(products / np.outer(scale, scale), targets / scale, rcond=None)[0] / scale
    return Baselines(float(targets[-1] / products[-1, -1]), tuple(float(c) for c in solution), chips)
