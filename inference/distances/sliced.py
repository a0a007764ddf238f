"""Sliced Wasserstein distances between samples of points: W2 on lines, over many random directions.

    sliced = sliced_wasserstein(clouds, [samples] * 10, pairs, projections=10_000, seed=0)

The distance is sqrt(mean over directions of W2^2), directions uniform on the sphere: the definition of
Bonneel et al. 2015 and of POT's `sliced_wasserstein_distance` with p = 2. On a line, W2^2 is the mean squared
difference of equal quantiles, exact for samples of any sizes. Each cloud is projected once for each
direction, whatever the number of samples and pairs.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 64
"""Directions projected at a time, always: products of matrices of other shapes have other bits."""
MOST_THREADS = 8

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """Some points of a cloud."""

    cloud: int
    """Number of the cloud."""
    rows: NDArray[np.int64] | None = None
    """Its points; default: all."""


@dataclass(frozen=True)
class Spread:
    """A number measured with several seeds."""

    mean: float
    spread: float
    """Standard deviation over seeds; 0 for one seed."""

    @classmethod
    def of(cls, values: NDArray[np.floating[Any]]) -> "Spread":
        """Sum up the values of the seeds."""
        return cls(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0)


@dataclass(frozen=True)
class Sliced:
    """Distance of a pair of samples."""

    whole: Spread
    """Distance between the samples as they are."""
    centred: Spread
    """Distance between the samples, each less its own mean."""


def sliced_wasserstein(
    clouds: Sequence[NDArray[np.floating[Any]]],
    samples: Sequence[Sequence[Sample]],
    pairs: Sequence[tuple[int, int]],
    projections: int,
    seed: int,
    advance: Callable[[int], None] = lambda count: None,
    threads: int = 0,
) -> list[Sliced]:
    """Measure each pair of samples, with other directions for each draw.

    Args:
        clouds: points (N, D) of each cloud.
        samples: samples of these clouds for each draw, of the same sizes in all draws.
        pairs: numbers of two samples each.
        projections: directions for each draw.
        seed: seed of all draws.
        advance: told how many directions are done.
        threads: threads that project and sort, which changes no bit; 0: as many as there are cores, up to 8.
    """
    # Directions see differences only: without the common mean, fewer digits are lost.
    middle_D = np.mean([cloud_ND.mean(0, dtype=np.float64) for cloud_ND in clouds], 0)
    clouds_DN = [np.ascontiguousarray((cloud_ND - middle_D).T.astype(np.float32)) for cloud_ND in clouds]
    sizes = [clouds[s.cloud].shape[0] if s.rows is None else len(s.rows) for s in samples[0]]
    steps = [_quantiles(sizes[one], sizes[other]) for one, other in pairs]

    def squares_of(directions_UD: NDArray[np.float32], drawn: Sequence[Sample]) -> FloatArray:
        """Return squared distances (2, pairs), summed over directions: whole and centred."""
        projected = [directions_UD @ cloud_DN for cloud_DN in clouds_DN]
        along = [projected[s.cloud] if s.rows is None else projected[s.cloud][:, s.rows] for s in drawn]
        sorted_UN = [np.sort(values_UN, axis=1) for values_UN in along]
        mean_U = [values_UN.mean(1, dtype=np.float64) for values_UN in sorted_UN]
        squares = np.zeros((2, len(pairs)))
        for place, ((one, other), step) in enumerate(zip(pairs, steps, strict=True)):
            square_U = step.squares(sorted_UN[one], sorted_UN[other])
            # W2^2 = (difference of the means)^2 + W2^2 of what is centred.
            centred_U = np.maximum(square_U - (mean_U[one] - mean_U[other]) ** 2, 0)
            squares[:, place] = square_U.sum(), centred_U.sum()
        return squares

    found_GKP = np.zeros((len(samples), 2, len(pairs)))
    width = clouds[0].shape[1]
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, MOST_THREADS)) as pool:
        for draw, of_draw in enumerate(samples):
            generator = np.random.default_rng((seed, draw))
            wanted = (projections - start for start in range(0, projections, AT_ONCE))
            units = ((_directions(generator, width, count), of_draw) for count in wanted)
            # Units are drawn one by one and added in order, so threads change nothing.
            for squares_KP in _in_order(pool, squares_of, units):
                found_GKP[draw] += squares_KP
                advance(AT_ONCE)
    distance_GKP = np.sqrt(found_GKP / projections)
    return [
        Sliced(Spread.of(distance_GKP[:, 0, place]), Spread.of(distance_GKP[:, 1, place]))
        for place in range(len(pairs))
    ]


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[..., FloatArray], items: Iterable[tuple[Any, ...]]
) -> Iterator[FloatArray]:
    """Call the function on the pool, a few calls ahead, and yield results in the items' order."""
    coming: deque[Future[FloatArray]] = deque()
    for item in items:
        coming.append(pool.submit(function, *item))
        if len(coming) > 2 * MOST_THREADS:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()


def _directions(generator: np.random.Generator, width: int, wanted: int) -> NDArray[np.float32]:
    """Draw AT_ONCE directions; those beyond the wanted ones become 0, and add nothing."""
    directions_UD = generator.standard_normal((AT_ONCE, width))
    directions_UD /= np.linalg.norm(directions_UD, axis=1, keepdims=True)
    directions_UD[max(wanted, 0) :] = 0
    return directions_UD.astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Quantiles:
    """Steps at which the quantiles of two sorted samples are compared: places in both, and shares."""

    first_Q: NDArray[np.int64] | None
    second_Q: NDArray[np.int64] | None
    share_Q: FloatArray | None

    def squares(self, first_UN: NDArray[np.float32], second_UM: NDArray[np.float32]) -> FloatArray:
        """Return W2^2 along each direction."""
        if self.first_Q is None or self.second_Q is None or self.share_Q is None:
            difference_UN = first_UN.astype(np.float64) - second_UM
            squares_U: FloatArray = (difference_UN**2).mean(1)
            return squares_U
        difference_UQ = first_UN[:, self.first_Q].astype(np.float64) - second_UM[:, self.second_Q]
        return np.asarray((difference_UQ**2 * self.share_Q).sum(1), np.float64)


def _quantiles(count: int, other: int) -> _Quantiles:
    """Cut 0..1 wherever either quantile function steps; in whole numbers, so that nothing is rounded."""
    if count == other:
        return _Quantiles(None, None, None)
    ends_Q = np.union1d(np.arange(1, count + 1) * other, np.arange(1, other + 1) * count)
    share_Q = np.diff(ends_Q, prepend=0) / (count * other)
    return _Quantiles((ends_Q - 1) // other, (ends_Q - 1) // count, share_Q)
