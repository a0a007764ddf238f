"""The figures of `treeline inspect`, as PNG bytes: bands, label, sources, sampled chips.

Arrays and statistics in, pictures out; the same input gives the same bytes.

    bands_chart(schema, statistics, tally)
    sample_picture(dataset, count=12, seed=0)
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.draw.colours import NOTEBOOK, Palette, height_scale
from shards.draw.picture import (
    BLUE,
    EDGE,
    FILL,
    SMALL,
    VERMILION,
    colour_limits,
    coloured_values,
    composite,
    draw_colour_bar,
    draw_height_legend,
    drawable,
    legend_below,
    new_figure,
    png,
    shortened,
    show,
    tidy,
)
from shards.format.band_values import values_of
from shards.format.histogram import CM_PER_M, HEIGHT, Histogram
from shards.format.schema import Schema
from shards.format.statistics import LabelSummary, Statistics, Tally, band_counts
from shards.read.dataset import Dataset

MOST_BANDS = 16
"""Most panels of a figure; more are too small to be read."""
MEAN, PERCENTILE, CLAMP = VERMILION, BLUE, "#222222"
MARKED = {"1": "dotted", "50": "dashed", "99": "dotted"}
"""Percentiles marked in the histograms of bands, with the style of their lines."""

_BINS = 80
_ACROSS = 4
_PAIRS_PER_ROW = 4


def bands_chart(schema: Schema, statistics: Statistics, tally: Tally) -> bytes:
    """Draw how often the values of each band occur, with mean, percentiles and limits of the clamp.

    Only the first MOST_BANDS bands are drawn.
    """
    bands = schema.all_bands[:MOST_BANDS]
    across = min(_ACROSS, len(bands))
    down = -(-len(bands) // across)
    figure = new_figure(max(3.1 * across, 6.2), 2.3 * down + 0.5)
    panels = figure.subplots(down, across, squeeze=False)
    for empty in panels.ravel()[len(bands) :]:
        empty.set_axis_off()
    for axes, band, histogram in zip(panels.ravel(), bands, tally.bands, strict=False):
        summary = statistics.bands[band]
        p = summary.percentiles
        low, high = min(summary.clamp_min, p["1"]), max(summary.clamp_max, p["99"])
        edges = band_edges(schema, band, low, high)
        values, counts = band_counts(band, histogram, schema)
        axes.hist(values, edges, weights=100 * counts / counts.sum(), histtype="stepfilled", color=FILL)
        for limit in (summary.clamp_min, summary.clamp_max):
            clamp = axes.axvline(limit, color=CLAMP, linewidth=1, label="limits of the clamp")
        mean = axes.axvline(summary.mean, color=MEAN, linewidth=1.6, label="mean")
        marks = [
            axes.axvline(p[name], color=PERCENTILE, linestyle=style, linewidth=1.2, label=f"{name} %")
            for name, style in MARKED.items()
        ]
        axes.set_title(drawable(band), fontsize=9)
        axes.locator_params(nbins=5)
        tidy(axes)
    for axes in panels[:, 0]:
        axes.set_ylabel("% of pixels", fontsize=SMALL)
    handles = [mean, clamp, *marks]
    if len(bands) < len(schema.all_bands):
        figure.suptitle(f"the first {len(bands)} of {len(schema.all_bands)} bands", fontsize=9)
    legend_below(figure, handles)
    return png(figure)


def label_chart(
    schema: Schema, summary: LabelSummary, histogram: Histogram, palette: Palette = "continuous"
) -> bytes:
    """Draw how often a label's values occur, on a log scale; for heights also the share of each class.

    Draw the shares alone where classes are all there is.
    """
    if schema.class_names:
        figure = new_figure(7, 0.28 * len(summary.classes) + 1.0)
        _draw_shares(figure.subplots(), summary.classes, FILL)
        return png(figure)
    figure = new_figure(11 if summary.classes else 7, 3.6)
    axes, *others = figure.subplots(1, 2 if summary.classes else 1, squeeze=False).ravel()
    values, counts = histogram.labels(schema.label)
    edges = _edges(summary.minimum, summary.maximum, 1 / CM_PER_M)
    axes.hist(values, edges, weights=counts, log=True, histtype="stepfilled", color=FILL)
    unit = f" {schema.label_unit}".rstrip()
    axes.axvline(summary.mean, color=MEAN, linewidth=1.6, label=drawable(f"mean: {summary.mean:.4g}{unit}"))
    for name, style in {"50": "dashed", "90": "dashdot", "99": "dotted"}.items():
        value = summary.percentiles[name]
        text = drawable(f"{name} %: {value:.4g}{unit}")
        axes.axvline(value, color=PERCENTILE, linestyle=style, linewidth=1.2, label=text)
    axes.legend(frameon=False, fontsize=SMALL)
    axes.set_xlabel(drawable(f"{schema.label}{f' ({schema.label_unit})' if unit else ''}"), fontsize=9)
    axes.set_ylabel("pixels", fontsize=9)
    tidy(axes)
    for panel in others:
        _draw_shares(panel, summary.classes, NOTEBOOK if palette == "notebook" else FILL)
    return png(figure)


def _draw_shares(axes: Any, classes: dict[str, float], colours: str | Sequence[str]) -> None:
    """Draw the share of each class as a bar."""
    places, shares = np.arange(len(classes)), 100 * np.array(list(classes.values()))
    bars = axes.barh(places, shares, color=colours, edgecolor=EDGE, linewidth=0.5)
    axes.bar_label(bars, [f"{share:.1f} %" for share in shares], padding=3, fontsize=SMALL)
    axes.set_yticks(places, [drawable(shortened(name)) for name in classes])
    axes.set(xlim=(0, 1.15 * shares.max()))
    axes.set_xlabel("% of pixels", fontsize=9)
    tidy(axes)


def sources_chart(chips: dict[str, int], means: dict[str, float], label: str) -> bytes:
    """Draw the chips of each height source, and the mean of its training labels; the first on top.

    Args:
        chips: number of chips by name of source.
        means: mean label by name of source; a source may be missing.
        label: name and unit of the label; "" if there is none, and one panel is enough.
    """
    figure = new_figure(9 if label else 6, 0.28 * len(chips) + 1.0)
    panels = figure.subplots(1, 2 if label else 1, sharey=True, squeeze=False).ravel()
    places = -np.arange(len(chips))
    panels[0].barh(places, list(chips.values()), color=PERCENTILE)
    panels[0].set_xlabel("chips", fontsize=9)
    panels[0].set_yticks(places, [drawable(shortened(name)) for name in chips])
    for panel in panels[1:]:
        panel.barh(places, [means.get(name, 0.0) for name in chips], color=MEAN)
        panel.set_xlabel(drawable(f"mean {label}"), fontsize=9)
    for panel in panels:
        panel.locator_params(axis="x", nbins=5)
        tidy(panel)
    return png(figure)


def sample_picture(dataset: Dataset, count: int, seed: int, palette: Palette = "continuous") -> bytes:
    """Draw `count` chips, each beside its label if it has one."""
    every = dataset.chips("all")
    chosen = np.sort(np.random.default_rng(seed).permutation(every)[:count])
    batch, schema = dataset.gather(chosen), dataset.schema
    each = 2 if schema.label else 1
    across = 2 * _PAIRS_PER_ROW
    rows = -(-chosen.size * each // across)
    figure = new_figure(1.6 * across, 1.9 * rows + 1.0)
    panels = figure.subplots(rows, across, squeeze=False).ravel()
    for empty in panels:
        empty.set_axis_off()
    keys = dataset.index["key"].take(chosen).to_pylist()
    limits, scale = colour_limits(batch.height_BHW), height_scale(batch.height_BHW, palette)
    for place, key in enumerate(keys):
        values_CHW = values_of(batch.image_BCHW[place], schema, schema.all_bands)
        rgb_HW3 = composite(values_CHW, schema.all_bands, None)
        show(panels[each * place], rgb_HW3, key[-24:])
        if schema.label:
            label_HW = batch.height_BHW[place]
            is_height = schema.label == HEIGHT
            rgb_HW3 = scale.rgb(label_HW) if is_height else coloured_values(label_HW, limits)
            show(panels[2 * place + 1], rgb_HW3, _highest(label_HW, schema))
    if schema.label == HEIGHT:
        draw_height_legend(figure, panels.tolist(), scale)
    elif schema.label:
        draw_colour_bar(figure, panels, limits, schema.label_and_unit)
    return png(figure)


def band_edges(schema: Schema, band: str, low: float, high: float) -> NDArray[np.float64]:
    """Return edges of bins from `low` to `high` that each hold equally many possible values of the band."""
    step, origin = _grid(schema, band)
    if step:  # edges then lie midway between values
        low = origin + step * math.floor((low - origin) / step)
    return _edges(low, high, step)


def _grid(schema: Schema, band: str) -> tuple[float, float]:
    """Return how far apart a band's possible values are, and one of them; (0, 0) if any value is possible."""
    if schema.dtype == "float32":
        return 0.0, 0.0
    made = schema.derived_band(band)
    if made is None:
        scale, offset = schema.scaling(band)
        return abs(scale), offset
    (scale, offset), (other_scale, other_offset) = map(schema.scaling, (made.first, made.second))
    same = abs(scale) == abs(other_scale)
    return (abs(scale), offset + made.factor * other_offset) if same else (0.0, 0.0)


def _edges(low: float, high: float, step: float) -> NDArray[np.float64]:
    """Return edges of at most _BINS bins from `low` to `high`, for values that are `step` apart.

    Each bin holds equally many possible values: bins of 3 and of 4 would make a comb of a smooth
    distribution. With step 0 any value is possible.
    """
    if not step:
        room = max(high - low, abs(low) * 1e-3, 1e-6)
        return np.linspace(low, low + room, _BINS + 1)
    steps = round((high - low) / step) + 1
    width = -(-steps // _BINS)
    return np.asarray(low + step * (width * np.arange(-(-steps // width) + 1) - 0.5), np.float64)


def _highest(label_HW: NDArray[np.float32], schema: Schema) -> str:
    """Return the title of a label's picture."""
    if np.isnan(label_HW).all():
        return f"no {schema.label}"
    highest = np.nanmax(label_HW)
    return f"to {highest:.1f} m" if schema.label == HEIGHT else f"to {highest:.4g} {schema.label_unit}"
