"""Distance of each valid pixel from where its map ends: from the map's edge or from a hole."""

import numpy as np
from numpy.typing import NDArray


def edge_distance(valid_HW: NDArray[np.bool_], cap: int) -> NDArray[np.int32]:
    """Count steps along rows and columns to the nearest invalid pixel, at most `cap`; 0 for invalid pixels.

    Pixels beyond the array count as valid, so a distance is right for pixels at least `cap` from its edge.
    Steps are whole numbers, the same however an array is cut; two passes along each axis find them
    (Rosenfeld and Pfaltz, Sequential Operations in Digital Picture Processing, 1966).
    """
    distance_HW = np.where(valid_HW, np.int32(cap), np.int32(0))
    if valid_HW.all():
        return distance_HW
    for along in (distance_HW, distance_HW.T):
        # The smallest d[j] + |i - j| over all j: a running minimum of d[j] - j, then of d[j] + j backwards.
        steps_N1 = np.arange(len(along), dtype=np.int32)[:, None]
        before = np.minimum.accumulate(along - steps_N1, axis=0) + steps_N1
        after = np.minimum.accumulate((along + steps_N1)[::-1], axis=0)[::-1] - steps_N1
        np.minimum(before, after, out=along)
    return distance_HW
