"""Colours of heights and of differences between heights, wherever they are drawn.

    scale = height_scale(height_HW)                  # from 0 to a round number of metres that suits the data
    scale.rgb(height_HW)
    difference_scale(difference_HW).rgb(difference_HW)

Heights have matplotlib's viridis: equal steps in height look equal, also to the colour-blind and in grey
print. It begins with a dark violet, so bare ground is a colour of its own, far from the light grey of pixels
without a value, which is on no scale. Palette "notebook" has the eight classes and colours of the notebook
that came before Treeline. Differences go from blue (too low) over white to red (too high), white at 0.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shards.format.height_classes import EDGES, NAMES

Palette = Literal["continuous", "notebook"]
"""Names of the colour scales of heights."""
Colour = tuple[int, int, int]
"""Red, green and blue, 0..255."""

CONTINUOUS, DIFFERENCE = "viridis", "RdBu_r"
"""Names of matplotlib's colour maps."""
NOTEBOOK = ("#636363", "#fc8d59", "#fee08b", "#ffffbf", "#d9ef8b", "#91cf60", "#1a9850", "#005a32")
"""Colours of the eight height classes in palette "notebook"."""
NO_VALUE: Colour = (200, 200, 200)
"""Light grey of pixels without a value: nodata, clouds, water. No scale has it."""
NO_VALUE_NAME = "no value"
"""Words for it: in legends, and for a place that is pointed at."""
ROUND = (1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0)
"""Metres at which a scale may end."""
BELOW_TOP = 99.5
"""Percentile of the values that a scale reaches at least; a few outliers would darken everything else."""

_STEPS = 256


@dataclass(frozen=True)
class ColourScale:
    """Colours of values in metres."""

    colours: tuple[Colour, ...]
    """Colours from `low` to `high`, in equal steps; with `edges`, the colour of each class."""
    low: float
    high: float
    """Value of the last colour; higher values have it, too."""
    edges: tuple[float, ...] = ()
    """Least value of each class but the first; empty for a continuous scale."""
    names: tuple[str, ...] = ()
    """Names of the classes."""

    def rgb(self, value_HW: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
        """Return rgb_HW3 of values in metres; NaN is NO_VALUE."""
        missing_HW = np.isnan(value_HW)
        filled_HW = np.where(missing_HW, self.low, value_HW)
        if self.edges:
            place_HW = np.searchsorted(self.edges, filled_HW, side="right")
        else:
            share_HW = np.clip((filled_HW - self.low) / (self.high - self.low), 0, 1)
            place_HW = np.minimum((share_HW * len(self.colours)).astype(np.intp), len(self.colours) - 1)
        place_HW[missing_HW] = len(self.colours)
        return np.array([*self.colours, NO_VALUE], np.uint8)[place_HW]

    def colour(self, value: float) -> Colour:
        """Return the colour of one value in metres."""
        red, green, blue = self.rgb(np.array([value]))[0].tolist()
        return red, green, blue


def height_scale(height_HW: NDArray[np.floating[Any]], palette: Palette = "continuous") -> ColourScale:
    """Choose the colours of heights in metres, NaN where there is none."""
    if palette == "notebook":
        colours = tuple(_parsed(colour) for colour in NOTEBOOK)
        return ColourScale(colours, EDGES[0], EDGES[-1], EDGES[1:-1], NAMES)
    return ColourScale(_colours(CONTINUOUS), 0.0, _round_end(height_HW))


def difference_scale(difference_HW: NDArray[np.floating[Any]]) -> ColourScale:
    """Choose the colours of differences in metres; they reach equally far below and above 0."""
    end = _round_end(np.abs(difference_HW))
    return ColourScale(_colours(DIFFERENCE), -end, end)


def value_scale(low: float, high: float) -> ColourScale:
    """Return the colours of a quantity other than height, between two limits."""
    return ColourScale(_colours(CONTINUOUS), low, high)


def hexadecimal(colour: Colour) -> str:
    """Write a colour as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _round_end(value_HW: NDArray[np.floating[Any]]) -> float:
    """Return the least round number that all but a few values stay below."""
    present = value_HW[np.isfinite(value_HW)]
    most = float(np.percentile(present, BELOW_TOP)) if present.size else 0.0
    # Heights of float32 decimetres may be a little above the number that they stand for.
    return next((end for end in ROUND if most <= end + 1e-3), 100.0 * math.ceil(most / 100))


def _colours(name: str) -> tuple[Colour, ...]:
    from matplotlib import colormaps

    rgba_K4 = colormaps[name].resampled(_STEPS)(np.arange(_STEPS), bytes=True)
    return tuple((red, green, blue) for red, green, blue, _ in rgba_K4.tolist())


def _parsed(colour: str) -> Colour:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
