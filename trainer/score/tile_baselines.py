"""Baselines that a model of tiles must beat: the mean, and a ridge regression on bands.

The regression sees the means and deviations of the bands over a tile.

For classes the mean is that of the classes' indicators, so it names the commonest class. Both are fitted to
the training tiles and travel in the checkpoint.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trainer.score.baselines import MEAN
from trainer.score.ridge import Ridge, fit_ridge

MODEL, RIDGE = "model", "ridge on bands"
"""Names, in reports, of the model and of the regression."""


@dataclass(frozen=True)
class TileBaselines:
    """Predictors that know nothing of where pixels lie within a tile."""

    mean_L: NDArray[np.float64]
    """Mean label, or share of each class, of the tiles that it was fitted to."""
    ridge: Ridge
    """Labels, or indicators of classes, from means and deviations of bands."""
    lowest: float
    """Lowest label of the training tiles: numbers are not predicted beyond the labels that were seen."""
    highest: float
    """Highest one."""
    tiles: int
    """Number of training tiles that the baselines were fitted to."""

    def predicted(self, features_NF: NDArray[np.floating[Any]]) -> dict[str, NDArray[np.float64]]:
        """Predict a value, or a class's number, for each tile (N), by the baseline's name."""
        ridge_NL = self.ridge.predict(features_NF)
        mean_NL = np.broadcast_to(self.mean_L, ridge_NL.shape)
        if len(self.mean_L) > 1:
            return {RIDGE: ridge_NL.argmax(1).astype(np.float64), MEAN: mean_NL.argmax(1).astype(np.float64)}
        return {RIDGE: ridge_NL[:, 0].clip(self.lowest, self.highest), MEAN: mean_NL[:, 0].copy()}

    def to_json(self) -> dict[str, Any]:
        """Return the baselines as plain JSON values."""
        return {
            "mean": self.mean_L.tolist(),
            "ridge": self.ridge.to_json(),
            "lowest": self.lowest,
            "highest": self.highest,
            "tiles": self.tiles,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Undo `to_json`."""
        return cls(
            np.array(values["mean"], np.float64),
            Ridge.from_json(values["ridge"]),
            values["lowest"],
            values["highest"],
            values["tiles"],
        )


def fit_tile_baselines(
    features_MF: NDArray[np.floating[Any]], true_M: NDArray[np.float64], classes: int
) -> TileBaselines:
    """Fit the baselines to training tiles (M).

    Args:
        features_MF: means and deviations of the bands; see trainer.model.encoder.band_features.
        true_M: values, or numbers of classes.
        classes: number of classes; 0: the labels are numbers.
    """
    true_ML = true_M[:, None] == np.arange(classes) if classes else true_M[:, None]
    true_ML = true_ML.astype(np.float64)
    return TileBaselines(
        true_ML.mean(0),
        fit_ridge(features_MF, true_ML),
        float(true_M.min()),
        float(true_M.max()),
        len(true_M),
    )
