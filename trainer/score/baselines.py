"""Baselines that a regressor must beat: the mean training height and a per-pixel linear regression.

Both are fitted exactly, from sums over all pixels of the training chips, and travel in the checkpoint.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.missing import missing_values
from shards.read.dataset import Batch, Dataset
from shards.read.order import Chips, subset

_BATCH = 256


@dataclass(frozen=True)
class Baselines:
    """Predictors of height that know nothing of a pixel's surroundings."""

    mean_height: float
    """Mean height of the training chips, in metres."""
    coefficients: tuple[float, ...]
    """Metres per stored unit of each band of `positions`, then the intercept in metres."""
    chips: int
    """Number of training chips that they were fitted to."""
    positions: tuple[int, ...] | None = None
    """Stored bands that the regression uses, ascending. None means all, even those that the regressor does
    not use: older checkpoints do not name them."""

    def linear(self, image_BCHW: NDArray[Any]) -> NDArray[np.float64]:
        """Predict height_BHW in metres, unclamped; meaningful only where no band is missing."""
        slopes_C, intercept = np.array(self.coefficients[:-1]), self.coefficients[-1]
        if self.positions is not None:
            image_BCHW = image_BCHW[:, self.positions]
        result: NDArray[np.float64] = (
            np.einsum("bchw,c->bhw", image_BCHW.astype(np.float64), slopes_C) + intercept
        )
        return result

    def to_json(self) -> dict[str, Any]:
        """Return the baselines as plain JSON values."""
        values: dict[str, Any] = {**vars(self), "coefficients": list(self.coefficients)}
        if values.pop("positions") is not None:
            values["positions"] = list(self.positions or ())
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Baselines":
        """Undo `to_json`."""
        read: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        return cls(**read)


def baselines_of(dataset: Dataset, chips: Chips, limit: int, bands: tuple[str, ...]) -> Baselines:
    """Fit the baselines to at most `limit` of these chips, with the `bands` that the regressor uses."""
    sample = chips[subset(chips.size, limit)]
    schema, positions = dataset.schema, tuple(sorted(set(dataset.schema.band_positions(bands))))
    used = None if len(positions) == len(schema.bands) else positions
    return fit_baselines(dataset.batches(sample, _BATCH), schema.nodata, used)


def fit_baselines(
    batches: Iterable[Batch], nodata: float | None, positions: tuple[int, ...] | None = None
) -> Baselines:
    """Fit the baselines by least squares to every pixel that has a height and a value in each used band."""
    products, targets, chips = np.zeros(0), np.zeros(0), 0
    for batch in batches:
        image_BCHW = batch.image_BCHW if positions is None else batch.image_BCHW[:, positions]
        image_NC = np.moveaxis(image_BCHW, 1, -1).reshape(-1, image_BCHW.shape[1])
        design_NC = np.column_stack([image_NC.astype(np.float64), np.ones(len(image_NC))])
        height_N = batch.height_BHW.reshape(-1).astype(np.float64)
        known_N = np.isfinite(height_N) & ~missing_values(image_NC, nodata).any(1)
        design_NC, height_N = design_NC[known_N], height_N[known_N]
        if not chips:
            products, targets = np.zeros((design_NC.shape[1],) * 2), np.zeros(design_NC.shape[1])
        products += design_NC.T @ design_NC
        targets += design_NC.T @ height_N
        chips += len(batch.chips)
    # Bands are orders of magnitude larger than the constant 1; scaling makes the equations well conditioned.
    scale = np.sqrt(np.diag(products))
    scale[scale == 0] = 1.0
    solution = np.linalg.lstsq(products / np.outer(scale, scale), targets / scale, rcond=None)[0] / scale
    return Baselines(float(targets[-1] / products[-1, -1]), tuple(map(float, solution)), chips, positions)
