"""Learning curves of a matrix as PNG bytes: errors over the number of labels, by region."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shards.draw.picture import (
    GREY,
    GRID,
    ORANGE,
    PINK,
    SERIES,
    SMALL,
    drawable,
    legend_below,
    new_figure,
    png,
    shortened,
    tidy,
)
from trainer.matrix.results import Results, Setting, tuned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = (*SERIES[:2], PINK, ORANGE)
"""Colours of the inits, in turn."""
STYLES = ("solid", "dotted", "dashdot", (0, (1, 3)))
"""Styles of the lines of what is tuned, in turn; the ridge is dashed."""
DODGE = 1.07
"""Factor between neighbouring lines' places along the axis, so that their intervals stand side by side."""
HEADROOM = 1.5
"""Top of a panel, as a multiple of its highest point: intervals over few bands reach far beyond it."""


@dataclass(frozen=True)
class Line:
    """What is drawn as one line in every panel."""

    name: str
    """Init, or baseline."""
    tune: str
    colour: str
    style: Any

    @property
    def label(self) -> str:
        """Name in the legend."""
        return f"{self.name}, {tuned(self.tune)}" if self.tune else self.name


def learning_curves(results: Results) -> bytes:
    """Draw errors over the number of labels, a panel for each region trained on and tested on."""
    plan = results.plan
    lines = [
        Line(init.name, tune, LINES[number % len(LINES)], STYLES[place % len(STYLES)])
        for place, tune in enumerate(plan.config.tune)
        for number, init in enumerate(plan.inits)
    ]
    lines.append(Line(results.ridge, "", GREY, "dashed"))
    sources, regions = plan.sources, [region.name for region in plan.regions]
    figure = new_figure(2.7 * len(regions) + 0.6, 2.1 * len(sources) + 0.7)
    panels = figure.subplots(len(sources), len(regions), squeeze=False)
    handles: list[Any] = []
    for axes, (source, region) in zip(panels.ravel(), results.places, strict=True):
        handles = []
        for number, line in enumerate(lines):
            dodge = DODGE ** (number - (len(lines) - 1) / 2)
            handles.append(_drawn(axes, results, line, (source, region), dodge))
        highest = max(line.get_ydata().max(initial=0.0) for line in handles)
        axes.set(xscale="log", ylim=(0, HEADROOM * highest or 1))
        axes.minorticks_off()
        counts = [count for (trained_on, _), count in results.labels.items() if trained_on == source]
        axes.set_xticks(sorted(counts), [f"{count:,.0f}" for count in sorted(counts)])
        axes.grid(color=GRID, linewidth=0.5)
        tidy(axes)
    unit = f" ({results.measure.unit})" if results.measure.unit else ""
    for axes, region in zip(panels[0], regions, strict=True):
        axes.set_title(f"tested on {drawable(shortened(region))}", fontsize=9)
    for axes, source in zip(panels[:, 0], sources, strict=True):
        axes.set_ylabel(
            f"trained on {drawable(shortened(source))}\n{results.measure.title}{unit}", fontsize=SMALL
        )
    for axes in panels[-1]:
        axes.set_xlabel("labels", fontsize=SMALL)
    for handle, line in zip(handles, lines, strict=True):
        handle.set_label(drawable(line.label))
    legend_below(figure, handles, ncols=min(len(handles), 5))
    return png(figure)


def _drawn(axes: "Axes", results: Results, line: Line, place: tuple[str, str], dodge: float) -> Any:
    """Draw a line with its intervals, at `dodge` times the number of labels; return it."""
    points = []
    for limit in results.plan.config.limit:
        if score := results.scores.get(Setting(line.name, line.tune, limit, *place)):
            error = score.error
            low, high = (error.value if end is None else end for end in (error.low, error.high))
            points.append((results.labels[place[0], limit] * dodge, error.value, low, high))
    at_N, value_N, low_N, high_N = np.array(sorted(points), np.float64).reshape(-1, 4).T
    axes.vlines(at_N, low_N, high_N, color=line.colour, linewidth=1, alpha=0.55)
    style = {"color": line.colour, "linestyle": line.style, "linewidth": 1.3, "markersize": 3}
    return axes.plot(at_N, value_N, marker="o", **style)[0]
