"""Drawing for every figure: chips and heights as RGB arrays, their colour scales, one style, and the PNG.

    figure = new_figure(8, 4)
    show(figure.subplots(), composite(image_CHW, bands, nodata), "near infrared, red, green")
    draw_classes(figure)
    png(figure)

Line, bar and dot colours are from Okabe and Ito, so that the colour-blind can tell them apart
(https://jfly.uni-koeln.de/color).
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.format.height_classes import COLOURS, EDGES, NAMES
from shards.format.missing import missing_values

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMPOSITE_BANDS = ("nir", "red", "green")
BLANK = 255
STRETCH = (2.0, 98.0)
"""Percentiles of a picture's own pixels that become dark and bright."""
COLOUR_MAP = "viridis"
"""Colours of any quantity but height."""
LABEL_STRETCH = (1.0, 99.0)
"""Percentiles of a label's values that get the outermost colours."""

BLUE, ORANGE, PINK, VERMILION, GREY = "#0072b2", "#e69f00", "#cc79a7", "#d55e00", "#999999"
SERIES = (BLUE, VERMILION, GREY)
"""Colours of the first, second and third line or group of bars."""
FILL = "#a6cee3"
"""Colour of a histogram below the lines that mark its values."""
INK, EDGE, GRID = "#333333", "#888888", "#dddddd"

PIXELS_PER_INCH = 110
SMALL = 8
"""Size of type in titles, legends and ticks, in points."""

_LARGEST_LETTER = 0x52F  # Latin, Greek, Cyrillic: what matplotlib's own font holds


def composite(image_CHW: NDArray[Any], bands: tuple[str, ...], nodata: float | None) -> NDArray[np.uint8]:
    """Return rgb_HW3: near infrared, red, green, or else the first bands there are; nodata is white."""
    chosen = composite_bands(bands)
    rgb_HW3 = np.stack([image_CHW[bands.index(band)] for band in chosen], axis=-1).astype(np.float32)
    missing_HW = missing_values(rgb_HW3, nodata).any(-1)
    if missing_HW.all():
        return np.full(rgb_HW3.shape, BLANK, np.uint8)
    low_3, high_3 = np.percentile(rgb_HW3[~missing_HW], STRETCH, axis=0)
    scaled_HW3 = np.clip((rgb_HW3 - low_3) / np.maximum(high_3 - low_3, 1e-6), 0, 1)
    scaled_HW3[missing_HW] = 1
    return np.asarray(scaled_HW3 * BLANK, np.uint8)


def composite_bands(bands: tuple[str, ...]) -> list[str]:
    """Return the three bands that a composite shows as red, green and blue."""
    chosen = [band for band in COMPOSITE_BANDS if band in bands]
    return chosen if len(chosen) == 3 else [*bands, *bands, *bands][:3]


def coloured_heights(height_HW: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Return rgb_HW3 of heights in metres, coloured by class; NaN is white."""
    palette_K3 = np.array(
        [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS] + [[BLANK] * 3], np.uint8
    )
    class_HW = np.searchsorted(EDGES[1:-1], height_HW, side="right")
    class_HW[np.isnan(height_HW)] = len(COLOURS)
    return palette_K3[class_HW]


def coloured_values(value_HW: NDArray[np.floating[Any]], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Return rgb_HW3 of a quantity other than height, coloured between two limits; NaN is white."""
    from matplotlib import colormaps

    low, high = limits
    missing_HW = np.isnan(value_HW)
    scaled_HW = np.clip((np.where(missing_HW, low, value_HW) - low) / (high - low), 0, 1)
    rgb_HW3 = np.asarray(colormaps[COLOUR_MAP](scaled_HW, bytes=True)[..., :3], np.uint8)
    rgb_HW3[missing_HW] = BLANK
    return rgb_HW3


def colour_limits(value_BHW: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Return the values between which colours differ."""
    present = value_BHW[np.isfinite(value_BHW)]
    if not present.size:
        return 0.0, 1.0
    low, high = np.percentile(present, LABEL_STRETCH)
    return float(low), float(high if high > low else low + 1)


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure, sized in inches; it needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(figure: "Figure") -> bytes:
    """Return the figure as a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PIXELS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def show(axes: "Axes", rgb_HW3: NDArray[np.uint8], title: str) -> None:
    """Draw a picture without axes, pixel by pixel; the title may hold any text."""
    axes.imshow(rgb_HW3, interpolation="nearest")
    axes.set_title(drawable(title), fontsize=SMALL)
    axes.set_axis_off()


def drawable(text: str) -> str:
    """Return `text` as matplotlib can draw it: no formulas between $, "?" for letters that its font lacks."""
    known = (c if c.isprintable() and ord(c) <= _LARGEST_LETTER else "?" for c in text)
    return "".join(known).replace("$", r"\$")


def shortened(name: str) -> str:
    """Cut a long name, for a label of a chart."""
    return name if len(name) <= 40 else f"{name[:37]}..."


def tidy(axes: "Axes") -> None:
    """Give a chart the common style: axes at the left and below only, small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)


def legend_below(figure: "Figure", handles: Sequence["Artist"], **style: Any) -> None:
    """Put one legend for all panels at the figure's foot, in one row."""
    style = {"ncols": len(handles), "fontsize": SMALL, "frameon": False} | style
    figure.legend(handles=handles, loc="outside lower center", **style)


def draw_classes(figure: "Figure") -> None:
    """Put a legend of the height classes at the figure's foot."""
    from matplotlib.patches import Patch

    legend_below(
        figure, [Patch(color=colour, label=name) for colour, name in zip(COLOURS, NAMES, strict=True)]
    )


def draw_class_bar(axes: "Axes") -> None:
    """Fill small axes with a bar of the height classes, each as wide as the others, edges below."""
    palette_K3 = coloured_heights(np.array(EDGES[:-1], np.float32))
    axes.imshow(palette_K3[None], extent=(0, len(COLOURS), 0, 1), aspect="auto", interpolation="none")
    # The first class is bare ground, 0 m: its middle is marked rather than its end at a millimetre.
    places = [0.5, *range(2, len(COLOURS))]
    axes.set_xticks(places, [f"{edge:g}" for edge in (0, *EDGES[2:-1])])
    bare_scale(axes, "canopy height (m)")


def draw_colour_bar(figure: "Figure", panels: Any, limits: tuple[float, float], name: str) -> None:
    """Put the scale of `coloured_values` below the panels that show them."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(
        ScalarMappable(Normalize(*limits), COLOUR_MAP),
        ax=panels.tolist(),
        location="bottom",
        shrink=0.4,
        aspect=50,
        extend="both",
    )
    bar.set_label(drawable(name), fontsize=9)
    bar.ax.tick_params(labelsize=SMALL)


def bare_scale(axes: "Axes", title: str) -> None:
    """Leave of small axes only the ticks below and a title at the left."""
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=2, width=0.5, pad=1.5, labelsize=6.5, color=INK, labelcolor=INK)
    axes.set_title(title, fontsize=6.5, color=INK, loc="left", pad=2)
