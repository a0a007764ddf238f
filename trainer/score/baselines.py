"""Baselines that a regressor must beat: the mean training height and a per-pixel linear regression.

Both are fitted exactly, from sums over all pixels of the training chips, and travel in the checkpoint. Values
follow linearly from what is stored (`shards.format.band_values`), so a regression on values, also of derived
bands, is one on stored numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.missing import missing_values
from shards.format.schema import Schema
from shards.read.dataset import Batch, Dataset
from shards.read.order import Chips, subset

MEAN = "training mean"
"""Name of that baseline in reports."""
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
    positions, mixing_FC = stored_terms(dataset.schema, bands)
    used = None if len(positions) == len(dataset.schema.bands) else positions
    return fit_baselines(dataset.batches(sample, _BATCH), dataset.schema.nodata, used, mixing_FC)


def stored_terms(
    schema: Schema, bands: tuple[str, ...]
) -> tuple[tuple[int, ...], NDArray[np.float64] | None]:
    """Return what a regression on the values of `bands` is in stored numbers.

    Returns:
        positions of the stored bands that these are made of, ascending, and mixing_FC: features of which
        each band is a sum, as sums of those stored bands. Without it, the stored bands are the features.
    """
    positions = sorted({schema.bands.index(one) for name in bands for one in _made_of(schema, name)})
    features: list[NDArray[np.float64]] = []
    for name in bands:
        row_C = np.zeros(len(positions))
        for one, factor in _made_of(schema, name).items():
            row_C[positions.index(schema.bands.index(one))] = factor * schema.scaling(one)[0]
        row_C /= np.abs(row_C).max()
        # A band that follows from others, as vv - vh does from vv and vh, would only spoil the equations.
        if np.linalg.matrix_rank(np.array([*features, row_C])) > len(features):
            features.append(row_C)
    return tuple(positions), np.array(features) if len(features) < len(positions) else None


def _made_of(schema: Schema, name: str) -> dict[str, float]:
    """Return the stored bands that a band is the sum of, and their factors."""
    derived = schema.derived_band(name)
    return {derived.first: 1.0, derived.second: derived.factor} if derived else {name: 1.0}


def fit_baselines(
    batches: Iterable[Batch],
    nodata: float | None,
    positions: tuple[int, ...] | None = None,
    mixing_FC: NDArray[np.float64] | None = None,
) -> Baselines:
    """Fit the baselines by least squares to every pixel that has a height and a value in each used band.

    `positions` and `mixing_FC` are as in `stored_terms`; default: all stored bands.
    """
    products, targets, chips = np.zeros(0), np.zeros(0), 0
    for batch in batches:
        image_BCHW = batch.image_BCHW if positions is None else batch.image_BCHW[:, positions]
        image_NC = np.moveaxis(image_BCHW, 1, -1).reshape(-1, image_BCHW.shape[1])
        height_N = batch.height_BHW.reshape(-1).astype(np.float64)
        known_N = np.isfinite(height_N) & ~missing_values(image_NC, nodata).any(1)
        image_NC, height_N = image_NC[known_N].astype(np.float64), height_N[known_N]
        features_NF = image_NC if mixing_FC is None else image_NC @ mixing_FC.T
        design_NC = np.column_stack([features_NF, np.ones(len(image_NC))])
        if not chips:
            products, targets = np.zeros((design_NC.shape[1],) * 2), np.zeros(design_NC.shape[1])
        products += design_NC.T @ design_NC
        targets += design_NC.T @ height_N
        chips += len(batch.chips)
    solution = least_squares(products, targets)
    slopes = solution[:-1] if mixing_FC is None else solution[:-1] @ mixing_FC
    coefficients = tuple(map(float, (*slopes, solution[-1])))
    pixels = products[-1, -1]  # none if all shards were left out: training says so
    return Baselines(float(targets[-1] / pixels) if pixels else 0.0, coefficients, chips, positions)


def least_squares(products_FF: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve least squares from sums over pixels: of products of features, and of features times targets.

    Args:
        products_FF: sums of the products of two features.
        targets: sums of the products of a feature and a target, (F,), or (F, K) for K targets.

    Returns:
        Coefficients in the shape of `targets`.
    """
    # Bands are orders of magnitude larger than the constant 1; scaling makes the equations well conditioned.
    scale_F = np.sqrt(np.diag(products_FF))
    scale_F[scale_F == 0] = 1.0
    scale = scale_F if targets.ndim == 1 else scale_F[:, None]
    scaled_FF = products_FF / np.outer(scale_F, scale_F)
    solution: NDArray[np.float64] = np.linalg.lstsq(scaled_FF, targets / scale, rcond=None)[0] / scale
    return solution
