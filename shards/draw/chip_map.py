"""The map of `treeline inspect`, as PNG bytes: where chips lie, coloured by split, one panel for each region.

map_chart([MapPanel(centre_N2, split_N, "EPSG:3338")])
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.draw.picture import (
    BLUE,
    EDGE,
    GREY,
    GRID,
    ORANGE,
    PINK,
    drawable,
    legend_below,
    new_figure,
    png,
    shortened,
    tidy,
)
from shards.format.manifest import SPLITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

MOST_POINTS = 50_000
"""Most chips drawn on a map; more hide each other."""
MOST_PANELS = 9
"""Most regions drawn; more are too small to be read."""
MOST_BORDERS = 200
"""Most borders drawn in a panel; more hide the chips."""
SPLIT_COLOURS = dict(zip(SPLITS, (BLUE, ORANGE, PINK, GREY), strict=True))

_ALONE, _BESIDE = 8.5, 4.8
"""Width in inches of a panel that is alone, or beside others."""
_LOWEST = 3.2
"""Least height of a panel in inches; the highest is as high as wide."""


@dataclass(frozen=True, eq=False)
class MapPanel:
    """Content of one panel of the map."""

    centre_N2: NDArray[np.float64]
    """x, y of chips in `crs`; NaN: unknown. One at least is known."""
    split_N: Sequence[str]
    """Their splits."""
    crs: str
    """CRS named on the axes; "" if unknown."""
    title: str = ""
    borders_K22: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2, 2)))
    """Lines between bands, each from one x, y to another, in `crs`."""

    @cached_property
    def known(self) -> NDArray[np.int64]:
        """Numbers of the chips with a position."""
        return np.flatnonzero(np.isfinite(self.centre_N2).all(axis=1))

    @cached_property
    def aspect(self) -> float:
        """Height on paper of a unit of y, by the width of a unit of x."""
        if not is_geographic(self.crs):
            return 1.0
        # A degree of longitude is shorter than one of latitude: equal on the ground, not on paper.
        low, high = (function(self.centre_N2[self.known, 1]) for function in (np.min, np.max))
        return float(1 / max(np.cos(np.radians((low + high) / 2)), 0.05))

    def height(self, width: float) -> float:
        """Return the height in inches that fits a width."""
        at_C2 = self.centre_N2[self.known]
        size_2 = at_C2.max(axis=0) - at_C2.min(axis=0)
        wide, tall = np.maximum(size_2, (1e-6, 1e-9)) * (1, self.aspect)  # flat, for a single chip
        return float(np.clip(width * tall / wide, _LOWEST, width))


def map_chart(panels: Sequence[MapPanel], seed: int = 0) -> bytes:
    """Draw where chips lie, coloured by split: at most MOST_POINTS of those with a position.

    Args:
        panels: regions; the first MOST_PANELS of them are drawn.
        seed: seed of the choice, where chips are too many.
    """
    shown = panels[:MOST_PANELS]
    across = min(len(shown), 2 if len(shown) < 5 else 3)
    down = -(-len(shown) // across)
    width = _ALONE if across == 1 else _BESIDE
    figure = new_figure(width * across, max(panel.height(width) for panel in shown) * down + 0.4)
    places = figure.subplots(down, across, squeeze=False).ravel()
    for empty in places[len(shown) :]:
        empty.set_axis_off()
    most = MOST_POINTS // len(shown)
    size = float(np.clip(8000 / sum(min(panel.known.size, most) for panel in shown), 1.5, 40))
    dots: dict[str, PathCollection] = {}
    for axes, panel in zip(places, shown, strict=False):
        dots |= _draw(axes, panel, most, size, seed)
    split_K = np.concatenate([np.asarray(panel.split_N, object)[panel.known] for panel in shown])
    handles = [dots[split] for split in SPLITS if split in dots]
    for split, handle in dots.items():
        handle.set_label(f"{split} ({np.count_nonzero(split_K == split):,})")
    if len(shown) < len(panels):
        figure.suptitle(f"the first {len(shown)} of {len(panels)} regions", fontsize=9)
    larger = float(np.sqrt(40 / size))  # a dot of a large dataset shows no colour
    legend_below(figure, handles, fontsize=9, markerscale=larger)
    return png(figure)


def is_geographic(crs: str) -> bool:
    """Return whether coordinates in `crs` are degrees; those of an unknown CRS ("") are not."""
    from rasterio.crs import CRS

    return bool(crs) and bool(CRS.from_user_input(crs).is_geographic)


def _draw(axes: "Axes", panel: MapPanel, most: int, size: float, seed: int) -> "dict[str, PathCollection]":
    """Draw a panel with at most this many chips; return the dots of each split."""
    from matplotlib.collections import LineCollection

    drawn = np.sort(np.random.default_rng(seed).permutation(panel.known)[:most])
    split_of_drawn = np.asarray(panel.split_N, object)[drawn]
    dots = {}
    for split in SPLITS:
        chips = drawn[split_of_drawn == split]
        if chips.size:
            x_N, y_N = panel.centre_N2[chips].T
            dots[split] = axes.scatter(x_N, y_N, s=size, c=SPLIT_COLOURS[split], linewidths=0)
    if 0 < len(panel.borders_K22) <= MOST_BORDERS:
        axes.add_collection(LineCollection(list(panel.borders_K22), colors=EDGE, linewidths=0.35, zorder=0.8))
    said = [drawable(shortened(panel.title))] if panel.title else []
    said += (
        [f"{drawn.size:,} of {panel.known.size:,} chips are drawn"] if drawn.size < panel.known.size else []
    )
    axes.set_title("\n".join(said), fontsize=9)
    axes.set_aspect(panel.aspect, adjustable="datalim")
    degrees, name = is_geographic(panel.crs), drawable(shortened(panel.crs)) or "unknown CRS"
    axes.set_xlabel(f"{'longitude' if degrees else 'x'} ({name})", fontsize=9)
    axes.set_ylabel("latitude" if degrees else "y", fontsize=9)
    axes.locator_params(nbins=6)
    axes.ticklabel_format(useOffset=False, style="plain")
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    tidy(axes)
    return dots
