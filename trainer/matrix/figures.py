"""Pictures of a matrix: heat maps with numbers, and learning curves, as PNG bytes."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.draw.picture import (
    COLOUR_MAP,
    GREY,
    GRID,
    INK,
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
from trainer.matrix.results import Pair, Results, Setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = (*SERIES[:2], PINK, ORANGE)
"""Colours of the inits, in turn."""
STYLES = ("solid", "dotted", "dashdot")
"""Styles of the lines of what is tuned, in turn; the ridge is dashed."""
MOST = 8
"""Most regions that a figure shows along an axis."""
_CHANGES = "RdBu_r"
"""Colours of differences: blue is better, red is worse."""
_ACROSS = 3


def heat_maps(results: Results, limit: int | str) -> bytes:
    """Draw the errors with this share of labels: a map for each init and tune, and one for the ridge."""
    plan = results.plan
    titles = [(init.name, tune) for tune in plan.config.tune for init in plan.inits]
    titles.append((results.ridge, ""))
    maps = {}
    for name, tune in titles:
        error_ST = _grid(
            results, lambda source, region, of=(name, tune): _error(results, of, limit, source, region)
        )
        maps[f"{name}, {TUNED.get(tune, tune)}" if tune else name] = error_ST
    known = np.concatenate([error_ST[np.isfinite(error_ST)] for error_ST in maps.values()])
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return _drawn(results, maps, {}, (low, high), COLOUR_MAP, results.measure.shown)


def difference_maps(results: Results, first: str, second: str) -> bytes:
    """Draw the differences of two inits: a map for each tune and limit; bold where 0 is left out."""
    config = results.plan.config
    maps, bold = {}, {}
    for tune in config.tune:
        for limit in config.limit:

            def of(source: str, region: str, tune: str = tune, limit: int | str = limit) -> Any:
                return results.differences.get(Pair(first, second, tune, limit, source, region))

            title = f"{TUNED.get(tune, tune)}, {limit} of labels"
            found = {(s, r): of(s, r) for s in _sources(results) for r in _regions(results)}
            maps[title] = _grid(
                results, lambda s, r, found=found: found[s, r].value if found[s, r] else np.nan
            )
            bold[title] = _grid(
                results, lambda s, r, found=found: found[s, r] and found[s, r].verdict in ("better", "worse")
            )
    known = np.concatenate([np.abs(value_ST[np.isfinite(value_ST)]) for value_ST in maps.values()])
    reach = float(known.max()) if known.size and known.max() > 0 else 1.0
    return _drawn(results, maps, bold, (-reach, reach), _CHANGES, lambda v: _signed(results, v))


TUNED = {"all": "all tuned", "last": "last blocks tuned", "lora": "adapters tuned", "frozen": "frozen"}
"""What of the backbone learns, in words."""


def learning_curves(results: Results) -> bytes:
    """Draw errors over the number of labels, a panel for each region trained on and tested on."""
    plan, measure = results.plan, results.measure
    sources, regions = _sources(results), _regions(results)
    figure = new_figure(2.7 * len(regions) + 0.6, 2.1 * len(sources) + 0.7)
    panels = figure.subplots(len(sources), len(regions), squeeze=False)
    handles: dict[str, Any] = {}
    for row, source in enumerate(sources):
        for column, region in enumerate(regions):
            axes = panels[row, column]
            for number, init in enumerate(plan.inits):
                for style, tune in zip(STYLES * len(plan.config.tune), plan.config.tune, strict=False):
                    colour = LINES[number % len(LINES)]
                    name = f"{init.name}, {TUNED.get(tune, tune)}"
                    line = _curve(axes, results, (init.name, tune), (source, region), colour, style)
                    handles.setdefault(name, line)
            line = _curve(axes, results, (results.ridge, ""), (source, region), GREY, "dashed")
            handles.setdefault(results.ridge, line)
            axes.set_xscale("log")
            axes.grid(color=GRID, linewidth=0.5)
            axes.minorticks_off()
            counts = sorted(
                {
                    results.labels[source, limit]
                    for limit in plan.config.limit
                    if (source, limit) in results.labels
                }
            )
            axes.set_xticks(counts, [f"{count:,.0f}" for count in counts])
            if row == 0:
                axes.set_title(drawable(f"tested on {shortened(region)}"), fontsize=9)
            if column == 0:
                axes.set_ylabel(
                    drawable(f"trained on {shortened(source)}\n{measure.title}{_of_unit(results)}"),
                    fontsize=SMALL,
                )
            if row == len(sources) - 1:
                axes.set_xlabel("labels", fontsize=SMALL)
            tidy(axes)
    for name, line in handles.items():
        line.set_label(drawable(name))
    legend_below(figure, list(handles.values()), ncols=min(len(handles), 5))
    return png(figure)


def _curve(
    axes: "Axes",
    results: Results,
    of: tuple[str, str],
    place: tuple[str, str],
    colour: str,
    style: str,
) -> Any:
    """Draw one line with its interval; return it."""
    points = []
    for limit in results.plan.config.limit:
        score = results.scores.get(Setting(*of, limit, *place))
        if score:
            error = score.error
            low, high = (error.value if end is None else end for end in (error.low, error.high))
            points.append((results.labels[place[0], limit], error.value, low, high))
    labels_N, value_N, low_N, high_N = np.array(sorted(points)).reshape(-1, 4).T
    axes.fill_between(labels_N, np.maximum(low_N, 0), high_N, color=colour, alpha=0.12, linewidth=0)
    (line,) = axes.plot(
        labels_N, value_N, color=colour, linestyle=style, linewidth=1.4, marker="o", markersize=3
    )
    return line


def _drawn(
    results: Results,
    maps: dict[str, NDArray[np.float64]],
    bold: dict[str, NDArray[np.float64]],
    limits: tuple[float, float],
    colours: str,
    shown: Any,
) -> bytes:
    """Draw maps with numbers, in one range of colours."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    sources, regions = _sources(results), _regions(results)
    across = min(len(maps), _ACROSS)
    down = -(-len(maps) // across)
    figure = new_figure(across * (0.62 * len(regions) + 1.1), down * (0.42 * len(sources) + 1.0))
    panels = figure.subplots(down, across, squeeze=False)
    scale, palette = Normalize(*limits), colormaps[colours]
    for axes, (title, value_ST) in zip(panels.ravel(), maps.items(), strict=False):
        axes.imshow(value_ST, norm=scale, cmap=palette, aspect="auto")
        for (row, column), value in np.ndenumerate(value_ST):
            red, green, blue, _ = palette(scale(value))
            is_bright = 0.3 * red + 0.59 * green + 0.11 * blue > 0.5
            weight = "bold" if title in bold and bold[title][row, column] else "normal"
            text = shown(value) if np.isfinite(value) else "-"
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=9,
                weight=weight,
                color=INK if is_bright or not np.isfinite(value) else "white",
            )
        axes.set_title(drawable(title), fontsize=9)
        axes.set_xticks(
            range(len(regions)), [drawable(shortened(name)) for name in regions], rotation=20, ha="right"
        )
        axes.set_yticks(range(len(sources)), [drawable(shortened(name)) for name in sources])
        axes.spines[:].set_visible(False)
        axes.tick_params(labelsize=SMALL, length=0)
        axes.set_xlabel("tested on", fontsize=9)
        axes.set_ylabel("trained on", fontsize=9)
    for empty in panels.ravel()[len(maps) :]:
        empty.set_axis_off()
    return png(figure)


def _grid(results: Results, of: Any) -> NDArray[np.float64]:
    """Return the values of(source, region) as (sources, regions)."""
    return np.array(
        [[of(source, region) for region in _regions(results)] for source in _sources(results)], np.float64
    )


def _error(results: Results, of: tuple[str, str], limit: int | str, source: str, region: str) -> float:
    score = results.scores.get(Setting(*of, limit, source, region))
    return score.error.value if score else float("nan")


def _sources(results: Results) -> list[str]:
    return (
        results.plan.sources[:MOST]
        if len(results.plan.sources) <= MOST
        else [*results.plan.sources[: MOST - 1], results.plan.sources[-1]]
    )


def _regions(results: Results) -> list[str]:
    return [region.name for region in results.plan.regions[:MOST]]


def _signed(results: Results, value: float) -> str:
    return f"{value:+.2f}" if results.measure.has_root else f"{100 * value:+.1f}"


def _of_unit(results: Results) -> str:
    return f" ({results.measure.unit})" if results.measure.unit else ""
