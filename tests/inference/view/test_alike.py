"""Panels of one page have the same colours."""

import numpy as np

from inference.view.panel import Layer, describe

BOUNDS = (200_000.0, 1_699_600.0, 200_600.0, 1_700_000.0)


def of_height(metres: float) -> list[Layer]:
    height_HW = np.full((40, 60), metres)
    return [Layer("map", "height", height_HW, np.ones(height_HW.shape, np.bool_), BOUNDS)]


def test_each_panel_has_the_colours_of_all() -> None:
    """Tall pixels are above the top of the colours of all maps only if some pixels count twice."""
    low, tall = of_height(3.0), of_height(3.0)
    tall[0].values.ravel()[:30] = 28.0
    every = [*low, *tall]
    own, alike = (
        [describe(layers, "EPSG:3338", alike=group)["layers"][0]["scale"] for layers in (low, tall)]
        for group in ((), every)
    )
    assert own[0] != own[1]
    assert alike[0] == alike[1]
