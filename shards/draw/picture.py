"""Drawing for every figure: chips and values as RGB arrays, their legends, one style, and the PNG.

    figure = new_figure(8, 4)
    panel = figure.subplots()
    show(panel, scale.rgb(height_HW), "measured")
    draw_height_legend(figure, [panel], scale)
    png(figure)

Line, bar and dot colours are from Okabe and Ito, so that the colour-blind can tell them apart
(https://jfly.uni-koeln.de/color).
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.draw.colours import NO_VALUE, NO_VALUE_NAME, ColourScale, hexadecimal
from shards.format.missing import missing_values

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
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

_BAR_COLOURS, _BAR_END, _PATCH_AT = 256, 0.8, 0.93
"""Colours of a small bar; where it ends, and the middle of the patch after it, as shares of the width."""
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


def draw_height_legend(figure: "Figure", panels: Sequence["Axes"], scale: ColourScale) -> None:
    """Put the scale of heights below the panels that show them, and what the colour without a value means."""
    from matplotlib.patches import Patch

    classes = zip(scale.colours, scale.names, strict=True) if scale.names else ()
    patches = [Patch(color=hexadecimal(colour), label=name) for colour, name in classes]
    patches.append(Patch(facecolor=hexadecimal(NO_VALUE), edgecolor=EDGE, linewidth=0.5, label=NO_VALUE_NAME))
    legend_below(figure, patches)
    if not scale.names:
        _draw_bar(figure, panels, _mappable(scale), "canopy height (m)", "max")


def draw_height_bar(axes: "Axes", scale: ColourScale) -> None:
    """Fill small axes with a bar of the colours of heights, and a patch of the colour without a value.

    Classes are equally wide, and their edges stand below.
    """
    ends = np.linspace(scale.low, scale.high, _BAR_COLOURS) if not scale.names else (scale.low, *scale.edges)
    axes.imshow(
        scale.rgb(np.array(ends))[None], extent=(0, _BAR_END, 0, 1), aspect="auto", interpolation="none"
    )
    blank = np.array([[NO_VALUE]], np.uint8)
    axes.imshow(blank, extent=(_PATCH_AT - 0.03, _PATCH_AT + 0.03, 0, 1), aspect="auto")
    axes.set_xlim(0, 1)
    ticks = {0.0: "0", _BAR_END / 2: f"{scale.high / 2:g}", _BAR_END: f"{scale.high:g}+"}
    if scale.names:
        # The first class is bare ground, 0 m: its middle is marked rather than its end at a millimetre.
        width = _BAR_END / len(scale.names)
        ticks = {width / 2: "0"} | {
            width * place: f"{scale.edges[place - 1]:g}" for place in range(2, len(ends))
        }
    axes.set_xticks([*ticks, _PATCH_AT], [*ticks.values(), NO_VALUE_NAME])
    bare_scale(axes, "canopy height (m)")


def draw_colour_bar(figure: "Figure", panels: Any, limits: tuple[float, float], name: str) -> None:
    """Put the scale of `coloured_values` below the panels that show them."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    _draw_bar(figure, panels.tolist(), ScalarMappable(Normalize(*limits), COLOUR_MAP), name, "both")


def draw_difference_bar(figure: "Figure", panels: Sequence["Axes"], scale: ColourScale, name: str) -> None:
    """Put a scale of differences below the panels that show them."""
    _draw_bar(figure, panels, _mappable(scale), name, "both")


def _mappable(scale: ColourScale) -> "ScalarMappable":
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    colours = ListedColormap([hexadecimal(colour) for colour in scale.colours])
    return ScalarMappable(Normalize(scale.low, scale.high), colours)


def _draw_bar(
    figure: "Figure", panels: Sequence["Axes"], colours: "ScalarMappable", name: str, extend: str
) -> None:
    bar = figure.colorbar(colours, ax=list(panels), location="bottom", shrink=0.4, aspect=50, extend=extend)
    bar.set_label(drawable(name), fontsize=9)
    bar.ax.tick_params(labelsize=SMALL)


def bare_scale(axes: "Axes", title: str) -> None:
    """Leave of small axes only the ticks below and a title at the left."""
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=2, width=0.5, pad=1.5, labelsize=6.5, color=INK, labelcolor=INK)
    axes.set_title(title, fontsize=6.5, color=INK, loc="left", pad=2)
