"""Picture of a map: heights coloured by the eight classes, a bar of the classes in metres, and a scale bar.

It is drawn from the map's overviews, whose pixels are means of valid pixels, so a map with overviews is never
read at full resolution.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import CRSError

from shards.draw.picture import (
    INK,
    PIXELS_PER_INCH,
    bare_scale,
    coloured_heights,
    draw_class_bar,
    new_figure,
    png,
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
_FRAME = "#bbbbbb"


def quick_look_url(map_url: str) -> str:
    """Return the URL of a map's quick look: SCENE.chm.png beside SCENE.chm.tif."""
    return map_url.removesuffix(name_of(map_url)) + stem_of(map_url) + ENDING


def write_quick_look(map_url: str) -> str:
    """Write the quick look of the map at `map_url` beside it, and return its URL."""
    url = quick_look_url(map_url)
    publish(url, quick_look(map_url))
    return url


def quick_look(map_url: str) -> bytes:
    """Draw the heights of the map at `map_url` as a PNG, at most MOST_PIXELS plus margins; nodata is white.

    The same map gives the same bytes.

    Raises:
        InputError: the map cannot be read.
    """
    with open_raster(map_url) as raster:
        height_HW = small_heights(raster, MOST_PIXELS)
        metres_per_pixel = pixel_metres(raster) * raster.width / height_HW.shape[1]
    squares = max(1, FEWEST_PIXELS // max(height_HW.shape))
    rgb_HW3 = coloured_heights(height_HW).repeat(squares, 0).repeat(squares, 1)
    return _drawn(rgb_HW3, stem_of(map_url), metres_per_pixel / squares)


def small_heights(raster: Any, most_pixels: int) -> NDArray[np.float32]:
    """Read means of an open map's valid heights, in metres, at most `most_pixels` a side; NaN where none."""
    shrink = max(1.0, max(raster.shape) / most_pixels)
    rows, columns = (max(1, round(side / shrink)) for side in raster.shape)
    stored = read_window(
        raster, indexes=1, out_shape=(rows, columns), resampling=Resampling.average, masked=True
    )
    height_HW: NDArray[np.float32] = stored.astype(np.float32).filled(np.nan) * np.float32(raster.scales[0])
    return height_HW


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


def _drawn(rgb_HW3: NDArray[np.uint8], title: str, metres_per_pixel: float) -> bytes:
    """Add title, colour bar and scale bar; each pixel of the picture is one pixel of the PNG."""
    high, wide = rgb_HW3.shape[:2]
    whole = np.array((max(wide, LEGEND_PIXELS) + 2 * _MARGIN, high + _TITLE + _FOOT))
    figure = new_figure(*(whole / PIXELS_PER_INCH))
    figure.set_layout_engine("none")  # places are in whole pixels, so that no pixel of the map is resampled

    def axes_at(left: int, bottom: int, size: tuple[int, int]) -> "Axes":
        return figure.add_axes((*np.divide((left, bottom), whole), *np.divide(size, whole)))

    picture = axes_at((whole[0] - wide) // 2, _FOOT, (wide, high))
    picture.imshow(rgb_HW3, interpolation="none", aspect="auto")
    picture.set(xticks=[], yticks=[])
    picture.spines[:].set(color=_FRAME, linewidth=0.5)
    style: dict[str, Any] = {"fontsize": 7.5, "color": INK, "parse_math": False}  # names may contain $
    figure.text(0.5, 1 - 10 / whole[1], title, ha="center", va="top", **style)
    draw_class_bar(axes_at(_MARGIN, _BAR_BOTTOM, (_CLASSES_WIDE, _BAR_HIGH)))
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
