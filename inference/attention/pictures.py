"""Pictures in a table: a row for each tile, a column for each layer; and all pictures of one tile.

png = pictures_in_rows([[Picture(rgb_HW3, "tile")], ...], row_names, legend)
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.draw.html import number as written
from shards.draw.picture import (
    BLANK,
    COLOUR_MAP,
    EDGE,
    INK,
    STRETCH,
    coloured_values,
    drawable,
    new_figure,
    png,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ACROSS = 7
"""Most pictures in a row."""
CLASS_COLOURS = (
    (0, 114, 178),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (153, 153, 153),
    (86, 180, 233),
    (230, 159, 0),
    (51, 51, 51),
    (166, 206, 227),
    (178, 223, 138),
    (202, 178, 214),
    (255, 255, 153),
    (177, 89, 40),
    (227, 26, 28),
    (106, 61, 154),
)
"""Colours of classes without a colour table: Okabe and Ito's (https://jfly.uni-koeln.de/color), then
ColorBrewer's "Paired" (https://colorbrewer2.org)."""

_WIDTH = 10.0
"""Width of a figure, in inches."""
_SIDES = (1.0, 2.2)
"""Least and largest width of a picture."""
_GAP, _NAME, _LINE, _BAR = 0.08, 0.26, 0.15, 0.36
"""Between pictures; for the name of a row; for a line of text; for a colour bar and its ticks."""
_TYPE = 7.5
"""Size of type, in points."""

Limits = tuple[float, float]
Legend = dict[str, tuple[int, int, int]]
"""Colours by the name of a class."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, what stands above it, and the scale below it."""

    rgb_HW3: NDArray[np.uint8]
    title: str = ""
    limits: Limits | None = None
    """Values of the outermost colours of the scale; None: no scale."""


def quantity(value_HW: NDArray[Any], limits: Limits, title: str) -> Picture:
    """Colour a quantity between two limits."""
    return Picture(coloured_values(value_HW, limits), title, limits)


def classes(number_HW: NDArray[Any], colours: dict[int, tuple[int, int, int]], title: str) -> Picture:
    """Colour the numbers of classes; NaN is white."""
    rgb_HW3 = np.full((*number_HW.shape, 3), BLANK, np.uint8)
    for number, colour in colours.items():
        rgb_HW3[number_HW == number] = colour
    return Picture(rgb_HW3, title)


def three_bands(value_3HW: NDArray[Any], low_3: NDArray[Any], high_3: NDArray[Any], title: str) -> Picture:
    """Show three bands as red, green and blue between their limits; NaN is white."""
    missing_HW = np.isnan(value_3HW).any(0)
    span_3 = np.maximum(high_3 - low_3, 1e-6)
    scaled_HW3 = np.clip((np.moveaxis(value_3HW, 0, -1) - low_3) / span_3, 0, 1)
    scaled_HW3[missing_HW] = 1
    return Picture((scaled_HW3 * BLANK).astype(np.uint8), title)


def stretch(value_BCP: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the limits of each band, between which colours differ, over all pictures (bands, ...)."""
    value_CP = np.concatenate([value_CHW.reshape(len(value_CHW), -1) for value_CHW in value_BCP], axis=1)
    value_CP = value_CP[:, np.isfinite(value_CP).all(0)]
    if not value_CP.size:
        return np.zeros(len(value_CP)), np.ones(len(value_CP))
    low_C, high_C = np.percentile(value_CP, STRETCH, axis=1)
    return low_C, high_C


def colours_of(numbers: Sequence[int], known: dict[int, tuple[int, int, int]]) -> dict[int, Any]:
    """Give each class a colour: of its raster's colour table, or else the next of CLASS_COLOURS."""
    return {
        number: known.get(number, CLASS_COLOURS[place % len(CLASS_COLOURS)])
        for place, number in enumerate(sorted(numbers))
    }


def folded(pictures: Sequence[Picture]) -> list[list[Picture]]:
    """Lay pictures out in rows of equal length, as far as possible."""
    rows = -(-len(pictures) // MOST_ACROSS)
    across = -(-len(pictures) // rows)
    return [list(pictures[first : first + across]) for first in range(0, len(pictures), across)]


def table_of(rows: Sequence[Sequence[Picture]]) -> list[list[Picture]]:
    """Leave titles to the first row, and scales to the last."""
    last = len(rows) - 1
    return [
        [
            Picture(one.rgb_HW3, one.title if not number else "", one.limits if number == last else None)
            for one in row
        ]
        for number, row in enumerate(rows)
    ]


def pictures_in_rows(
    rows: Sequence[Sequence[Picture]], names: Sequence[str] = (), legends: dict[str, Legend] | None = None
) -> bytes:
    """Draw rows of pictures as a PNG.

    Args:
        rows: pictures by row.
        names: name of each row, written upwards at its left; (): none.
        legends: what the colours of classes mean, by layer.
    """
    across = max(map(len, rows))
    left = _NAME if names else 0.0
    side = float(np.clip((_WIDTH - left) / across - _GAP, *_SIDES))
    letters = int(side * 13)
    tops = [max(len(_lines(one.title, letters)) for one in row) * _LINE for row in rows]
    highs = [max(side * min(one.rgb_HW3.shape[0] / one.rgb_HW3.shape[1], 2.0) for one in row) for row in rows]
    bars = [_BAR if any(one.limits for one in row) else 0.0 for row in rows]
    entries = [
        (layer, name, colour) for layer, some in (legends or {}).items() for name, colour in some.items()
    ]
    width = left + across * (side + _GAP) + _GAP
    lines = _legend_lines(entries, width)
    height = sum(tops) + sum(highs) + sum(bars) + _GAP * (len(rows) + 1) + len(lines) * 1.3 * _LINE
    figure = new_figure(width, height)
    figure.set_layout_engine("none")

    def axes_at(x: float, y: float, wide: float, high: float) -> "Axes":
        """Make axes whose upper left corner is x, y inches from the figure's."""
        return figure.add_axes((x / width, 1 - (y + high) / height, wide / width, high / height))

    style: dict[str, Any] = {"fontsize": _TYPE, "color": INK}
    y = _GAP
    for number, row in enumerate(rows):
        y += tops[number]
        if names:
            place = (left / 2 / width, 1 - (y + highs[number] / 2) / height)
            figure.text(
                *place, drawable(shortened(names[number])), rotation=90, ha="center", va="center", **style
            )
        for column, one in enumerate(row):
            x = left + _GAP + column * (side + _GAP)
            axes = axes_at(x, y, side, highs[number])
            axes.imshow(one.rgb_HW3, interpolation="nearest")
            axes.set(xticks=[], yticks=[], anchor="N")
            axes.spines[:].set(color=EDGE, linewidth=0.5)
            if one.title:
                text = "\n".join(_lines(one.title, letters))
                figure.text(
                    (x + side / 2) / width, 1 - (y - 0.04) / height, text, ha="center", va="bottom", **style
                )
            if one.limits:
                _draw_bar(axes_at(x + 0.05 * side, y + highs[number] + 0.06, 0.9 * side, 0.08), one.limits)
        y += highs[number] + bars[number] + _GAP
    for place_in, line in enumerate(lines):
        x = left + _GAP
        at = 1 - (y + (1.3 * place_in + 0.5) * _LINE) / height
        for text, colour in line:
            if colour is not None:
                rgb = tuple(part / 255 for part in colour)
                box = figure.add_axes((x / width, at - 0.05 / height, 0.12 / width, 0.1 / height))
                box.set(xticks=[], yticks=[], facecolor=rgb)
                box.spines[:].set(color=EDGE, linewidth=0.5)
                x += 0.16
            figure.text(x / width, at, drawable(text), ha="left", va="center", **style)
            x += _text_width(text)
    return png(figure)


def _lines(text: str, letters: int) -> list[str]:
    return textwrap.wrap(drawable(text), letters) if text else []


def _text_width(text: str) -> float:
    """Estimate the width of a text in inches, with a space after it."""
    return 0.062 * len(text) + 0.14


def _legend_lines(
    entries: Sequence[tuple[str, str, tuple[int, int, int]]], width: float
) -> list[list[tuple[str, tuple[int, int, int] | None]]]:
    """Break the entries of all legends into lines; each layer begins a new one with its name."""
    lines: list[list[tuple[str, tuple[int, int, int] | None]]] = []
    layer_now, x = None, 0.0
    for layer, name, colour in entries:
        needed = _text_width(name) + 0.16
        if layer != layer_now or x + needed > width - 0.5:
            lines.append([(f"{layer}:", None)] if layer != layer_now else [])
            x = _text_width(layer) if layer != layer_now else 0.0
            layer_now = layer
        lines[-1].append((name, colour))
        x += needed
    return lines


def _draw_bar(axes: "Axes", limits: Limits) -> None:
    """Draw the scale of `coloured_values` with its two limits."""
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=COLOUR_MAP, aspect="auto", extent=(0, 1, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([0, 1], [written(float(f"{limit:.3g}")) for limit in limits])
    axes.tick_params(length=2, width=0.5, pad=1.5, labelsize=_TYPE - 1, color=INK, labelcolor=INK)
    lowest, highest = axes.get_xticklabels()
    lowest.set_horizontalalignment("left")
    highest.set_horizontalalignment("right")
    axes.spines[:].set_visible(False)
