"""A linear classifier between regions: ridge regression on their indicators, scored on other tiles."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.score.ridge import fit_ridge


@dataclass(frozen=True)
class ToldApart:
    """How well regions are told apart on held-out tiles."""

    accuracy: float
    """Share of tiles that are given their own region, averaged over regions."""
    chance: float
    """What guessing reaches: one over the number of regions."""
    share_RR: NDArray[np.float64]
    """Share of each region's tiles (row) that are given each region (column)."""
    tiles: int
    """Number of held-out tiles."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = {"accuracy": self.accuracy, "chance": self.chance, "held_out_tiles": self.tiles}
        return {**values, "shares": self.share_RR.tolist()}


def told_apart(
    vectors_ND: NDArray[np.floating[Any]],
    region_N: NDArray[np.int64],
    is_fitted_N: NDArray[np.bool_],
    is_scored_N: NDArray[np.bool_],
) -> ToldApart:
    """Fit on some tiles, and score on others. Every region has tiles among both.

    Args:
        vectors_ND: vectors.
        region_N: number of each tile's region, from 0.
        is_fitted_N: tiles that the classifier is fitted on.
        is_scored_N: tiles that it is scored on.
    """
    count = int(region_N.max()) + 1
    # Each region counts alike, so that a large one is not the answer in doubt.
    kept_N = _balanced(region_N, is_fitted_N)
    indicator_MR = (region_N[kept_N, None] == np.arange(count)).astype(np.float64)
    fitted = fit_ridge(vectors_ND[kept_N], indicator_MR)
    given_T = fitted.predict(vectors_ND[is_scored_N]).argmax(1)
    share_RR = np.zeros((count, count))
    np.add.at(share_RR, (region_N[is_scored_N], given_T), 1)
    share_RR /= share_RR.sum(1, keepdims=True)
    return ToldApart(float(share_RR.diagonal().mean()), 1 / count, share_RR, int((is_scored_N).sum()))


def _balanced(region_N: NDArray[np.int64], is_fitted_N: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return as many of the fitted tiles of each region as the smallest one has, region by region."""
    of_region = [np.flatnonzero(is_fitted_N & (region_N == number)) for number in range(region_N.max() + 1)]
    least = min(map(len, of_region))
    return np.concatenate([tiles[:least] for tiles in of_region])
