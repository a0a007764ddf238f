"""Bands in another order than their names say.

The training is known by the percentiles of each band, which say nothing of how bands go together. So medians
and spreads must both be those of other bands: haze adds light, which changes medians and leaves spreads.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference.scenes.compared import LEAST_PIXELS, QUARTERS, ScenePercentiles
from shards.raster.finding import Finding
from shards.wording import Option, Words

EXCHANGED = "exchanged"
"""Code of the finding."""
BETTER = 0.5
"""Largest misfit of an explanation by exchanged bands, as a share of the misfit of the bands as they are."""
BETTER_IN_ALL = 0.6
"""Same for all bands together, the ones included that stay in place: lakes and forest may make two bands look
exchanged, but not the others as they were."""
LEAST_CONTRAST = 0.25
"""Least misfit of the bands as they are that an exchange must explain: bands that are more alike in training
cannot be told apart."""
SURE_CONTRAST, SURE_SPREADS = math.log(2), 1.5
"""Misfit of the medians that haze does not cause, so that spreads need not confirm an exchange: a logarithm,
or for values below 0 a number of spreads. Decibels of one place differ by a spread from season to season."""
USUAL, UNUSUAL = 0.02, 0.1
"""Misfit that an order costs: orders that files often have (reversed, the last band first, all but one band
reversed), and others, so that the likelier of like explanations is named."""
MOST_PERMUTED = 4
"""Most bands of which all orders are tried; of more, the usual orders and exchanges of two."""

Order = tuple[int, ...]


def exchanged(bands: ScenePercentiles) -> Finding | None:
    """Tell bands in another order, by medians and spreads of the pixels that are as bright as most."""
    count = len(bands.names)
    brightness_N = bands.values_BN.sum(0)  # the same in any order: without cloud, snow, lakes and deep shade
    is_usual_N = (bands.trained_BP[:, 1].sum() <= brightness_N) & (brightness_N <= bands.high_B.sum())
    if count < 2 or is_usual_N.sum() < LEAST_PIXELS:
        return None
    quarters_3B = np.percentile(bands.values_BN[:, is_usual_N], (25, 50, 75), axis=1)
    scene = _described(quarters_3B, bands)
    trained = _described(bands.trained_BP[:, QUARTERS].T, bands)
    if scene is None or trained is None:
        return None
    as_is = tuple(range(count))

    costs = _orders(count)
    order = min(costs, key=lambda order: _misfit(scene, trained[:, list(order)], as_is) + costs[order])
    moved = [place for place in as_is if order[place] != place]
    if not moved or not _explains(scene, trained, order, moved, bands.are_above_0):
        return None
    truly = {name: bands.names[place] for name, place in zip(bands.names, order, strict=True)}
    named = [truly.get(name, name) for name in bands.of_file]
    band = max(moved, key=lambda place: abs(scene[0, place] - trained[0, place]))
    line = f"{bands.said(band)}; {_said_order(bands.names, order, moved)}"
    return Finding(EXCHANGED, line, Words("if so, give ", Option("bands", tuple(named))), True)


def _described(quarters_3B: NDArray[np.float64], bands: ScenePercentiles) -> NDArray[np.float64] | None:
    """Return (2, bands): medians and spreads, as logarithms, or medians in spreads for values below 0."""
    spread_B = quarters_3B[2] - quarters_3B[0]
    if (spread_B <= 0).any():
        return None
    if bands.are_above_0:
        if (quarters_3B[1] <= 0).any():
            return None
        level_B = np.log(quarters_3B[1])
    else:
        level_B = quarters_3B[1] / float(
            np.mean(bands.trained_BP[:, -1] - bands.trained_BP[:, QUARTERS.start])
        )
    return np.stack([level_B, np.log(spread_B)])


def _orders(count: int) -> dict[Order, float]:
    """List the orders of bands that are tried, each with its cost."""
    as_is = tuple(range(count))
    last = count - 1
    usual = [
        as_is[::-1],
        (last, *as_is[:-1]),
        (*as_is[1:], 0),
        (*as_is[:-1][::-1], last),
        (0, *as_is[1:][::-1]),
    ]
    if count <= MOST_PERMUTED:
        orders = list(itertools.permutations(as_is))
    else:
        orders = [
            tuple(second if place == first else first if place == second else place for place in as_is)
            for first, second in itertools.combinations(as_is, 2)
        ]
    return dict.fromkeys(orders, UNUSUAL) | dict.fromkeys(usual, USUAL) | {as_is: 0.0}


def _explains(
    scene: NDArray[np.float64],
    trained: NDArray[np.float64],
    order: Order,
    moved: Sequence[int],
    are_above_0: bool,
) -> bool:
    """Tell whether the order explains the moved bands much better than their names do."""

    ordered = trained[:, list(order)]

    def misfits(places: Sequence[int], rows: slice = slice(0, 2)) -> tuple[float, float]:
        return _misfit(scene[rows], trained[rows], places), _misfit(scene[rows], ordered[rows], places)

    in_all, in_all_ordered = misfits(range(len(order)))
    both, both_ordered = misfits(moved)
    levels, levels_ordered = misfits(moved, slice(0, 1))
    spreads, spreads_ordered = misfits(moved, slice(1, 2))
    confirmed = are_above_0 and spreads >= LEAST_CONTRAST and spreads_ordered <= BETTER * spreads
    is_sure = levels >= (SURE_CONTRAST if are_above_0 else SURE_SPREADS) and levels_ordered <= BETTER * levels
    is_better = both_ordered <= BETTER * both and in_all_ordered <= BETTER_IN_ALL * in_all
    return both >= LEAST_CONTRAST and is_better and (confirmed or is_sure)


def _misfit(scene: NDArray[np.float64], trained: NDArray[np.float64], places: Sequence[int]) -> float:
    """Return the root of the mean squared difference in some bands, of which a factor of all is no part."""
    difference = (scene - trained)[:, list(places)]
    difference = difference - difference.mean(1, keepdims=True)
    return float(np.sqrt((difference**2).mean(1).sum()))


def _said_order(names: Sequence[str], order: Order, moved: Sequence[int]) -> str:
    if order == tuple(range(len(names)))[::-1] and len(names) > 2 and len(moved) >= len(names) - 1:
        return "as if the bands were in reverse order"
    if len(moved) == 2:
        first, second = (names[place] for place in moved)
        return f"as if {first} and {second} were exchanged"
    return f"as if the bands were {' '.join(names[place] for place in order)}"
