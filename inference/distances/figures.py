"""The pictures of `treeline distances`, as PNG bytes: matrices, planes, errors beside distances."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inference.distances.layout import Layout
from inference.distances.measured import AS_THEY_ARE, Measured
from inference.distances.nearest import DistanceChecks
from inference.distances.ranks import ranks_of
from inference.distances.regions import Regions
from shards.draw.picture import (
    BLUE,
    COLOUR_MAP,
    GREY,
    GRID,
    INK,
    ORANGE,
    PINK,
    SMALL,
    VERMILION,
    colour_limits,
    drawable,
    legend_below,
    new_figure,
    png,
    shortened,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (BLUE, ORANGE, "#009e73", VERMILION, PINK, "#56b4e9", "#f0e442", GREY)
"""Colours of regions, of Okabe and Ito's eight; more regions have them again, with other marks."""
MARKS = "osD^vPX*"
MOST_KINDS = 4
"""Most kinds of training in a picture."""
MOST_DRAWN = 5000
"""Most tiles in a panel of errors."""
TENTHS = 10

FloatArray = NDArray[np.float64]


def matrices(regions: Regions, measured: Measured) -> bytes:
    """Draw the sliced distances of all pairs, one panel for each view; halves of a region on the diagonal."""
    count = len(regions.names)
    side = max(3.4, 0.75 * count + 1.4)
    figure = new_figure(side * len(measured.views), side + 0.6)
    panels = figure.subplots(1, len(measured.views), squeeze=False).ravel()
    for axes, (name, view) in zip(panels, measured.views.items(), strict=True):
        highest = float(view.sliced_RR.max()) or 1.0
        axes.imshow(view.sliced_RR, cmap=COLOUR_MAP, vmin=0, vmax=highest)
        for (row, column), value in np.ndenumerate(view.sliced_RR):
            ink = "white" if value < 0.6 * highest else "black"
            weight = "bold" if row == column else "normal"
            size = SMALL if count < 7 else 6
            axes.text(
                column, row, f"{value:.3g}", ha="center", va="center", color=ink, weight=weight, fontsize=size
            )
        labels = [drawable(shortened(region)) for region in regions.names]
        axes.set_xticks(range(count), labels, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), labels if axes is panels[0] else [])
        axes.set_title(name, fontsize=9)
        axes.spines[:].set_visible(False)
        axes.tick_params(labelsize=SMALL, length=0)
    return png(figure)


def planes(
    regions: Regions, layout: Layout, label: str, error_N: FloatArray | None, error_name: str
) -> bytes:
    """Draw tiles on a plane, coloured by region, by label and by error, as far as these are known.

    Args:
        regions: the tiles.
        layout: their places.
        label: column that colours a panel; "": none.
        error_N: error of each tile, NaN where unknown; None: no panel.
        error_name: what these errors are of.
    """
    coloured: list[tuple[str, FloatArray]] = []
    if label:
        values_N = regions.column(label).take(regions.all_rows).cast("float64")
        coloured.append((label, values_N.to_numpy(zero_copy_only=False)))
    if error_N is not None:
        coloured.append((error_name, error_N))
    figure = new_figure(4.6 * (1 + len(coloured)), 4.6)
    panels = figure.subplots(1, 1 + len(coloured), squeeze=False).ravel()
    x_N, y_N = layout.xy_N2.T
    size = float(np.clip(6000 / len(x_N), 3, 30))
    # In a fixed mixed order: the last region would otherwise hide the others.
    order = np.random.default_rng(0).permutation(len(x_N))
    colour_N = np.array([COLOURS[number % len(COLOURS)] for number in range(len(regions.names))])
    panels[0].scatter(x_N[order], y_N[order], s=size, c=colour_N[regions.region_N[order]], linewidths=0)
    panels[0].set_title("region", fontsize=9)
    for axes, (name, values_N) in zip(panels[1:], coloured, strict=True):
        known = order[np.isfinite(values_N[order])]
        unknown = order[~np.isfinite(values_N[order])]
        axes.scatter(x_N[unknown], y_N[unknown], s=size / 2, c=GRID, linewidths=0)
        low, high = colour_limits(values_N)
        dots = axes.scatter(
            x_N[known],
            y_N[known],
            s=size,
            c=values_N[known],
            cmap=COLOUR_MAP,
            vmin=low,
            vmax=high,
            linewidths=0,
        )
        bar = figure.colorbar(dots, ax=axes, shrink=0.8, aspect=30, extend="both")
        bar.ax.tick_params(labelsize=SMALL)
        axes.set_title("\n".join(map(drawable, name.splitlines())), fontsize=9)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color(GRID)
        axes.set_aspect("equal", adjustable="datalim")
    _legend(figure, regions.names)
    return png(figure)


def of_regions(regions: Regions, measured: Measured, compared: Sequence[DistanceChecks]) -> bytes:
    """Draw the error of each pair of regions against their distance, a panel for each kind of training."""
    shown = compared[:MOST_KINDS]
    figure = new_figure(max(4.4 * len(shown), 6.2), 4.2)
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True).ravel()
    sliced_RR = measured.views[AS_THEY_ARE].sliced_RR
    for axes, one in zip(panels, shown, strict=True):
        for trained, tested in zip(*np.nonzero(np.isfinite(one.rmse_RR)), strict=True):
            own = trained == tested
            axes.scatter(
                sliced_RR[trained, tested],
                one.rmse_RR[trained, tested],
                marker=MARKS[trained % len(MARKS)],
                s=48,
                facecolors="none" if own else COLOURS[tested % len(COLOURS)],
                edgecolors=COLOURS[tested % len(COLOURS)],
                linewidths=1.2,
            )
        found = one.correlations[AS_THEY_ARE]
        said = f"rank correlation {found.rho:.2f}, p {found.p:.2g}" if found else "no rank correlation"
        axes.set_title(f"{drawable(shortened(one.kind))}\n{said}", fontsize=9)
        _axes(axes, "sliced Wasserstein distance (hollow: halves of one region)")
    panels[0].set_ylabel("RMSE", fontsize=9)
    _legend(figure, regions.names, with_marks=True)
    return png(figure)


def of_tiles(regions: Regions, compared: Sequence[DistanceChecks], neighbours: int) -> bytes:
    """Draw the error of each tile against its distance to the nearest source tiles, and tenths of them."""
    shown = [one for one in compared if one.tiles][:MOST_KINDS]
    figure = new_figure(max(4.4 * len(shown), 6.2), 4.2)
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True).ravel()
    for axes, one in zip(panels, shown, strict=True):
        distance_T = np.concatenate([tiles.distance_T for tiles in one.tiles])
        error_T = np.concatenate([tiles.error_T for tiles in one.tiles])
        tested_T = np.repeat(
            [regions.names.index(tiles.tested_on) for tiles in one.tiles],
            [len(tiles.rows_T) for tiles in one.tiles],
        )
        drawn = np.random.default_rng(0).permutation(len(error_T))[:MOST_DRAWN]
        colour_R = np.array([COLOURS[number % len(COLOURS)] for number in range(len(regions.names))])
        size = float(np.clip(6000 / len(drawn), 3, 24))
        axes.scatter(
            distance_T[drawn], error_T[drawn], s=size, c=colour_R[tested_T[drawn]], alpha=0.5, linewidths=0
        )
        tenth_T = np.minimum((ranks_of(distance_T) - 1) * TENTHS // len(distance_T), TENTHS - 1)
        means = [
            (distance_T[of].mean(), np.sqrt((error_T[of] ** 2).mean()))
            for of in (tenth_T == tenth for tenth in range(TENTHS))
            if of.any()
        ]
        axes.plot(*zip(*means, strict=True), color=INK, marker="o", markersize=4, linewidth=1.4)
        axes.set_title(drawable(shortened(one.kind)), fontsize=9)
        _axes(axes, f"mean distance to the {neighbours} nearest source tiles")
    panels[0].set_ylabel("error of the tile; line: RMSE of each tenth", fontsize=9)
    _legend(figure, regions.names)
    return png(figure)


def _axes(axes: "Axes", name: str) -> None:
    axes.set_xlabel(name, fontsize=9)
    axes.set_ylim(bottom=0)
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    tidy(axes)


def _legend(figure: Any, names: Sequence[str], with_marks: bool = False) -> None:
    """Name the regions by their colours; with marks also as what was trained on."""
    from matplotlib.lines import Line2D

    def dot(number: int, colour: str, mark: str, text: str) -> Any:
        return Line2D([], [], linestyle="none", marker=mark, color=colour, label=drawable(shortened(text)))

    handles = [
        dot(n, COLOURS[n % len(COLOURS)], "o", f"tested on {name}" if with_marks else name)
        for n, name in enumerate(names)
    ]
    if with_marks:
        handles += [dot(n, INK, MARKS[n % len(MARKS)], f"trained on {name}") for n, name in enumerate(names)]
    legend_below(figure, handles, ncols=min(len(names), 6))
