"""Picture of a map: heights, classes of pixels or labels of tiles in colours, their legend, and a scale bar.

It is drawn from the map's overviews, whose pixels are means of valid pixels (for classes, the most frequent
one), so a map with overviews is never read at full resolution.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import CRSError

from inference.maps.class_colours import MapClass
from inference.maps.map_file import CLASSES_TAG, classes_of
from shards.draw.colours import Palette, height_scale
from shards.draw.picture import (
    BLANK,
    EDGE,
    INK,
    PIXELS_PER_INCH,
    bare_scale,
    colour_limits,
    coloured_values,
    draw_height_bar,
    drawable,
    new_figure,
    png,
    shortened,
)
from shards.raster.opening import open_raster, read_window
from shards.storage.objects import name_of, publish, stem_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENDING = ".png"
MOST_PIXELS = 1024
"""Most pixels along the longer side of the map's picture."""
FEWEST_PIXELS = 512
"""Approximate length of that side for a smaller map, in pixels; each pixel of the map is then a square."""
LEGEND_PIXELS = 480
"""Least width of the picture, in pixels, which the bars below the map need."""
METRES_PER_DEGREE = 40_030_000 / 360
"""Length of a degree of latitude, on a sphere with the Earth's mean radius (6,371 km)."""

_MARGIN, _TITLE, _FOOT = 16, 30, 58
_BAR_BOTTOM, _BAR_HIGH = 30, 11
_CLASSES_WIDE, _SCALE_WIDE = 280, 160
_PATCHES, _PATCH_HIGH, _MOST_PATCHES = 3, 15, 60
_FRAME = "#bbbbbb"


def quick_look_url(map_url: str) -> str:
    """Return the URL of a map's quick look: SCENE.chm.png beside SCENE.chm.tif."""
    return map_url.removesuffix(name_of(map_url)) + stem_of(map_url) + ENDING


def write_quick_look(map_url: str, palette: Palette = "continuous") -> str:
    """Write the quick look of the map at `map_url` beside it, and return its URL."""
    url = quick_look_url(map_url)
    publish(url, quick_look(map_url, palette))
    return url


def quick_look(map_url: str, palette: Palette = "continuous") -> bytes:
    """Draw the map at `map_url` as a PNG, at most MOST_PIXELS plus margins and legend.

    Pixels without a height are grey, as the legend says; in maps of classes and numbers they are white.
    The same map gives the same bytes.

    Raises:
        InputError: the map cannot be read.
    """
    with open_raster(map_url) as raster:
        rgb_HW3, legend = _coloured(raster, palette)
        metres_per_pixel = pixel_metres(raster) * raster.width / rgb_HW3.shape[1]
    squares = max(1, FEWEST_PIXELS // max(rgb_HW3.shape))
    rgb_HW3 = rgb_HW3.repeat(squares, 0).repeat(squares, 1)
    return _drawn(rgb_HW3, stem_of(map_url), metres_per_pixel / squares, legend)


@dataclass(frozen=True)
class Legend:
    """Explanation of a picture's colours."""

    draw: Callable[["Axes"], None] | None = None
    """Function that fills small axes with a bar of colours."""
    classes: tuple[MapClass, ...] = ()
    """Classes, each with a patch of its colour; there is no bar then."""

    @property
    def lines(self) -> int:
        """Lines of patches."""
        return -(-len(self.classes) // _PATCHES)


def _coloured(raster: Any, palette: Palette) -> tuple[NDArray[np.uint8], Legend]:
    """Read an open map in at most MOST_PIXELS a side: rgb_HW3, and what its colours mean."""
    if CLASSES_TAG in raster.tags():
        return _coloured_classes(raster)
    value_HW = small_heights(raster, MOST_PIXELS)
    if raster.dtypes[0] == "int16":
        scale = height_scale(value_HW, palette)
        return scale.rgb(value_HW), Legend(lambda axes: draw_height_bar(axes, scale))
    limits, name = colour_limits(value_HW), f"{raster.descriptions[0]} {raster.units[0] or ''}".strip()
    return coloured_values(value_HW, limits), Legend(lambda axes: _draw_values(axes, limits, name))


def _coloured_classes(raster: Any) -> tuple[NDArray[np.uint8], Legend]:
    """Read an open map of classes in its own colours; the legend has the classes that occur."""
    classes = {one.number: one for one in classes_of(raster)}
    stored = read_window(
        raster,
        indexes=1,
        out_shape=_small_shape(raster, MOST_PIXELS),
        resampling=Resampling.mode,
        masked=True,
    )
    palette_K3 = np.full((256, 3), BLANK, np.uint8)
    for number, one in classes.items():
        palette_K3[number] = one.colour
    rgb_HW3 = palette_K3[stored.data]
    rgb_HW3[np.ma.getmaskarray(stored)] = BLANK
    there = sorted(set(np.unique(stored.compressed()).tolist()) & classes.keys())[:_MOST_PATCHES]
    return rgb_HW3, Legend(None, tuple(classes[number] for number in there))


def _draw_values(axes: "Axes", limits: tuple[float, float], name: str) -> None:
    """Fill small axes with the scale of `coloured_values`."""
    low, high = limits
    scale_1W = np.linspace(low, high, 256)[None]
    axes.imshow(coloured_values(scale_1W, limits), extent=(low, high, 0, 1), aspect="auto")
    axes.set_xticks([low, high], [f"{low:.3g}", f"{high:.3g}"])
    bare_scale(axes, drawable(name))


def _draw_patches(axes: "Axes", classes: tuple[MapClass, ...]) -> None:
    """Fill wide axes with a patch and the name of each class, line by line."""
    lines = -(-len(classes) // _PATCHES)
    axes.set(xlim=(0, _PATCHES), ylim=(lines, 0))
    axes.set_axis_off()
    for place, one in enumerate(classes):
        line, column = divmod(place, _PATCHES)
        colour = tuple(part / 255 for part in one.colour)
        axes.barh(line + 0.5, 0.1, height=0.7, left=column, color=colour, edgecolor=EDGE, linewidth=0.3)
        text = drawable(shortened(one.name))
        axes.text(column + 0.14, line + 0.5, text, va="center", fontsize=6.5, color=INK)


def small_heights(raster: Any, most_pixels: int) -> NDArray[np.float32]:
    """Read means of an open map's valid heights, in metres, at most `most_pixels` a side; NaN where none."""
    shape = _small_shape(raster, most_pixels)
    stored = read_window(raster, indexes=1, out_shape=shape, resampling=Resampling.average, masked=True)
    height_HW: NDArray[np.float32] = stored.astype(np.float32).filled(np.nan) * np.float32(raster.scales[0])
    return height_HW


def _small_shape(raster: Any, most_pixels: int) -> tuple[int, int]:
    """Return rows and columns of an open raster in at most `most_pixels` a side."""
    shrink = max(1.0, max(raster.shape) / most_pixels)
    rows, columns = (max(1, round(side / shrink)) for side in raster.shape)
    return rows, columns


def pixel_metres(raster: Any) -> float:
    """Return the width on the ground, in metres, of a pixel in the middle row of an open raster."""
    transform = raster.transform
    width = math.hypot(transform.a, transform.d)
    if raster.crs.is_geographic:
        latitude = (raster.bounds.top + raster.bounds.bottom) / 2
        return width * METRES_PER_DEGREE * math.cos(math.radians(latitude))
    try:
        return width * float(raster.crs.linear_units_factor[1])
    except CRSError:  # units unknown: projected CRSs nearly always use metres
        return width


def _drawn(rgb_HW3: NDArray[np.uint8], title: str, metres_per_pixel: float, legend: Legend) -> bytes:
    """Add title, legend and scale bar; each pixel of the picture is one pixel of the PNG."""
    high, wide = rgb_HW3.shape[:2]
    patches_high = legend.lines * _PATCH_HIGH
    foot = _FOOT + patches_high
    whole = np.array((max(wide, LEGEND_PIXELS) + 2 * _MARGIN, high + _TITLE + foot))
    figure = new_figure(*(whole / PIXELS_PER_INCH))
    figure.set_layout_engine("none")  # places are in whole pixels, so that no pixel of the map is resampled

    def axes_at(left: int, bottom: int, size: tuple[int, int]) -> "Axes":
        return figure.add_axes((*np.divide((left, bottom), whole), *np.divide(size, whole)))

    picture = axes_at((whole[0] - wide) // 2, foot, (wide, high))
    picture.imshow(rgb_HW3, interpolation="none", aspect="auto")
    picture.set(xticks=[], yticks=[])
    picture.spines[:].set(color=_FRAME, linewidth=0.5)
    style: dict[str, Any] = {"fontsize": 7.5, "color": INK, "parse_math": False}  # names may contain $
    figure.text(0.5, 1 - 10 / whole[1], title, ha="center", va="top", **style)
    if legend.draw:
        legend.draw(axes_at(_MARGIN, _BAR_BOTTOM, (_CLASSES_WIDE, _BAR_HIGH)))
    if legend.classes:
        patches = axes_at(_MARGIN, _FOOT - _MARGIN // 2, (int(whole[0]) - 2 * _MARGIN, patches_high))
        _draw_patches(patches, legend.classes)
    scale = axes_at(whole[0] - 2 * _MARGIN - _SCALE_WIDE, _BAR_BOTTOM, (_SCALE_WIDE, _BAR_HIGH))
    _draw_scale(scale, _SCALE_WIDE * metres_per_pixel)
    return png(figure)


def _draw_scale(axes: "Axes", metres: float) -> None:
    """Draw a bar of a round length at the right of axes that are `metres` wide."""
    length = _round_length(metres)
    axes.set(xlim=(length - metres, length), ylim=(0, 1))
    axes.barh(0.25, length, height=0.5, color=INK)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.set_xticks([0, length], ["0", text])
    bare_scale(axes, "")


def _round_length(most: float) -> float:
    """Return the largest of 1, 2, 5, 10, 20, ... that is at most `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most)
