"""Points on a plane: t-SNE, which keeps neighbours together, or the first two principal components."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PERPLEXITY = 30.0
"""Neighbours that t-SNE keeps together, as by van der Maaten and Hinton 2008; fewer for few tiles."""
COMPONENTS = 50
"""Principal components that t-SNE sees, as in their experiments."""
START_DEVIATION = 1e-4
"""Deviation of the start, as in scikit-learn: a larger one holds points where they are."""
NEEDS = (
    "no t-SNE without scikit-learn (pip install 'treeline[embeddings]'): pictures show principal components"
)


class Layout(NamedTuple):
    """Places of points on a plane."""

    xy_N2: NDArray[np.float64]
    name: str
    """Name of the method."""


def can_tsne() -> bool:
    """Tell whether scikit-learn is installed."""
    try:
        import sklearn.manifold  # noqa: F401
    except ImportError:
        return False
    return True


def laid_out(points_ND: NDArray[np.floating[Any]], by_tsne: bool, seed: int) -> Layout:
    """Lay points out."""
    found_NK = principal_components(points_ND, COMPONENTS)
    xy_N2 = np.pad(found_NK[:, :2], ((0, 0), (0, max(0, 2 - found_NK.shape[1]))))
    if not by_tsne:
        return Layout(xy_N2, "principal components")
    from sklearn.manifold import TSNE

    start_N2 = xy_N2 * (START_DEVIATION / max(float(xy_N2[:, 0].std()), 1e-30))
    perplexity = min(PERPLEXITY, max((len(points_ND) - 1) / 3, 1))
    tsne = TSNE(2, perplexity=perplexity, init=start_N2.astype(np.float32), random_state=seed)
    return Layout(tsne.fit_transform(found_NK.astype(np.float32)).astype(np.float64), "t-SNE")


def principal_components(points_ND: NDArray[np.floating[Any]], most: int) -> NDArray[np.float64]:
    """Return the first coordinates of the points; the sign of each makes its largest weight positive."""
    moved_ND = points_ND - points_ND.mean(0, dtype=np.float64)
    _, directions_DD = np.linalg.eigh(moved_ND.T @ moved_ND)
    first_DK = directions_DD[:, ::-1][:, :most]
    largest_K = first_DK[np.abs(first_DK).argmax(0), np.arange(first_DK.shape[1])]
    return np.asarray(moved_ND @ (first_DK * np.sign(largest_K)), np.float64)
