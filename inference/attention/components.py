"""Principal components of the patches' tokens: three, over all tiles, with fixed signs.

moments = Moments.empty(width)
moments.add(tokens_ND)
components = moments.components()
components.of(tokens_ND)  # scores_N3
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COUNT = 3
"""Components, one for each colour of a picture."""


@dataclass(frozen=True, eq=False)
class Components:
    """Directions in which tokens vary most."""

    mean_D: NDArray[np.float64]
    direction_D3: NDArray[np.float64]
    """Directions of length 1, the one of the largest variance first. In each the number farthest from 0 is
    positive."""
    explained_3: NDArray[np.float64]
    """Share of the whole variance along each."""

    def of(self, tokens_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scores_N3 of tokens."""
        return ((tokens_ND - self.mean_D) @ self.direction_D3).astype(np.float32)


class Moments:
    """Sums over tokens, from which their components are computed."""

    def __init__(self, width: int) -> None:
        self._count = 0
        self._sum_D = np.zeros(width)
        self._products_DD = np.zeros((width, width))

    def add(self, tokens_ND: NDArray[np.float32]) -> None:
        """Add tokens."""
        token_ND = tokens_ND.astype(np.float64)
        self._count += len(token_ND)
        self._sum_D += token_ND.sum(0)
        self._products_DD += token_ND.T @ token_ND

    def components(self) -> Components:
        """Compute the components of all tokens that were added."""
        mean_D = self._sum_D / max(self._count, 1)
        covariance_DD = self._products_DD / max(self._count, 1) - np.outer(mean_D, mean_D)
        variance_D, direction_DD = np.linalg.eigh(covariance_DD)
        first = np.s_[: -COUNT - 1 : -1]
        direction_D3 = direction_DD[:, first]
        largest_3 = direction_D3[np.abs(direction_D3).argmax(0), np.arange(direction_D3.shape[1])]
        direction_D3 = direction_D3 * np.where(largest_3 < 0, -1.0, 1.0)
        whole = max(float(variance_D.clip(0).sum()), np.finfo(np.float64).tiny)
        return Components(mean_D, direction_D3, variance_D[first].clip(0) / whole)
