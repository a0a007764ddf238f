"""Pictures in a table: a row for each tile, a column for each layer; and all pictures of one tile.

png = pictures_in_rows([[Picture(rgb_HW3, "tile")], ...], row_names, legend)
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.draw.picture import (
    BLANK,
    EDGE,
    INK,
    STRETCH,
    coloured_values,
    drawable,
    new_figure,
    png,
    shortened,
)
from shards.wording import number

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

NAMED_COLOURS = {
    "water": (0, 114, 178),
    "tree": (0, 158, 115),
    "forest": (0, 158, 115),
    "crop": (240, 228, 66),
    "grass": (178, 223, 138),
    "range": (178, 223, 138),
    "shrub": (230, 159, 0),
    "built": (213, 94, 0),
    "bare": (153, 153, 153),
    "snow": (166, 206, 227),
}
"""Colours of classes that have such a word in their name, so that water is blue wherever it can be known."""

_WIDTH = 10.0
"""Width of a figure, in inches."""
_SIDES = (1.0, 2.2)
"""Least and largest width of a picture."""
_GAP, _NAME, _LINE, _BAR = 0.08, 0.26, 0.15, 0.36
"""Between pictures; for the name of a row; for a line of text; for a colour bar and its ticks."""
_BOX = 0.16
"""For the box of a legend's colour."""
_TYPE = 7.5
"""Size of type, in points."""
_LETTERS = 13
"""Letters of it in an inch."""
_TALLEST = 2.0
"""Largest height of a picture, in widths; a taller one is narrower."""

Limits = tuple[float, float]
Colour = tuple[int, int, int]
Legend = dict[str, Colour]
"""Colours by the name of a class."""
_Entry = tuple[str, Colour | None]
"""A name in a legend, and the colour of its box."""


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


def classes(number_HW: NDArray[Any], colours: dict[int, Colour], title: str) -> Picture:
    """Colour the numbers of classes; NaN is white."""
    rgb_HW3 = np.full((*number_HW.shape, 3), BLANK, np.uint8)
    for one, colour in colours.items():
        rgb_HW3[number_HW == one] = colour
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


def colours_of(numbers: Sequence[int], names: dict[int, str], known: dict[int, Colour]) -> dict[int, Colour]:
    """Give each class a colour.

    It is that of its raster's colour table, or one that its name suggests, or the next of CLASS_COLOURS.

    Args:
        numbers: numbers of the classes.
        names: their names; some may have none.
        known: colours of a colour table; may be empty.
    """
    chosen: dict[int, Colour] = {}
    for one in sorted(numbers):
        words = [word for word in NAMED_COLOURS if word in names.get(one, "").lower()]
        if one in known:
            chosen[one] = known[one]
        elif words and NAMED_COLOURS[words[0]] not in chosen.values():
            chosen[one] = NAMED_COLOURS[words[0]]
    for place, one in enumerate(one for one in sorted(numbers) if one not in chosen):
        free = [colour for colour in CLASS_COLOURS if colour not in chosen.values()]
        chosen[one] = free[0] if free else CLASS_COLOURS[place % len(CLASS_COLOURS)]
    return {one: chosen[one] for one in sorted(numbers)}


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
            Picture(one.rgb_HW3, one.title if place == 0 else "", one.limits if place == last else None)
            for one in row
        ]
        for place, row in enumerate(rows)
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
    width = left + across * (side + _GAP) + _GAP
    letters = int(side * _LETTERS)
    tops = [_LINE * max(len(_lines(one.title, letters)) for one in row) for row in rows]
    highs = [max(side * min(_tallness(one), _TALLEST) for one in row) for row in rows]
    bars = [_BAR if any(one.limits for one in row) else 0.0 for row in rows]
    lines = _legend_lines(legends or {}, width)
    height = sum(tops) + sum(highs) + sum(bars) + _GAP * (len(rows) + 1) + 1.3 * _LINE * len(lines)
    sheet = _Sheet(width, height)
    y = _GAP
    for row_number, row in enumerate(rows):
        top, highest, bar = tops[row_number], highs[row_number], bars[row_number]
        y += top
        if names:
            name = shortened(names[row_number])
            sheet.text(left / 2, y + highest / 2, name, rotation=90, ha="center", va="center")
        for column, one in enumerate(row):
            x = left + _GAP + column * (side + _GAP)
            wide, high = side, side * _tallness(one)
            if high > highest:
                wide, high = side * highest / high, highest
            sheet.image(one.rgb_HW3, x + (side - wide) / 2, y, wide, high, framed=True)
            for place, line in enumerate(reversed(_lines(one.title, letters))):
                sheet.text(x + side / 2, y - 0.04 - place * _LINE, line, ha="center", va="bottom")
            if one.limits:
                sheet.scale(x + 0.05 * side, y + highest + 0.06, 0.9 * side, one.limits)
        y += highest + bar + _GAP
    for place, entries in enumerate(lines):
        sheet.legend(left + _GAP, y + (1.3 * place + 0.5) * _LINE, entries)
    return png(sheet.figure)


class _Sheet:
    """One axes for all pictures, in inches from its upper left corner: axes of their own are slow."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = new_figure(width, height)
        self.figure.set_layout_engine("none")
        self._axes = self.figure.add_axes((0, 0, 1, 1))
        self._axes.set_axis_off()
        self._limits = (0, width), (height, 0)
        self._fit()

    def _fit(self) -> None:
        """Set the limits, which a picture changes."""
        self._axes.set(xlim=self._limits[0], ylim=self._limits[1], aspect="auto")

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write a text."""
        whole: dict[str, Any] = {"fontsize": _TYPE, "color": INK, "va": "center", **style}
        self._axes.text(x, y, drawable(text), **whole)

    def image(
        self, rgb_HW3: NDArray[Any], x: float, y: float, wide: float, high: float, framed: bool
    ) -> None:
        """Draw a picture, pixel by pixel."""
        extent = (x, x + wide, y + high, y)
        self._axes.imshow(rgb_HW3, extent=extent, interpolation="nearest", aspect="auto")
        if framed:
            self._box(x, y, wide, high, "none")
        self._fit()

    def scale(self, x: float, y: float, wide: float, limits: Limits) -> None:
        """Draw the scale of `coloured_values` with its two limits."""
        shades_1W = np.linspace(*limits, 256, dtype=np.float32)[None]
        self.image(coloured_values(shades_1W, limits), x, y, wide, 0.08, framed=False)
        small: dict[str, Any] = {"fontsize": _TYPE - 1, "va": "top"}
        for at, limit, side in ((x, limits[0], "left"), (x + wide, limits[1], "right")):
            self.text(at, y + 0.11, number(float(f"{limit:.3g}")), ha=side, **small)

    def legend(self, x: float, y: float, entries: "Sequence[_Entry]") -> None:
        """Write a line of names, each with a box of its colour."""
        for text, colour in entries:
            if colour is not None:
                self._box(x, y - 0.055, 0.12, 0.11, tuple(part / BLANK for part in colour))
                x += _BOX
            self.text(x, y, text)
            x += _text_width(text)

    def _box(self, x: float, y: float, wide: float, high: float, fill: Any) -> None:
        from matplotlib.patches import Rectangle

        self._axes.add_patch(Rectangle((x, y), wide, high, facecolor=fill, edgecolor=EDGE, linewidth=0.5))


def _tallness(picture: Picture) -> float:
    rows, columns, _ = picture.rgb_HW3.shape
    return float(rows / columns)


def _lines(text: str, letters: int) -> list[str]:
    return textwrap.wrap(text, letters) if text else []


def _text_width(text: str) -> float:
    """Estimate the width of a text in inches, with a space after it."""
    return 0.062 * len(text) + 0.14


def _legend_lines(legends: dict[str, Legend], width: float) -> "list[list[_Entry]]":
    """Break the entries of all legends into lines; each layer begins a new one with its name."""
    lines: list[list[_Entry]] = []
    for layer, legend in legends.items():
        lines.append([(f"{layer}:", None)])
        x = _text_width(layer)
        for name, colour in legend.items():
            needed = _BOX + _text_width(name)
            if x + needed > width - 2 * _GAP - _NAME:
                lines.append([])
                x = 0.0
            lines[-1].append((name, colour))
            x += needed
    return lines
