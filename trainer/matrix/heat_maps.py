"""Heat maps of a matrix with numbers, as PNG bytes: errors, and differences of two inits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.draw.picture import COLOUR_MAP, INK, SMALL, drawable, new_figure, png, shortened
from trainer.matrix.plan import choice_of
from trainer.matrix.results import Pair, Results, Setting, tuned

CHANGES = "RdBu_r"
"""Colours of differences: blue is better, red is worse."""
TELLS_BRIGHT = np.array([0.3, 0.59, 0.11])
"""Shares of red, green and blue in how bright a colour looks (ITU-R BT.601, rounded)."""


@dataclass(frozen=True, eq=False)
class HeatMap:
    """One map."""

    title: str
    value_ST: NDArray[np.float64]
    """Value by what was trained on (S) and tested on (T); NaN: there is none."""
    is_bold_ST: NDArray[np.bool_]
    """Whether the number is bold."""


def error_maps(results: Results, limit: int | str) -> bytes:
    """Draw the errors with this share of labels: a map for each init and tune, and one for the ridge."""
    plan = results.plan
    rows: list[list[tuple[str, str]]] = [
        [(init.name, tune) for init in plan.inits] for tune in plan.config.tune
    ]
    rows[0].append((results.ridge, ""))
    maps: list[list[HeatMap]] = []
    for row in rows:
        maps.append([])
        for name, tune in row:
            scores = (results.scores.get(Setting(name, tune, limit, *place)) for place in results.places)
            value_ST = _grid(results, [score.error.value if score else np.nan for score in scores])
            title = f"{name}, {tuned(tune)}" if tune else name
            maps[-1].append(HeatMap(title, value_ST, np.zeros(value_ST.shape, np.bool_)))
    known = _known(maps)
    limits = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return _drawn(results, maps, limits, COLOUR_MAP, results.measure.shown)


def difference_maps(results: Results, first: str, second: str) -> bytes:
    """Draw the differences of two inits: a map for each tune and limit; bold where 0 is left out."""
    maps: list[list[HeatMap]] = []
    for tune in results.plan.config.tune:
        maps.append([])
        for limit in results.plan.config.limit:
            pairs = (Pair(first, second, tune, limit, *place) for place in results.places)
            found = [results.differences.get(pair) for pair in pairs]
            value_ST = _grid(results, [one.value if one else np.nan for one in found])
            is_bold_ST = _grid(results, [bool(one and one.leaves_out_zero) for one in found]).astype(np.bool_)
            maps[-1].append(HeatMap(f"{tuned(tune)}, {choice_of(limit)}", value_ST, is_bold_ST))
    known = np.abs(_known(maps))
    reach = float(known.max()) if known.size and known.max() > 0 else 1.0
    return _drawn(results, maps, (-reach, reach), CHANGES, results.measure.signed)


def _known(maps: list[list[HeatMap]]) -> NDArray[np.float64]:
    """Return the values that there are."""
    values_N = np.concatenate([one.value_ST.ravel() for row in maps for one in row])
    return np.asarray(values_N[np.isfinite(values_N)], np.float64)


def _grid(results: Results, values: list[float] | list[bool]) -> NDArray[np.float64]:
    """Lay out values of `results.places` by what was trained on and tested on."""
    return np.array(values, np.float64).reshape(len(results.plan.sources), len(results.plan.regions))


def _drawn(
    results: Results,
    maps: list[list[HeatMap]],
    limits: tuple[float, float],
    colours: str,
    shown: Callable[[float], str],
) -> bytes:
    """Draw rows of maps in one range of colours."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    sources = [drawable(shortened(name)) for name in results.plan.sources]
    regions = [drawable(shortened(region.name)) for region in results.plan.regions]
    down, across = len(maps), max(map(len, maps))
    figure = new_figure(across * (0.62 * len(regions) + 1.1), down * (0.42 * len(sources) + 1.0))
    panels = figure.subplots(down, across, squeeze=False)
    for empty in (axes for row, found in zip(panels, maps, strict=True) for axes in row[len(found) :]):
        empty.set_axis_off()
    scale, palette = Normalize(*limits), colormaps[colours]
    filled = [pair for row, found in zip(panels, maps, strict=True) for pair in zip(row, found, strict=False)]
    for axes, one in filled:
        axes.imshow(one.value_ST, norm=scale, cmap=palette, aspect="auto")
        for (row, column), value in np.ndenumerate(one.value_ST):
            is_known = bool(np.isfinite(value))
            is_bright = not is_known or TELLS_BRIGHT @ palette(scale(value))[:3] > 0.5
            axes.text(
                column,
                row,
                shown(value) if is_known else "-",
                ha="center",
                va="center",
                fontsize=9,
                weight="bold" if one.is_bold_ST[row, column] else "normal",
                color=INK if is_bright else "white",
            )
        axes.set_title(drawable(one.title), fontsize=9)
        axes.set_xticks(range(len(regions)), regions, rotation=20, ha="right")
        axes.set_yticks(range(len(sources)), sources)
        axes.spines[:].set_visible(False)
        axes.tick_params(labelsize=SMALL, length=0)
        axes.set_xlabel("tested on", fontsize=9)
        axes.set_ylabel("trained on", fontsize=9)
    return png(figure)
