"""Whitening: all directions of some clouds of points brought to one scale, so that models can be compared.

The mean and the covariance are those of all clouds together, each cloud counting alike. Points are written
in the covariance's principal directions, and each coordinate is divided by its deviation. Left out are
directions with less than a thousandth of the largest deviation, where rounding to float16 shows, and all but
one for every ten points: of fewer points the deviations are not known.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
LEAST_DEVIATION = 1e-3
"""Share of the largest deviation below which a direction is left out."""
POINTS_PER_DIRECTION = 10


def whitened(clouds: Sequence[FloatArray]) -> list[FloatArray]:
    """Return the same clouds (N, K) in K whitened directions, the one that varied most first."""
    middle_D = np.mean([cloud_ND.mean(0) for cloud_ND in clouds], 0)
    moved = [cloud_ND - middle_D for cloud_ND in clouds]
    covariance_DD = np.mean([cloud_ND.T @ cloud_ND / len(cloud_ND) for cloud_ND in moved], 0)
    variance_D, directions_DD = np.linalg.eigh(covariance_DD)
    variance_D, directions_DD = variance_D[::-1], directions_DD[:, ::-1]
    enough = int((variance_D > LEAST_DEVIATION**2 * variance_D[0]).sum())
    most = max(sum(map(len, clouds)) // POINTS_PER_DIRECTION, 1)
    kept = slice(max(min(enough, most), 1))
    scale_K = 1 / np.sqrt(np.maximum(variance_D[kept], np.finfo(np.float64).tiny))
    return [cloud_ND @ directions_DD[:, kept] * scale_K for cloud_ND in moved]
