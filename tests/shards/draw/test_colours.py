"""Colours of heights: from 0, ever lighter, told apart by the colour-blind, and never those of no value."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from shards.draw.colours import NO_VALUE, ROUND, difference_scale, height_scale
from shards.format.height_classes import EDGES

TELLS_APART = 10.0
"""Difference between two colours (CIE 1976) that everybody sees at a glance; 2.3 is just noticeable."""


def lab(rgb_N3: NDArray[np.uint8]) -> NDArray[np.float64]:
    """CIE L*a*b* of sRGB colours, with white D65."""
    share_N3 = rgb_N3 / 255
    linear_N3 = np.where(share_N3 <= 0.04045, share_N3 / 12.92, ((share_N3 + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(linear_N3 @ to_xyz.T / (0.9505, 1.0, 1.089)).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def seen_without_red(rgb_N3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colours as the eye without cones for red has them (Machado, Oliveira and Fernandes 2009)."""
    matrix = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
    return np.rint(np.clip(rgb_N3 @ matrix.T, 0, 255)).astype(np.uint8)


def test_heights_get_ever_lighter_in_even_steps() -> None:
    scale = height_scale(np.array([20.0]))
    colours_N3 = scale.rgb(np.linspace(0, 20, 21))
    for seen_N3 in (colours_N3, seen_without_red(colours_N3)):
        lightness_N = lab(seen_N3)[:, 0]
        steps = np.diff(lightness_N)
        assert steps.min() > 1, "a step of one in lightness can be seen"
    colour_N3 = lab(colours_N3)
    steps = np.linalg.norm(np.diff(colour_N3, axis=0), axis=1)
    assert steps.max() < 3 * steps.min()


@pytest.mark.parametrize("palette", ["continuous", "notebook"])
def test_no_height_looks_like_no_value(palette: str) -> None:
    scale = height_scale(np.array([12.0]), palette)  # type: ignore[arg-type]
    heights_N = np.append(np.linspace(0, 40, 400), EDGES)
    blank = lab(np.array([NO_VALUE], np.uint8))
    for values_N, its in ((heights_N, scale), (np.linspace(-9, 9, 99), difference_scale(np.array([9.0])))):
        distance_N = np.linalg.norm(lab(its.rgb(values_N)) - blank, axis=-1)
        assert distance_N.min() > TELLS_APART
        assert (its.rgb(np.array([np.nan]))[0] == NO_VALUE).all()


def test_near_heights_have_near_colours() -> None:
    """In the notebook's classes 0 and 1 mm are worlds apart; on the continuous scale they are one colour."""
    scale, notebook = (height_scale(np.array([10.0]), palette) for palette in ("continuous", "notebook"))
    assert scale.colour(0) == scale.colour(0.002)
    assert notebook.colour(0) != notebook.colour(0.002)
    assert [notebook.colour(edge) for edge in EDGES[:-1]] == list(notebook.colours)


def test_a_scale_ends_at_a_round_number_that_few_heights_pass() -> None:
    rng = np.random.default_rng(0)
    for top in (0.0, 0.7, 1.0, 4.2, 14.9, 33.0, 250.0):
        height_HW = rng.uniform(0, top, (50, 40)) if top else np.zeros((4, 4))
        height_HW[0, 0], height_HW[1, 1] = np.nan, 900  # an outlier
        scale = height_scale(height_HW)
        below = [end for end in (0, *ROUND, 200, 300) if end < scale.high]
        if height_HW.size > 1000:
            assert np.nanpercentile(height_HW, 99.4) <= scale.high
            assert below[-1] < np.nanmax(np.where(height_HW == 900, 0, height_HW))
        assert scale.low == 0
        assert scale.colour(scale.high) == scale.colour(scale.high + 1) == scale.colours[-1]
    assert height_scale(np.full((3, 3), np.nan)).high == ROUND[0]
    assert all(low < high for low, high in pairwise(ROUND))


def test_differences_reach_equally_far_to_both_sides_of_white() -> None:
    scale = difference_scale(np.array([-0.3, 0.2, 3.9, np.nan]))
    assert (scale.low, scale.high) == (-5, 5)
    assert lab(np.array([scale.colour(0)]))[0, 0] > 95
    low, high = scale.colour(-2), scale.colour(2)
    assert low[2] > low[0]
    assert high[0] > high[2]
