"""Baselines that a model of pixel classes must beat: the commonest class, and a regression per pixel.

The regression is linear least squares from the bands to the indicator of each class; the largest one names
the class. Both are fitted exactly, from sums over all pixels of the training chips, and travel in the
checkpoint.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from shards.format.missing import missing_values
from shards.format.schema import Schema
from trainer.score.baselines import least_squares, stored_terms

COMMONEST = "commonest class"
"""Name of that baseline in reports."""
Labelled = tuple[NDArray[Any], NDArray[np.int64]]
"""image_BCHW as stored, and place_BHW of the pixels' classes, below 0 where there is none."""


@dataclass(frozen=True)
class ClassBaselines:
    """Predictors of classes that know nothing of a pixel's surroundings."""

    shares_K: NDArray[np.float64]
    """Share of each class among the pixels that they were fitted to."""
    coefficients_KF: NDArray[np.float64]
    """For each class: the indicator's slope for each stored band of `positions`, then its intercept."""
    positions: tuple[int, ...]
    """Stored bands that the regression uses, ascending."""
    chips: int
    """Number of training chips that they were fitted to."""

    @property
    def commonest(self) -> int:
        """Place of the commonest class."""
        return int(self.shares_K.argmax())

    def to_json(self) -> dict[str, Any]:
        """Return the baselines as plain JSON values."""
        return {
            "shares": self.shares_K.tolist(),
            "coefficients": self.coefficients_KF.tolist(),
            "positions": list(self.positions),
            "chips": self.chips,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Undo `to_json`."""
        return cls(
            np.array(values["shares"], np.float64),
            np.array(values["coefficients"], np.float64),
            tuple(values["positions"]),
            values["chips"],
        )


def fit_class_baselines(
    chips: Iterable[Labelled], schema: Schema, bands: tuple[str, ...]
) -> ClassBaselines | None:
    """Fit the baselines to every pixel that has a class and a value in each used band.

    Args:
        chips: the training chips, in batches.
        schema: their schema, with the classes.
        bands: bands that the model uses.

    Returns:
        None if there is no such pixel.
    """
    positions, mixing_FC = stored_terms(schema, bands)
    classes, features = len(schema.class_names), len(positions) if mixing_FC is None else len(mixing_FC)
    products_FF, targets_FK = np.zeros((features + 1, features + 1)), np.zeros((features + 1, classes))
    count = 0
    for image_BCHW, place_BHW in chips:
        image_NC = np.moveaxis(image_BCHW[:, positions], 1, -1).reshape(-1, len(positions))
        place_N = place_BHW.reshape(-1)
        known_N = (place_N >= 0) & ~missing_values(image_NC, schema.nodata).any(1)
        image_NC, place_N = image_NC[known_N].astype(np.float64), place_N[known_N]
        features_NF = image_NC if mixing_FC is None else image_NC @ mixing_FC.T
        design_NF = np.column_stack([features_NF, np.ones(len(image_NC))])
        products_FF += design_NF.T @ design_NF
        for place in range(classes):
            targets_FK[:, place] += design_NF[place_N == place].sum(0)
        count += len(image_BCHW)
    if not products_FF[-1, -1]:
        return None
    solution_FK = least_squares(products_FF, targets_FK)
    slopes_CK = solution_FK[:-1] if mixing_FC is None else mixing_FC.T @ solution_FK[:-1]
    coefficients_KF = np.concatenate([slopes_CK, solution_FK[-1:]]).T
    return ClassBaselines(targets_FK[-1] / products_FF[-1, -1], coefficients_KF, positions, count)
