"""Maps to look at in a page, without a server: pan, zoom, swipe, values under the pointer.

    layers = [
        Layer("scene", "image", rgb_HW3, valid_HW, bounds),
        Layer("measured", "height", measured_HW, valid_HW, bounds),
        Layer("map", "height", height_HW, valid_HW, bounds),
        Layer("difference", "difference", height_HW - measured_HW, valid_HW, bounds),
    ]
    panel_page("scene.chm", layers, "EPSG:3338")        # a whole page, self-contained
    panel(layers, "EPSG:3338", "scene.chm")             # an element of somebody else's page, whose head has
    head_in_page()                                      # this once, and whose policy allows
    script_source()                                     # this script

The script is the project's own, not Bokeh's: a swipe would need Bokeh's callbacks, which are compiled from
strings and thus refused by a strict policy, its maps cannot be moved by keyboard, and it weighs a megabyte.
"""

import base64
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from rasterio.transform import from_bounds

from inference.maps.class_colours import MapClass
from inference.view.description import Bounds, Frame, Kind, coloured, of_classes
from inference.view.page import head_in_page, map_element, script_source, whole_page
from shards.draw.colours import ColourScale, Palette, difference_scale, height_scale
from shards.draw.content_policy import content_policy
from shards.raster.grid import Grid, known_crs

STEP = 0.01
"""Metres to which heights and differences are rounded, the smallest that anyone asks of a map."""
MOST_METRES = 327.0
"""Largest height or difference that a page holds; larger ones are shown as this."""
MISSING = -32768
"""Stored value where there is none."""
QUALITY = 85
"""Quality of images, in percent; WebP at this quality has a tenth of the bytes of a PNG."""


@dataclass(frozen=True)
class Layer:
    """Layer of a panel. Layers may differ in shape and bounds, but share one CRS, whose y goes north."""

    name: str
    """Short name, in the lists of layers and before its value."""
    kind: Kind
    values: NDArray[Any]
    """Metres (H, W) of heights and differences; red, green and blue (H, W, 3) of uint8 of an image; numbers
    (H, W) of classes. About 1,000 pixels a side are enough: a page holds them all."""
    valid_HW: NDArray[np.bool_]
    """Whether each pixel has a value; others are transparent. Values that are NaN count as missing, too."""
    bounds: Bounds
    """Left, bottom, right and top in units of the CRS."""
    classes: tuple[MapClass, ...] = ()
    """Classes that occur, with --kind classes."""


def panel(
    layers: Sequence[Layer],
    crs: str,
    label: str,
    palette: Palette = "continuous",
    alike: Sequence[Layer] = (),
) -> Markup:
    """Make an element that shows the layers; the page needs `head_in_page` once, and nothing from elsewhere.

    The first layer lies left of the border that the reader moves, the second one right of it. Each layer can
    be chosen for both sides, images also for below them, with the opacity of what lies above. All heights
    have the same colours, so that both sides can be compared; differences have symmetric ones. Of a
    Content-Security-Policy the script needs `script_source` in script-src, data: in img-src and
    'unsafe-inline' in style-src.

    Args:
        layers: one or more layers, in the order of the lists.
        crs: name of their CRS, such as EPSG:3338, or its WKT; in any units.
        label: name of the whole for those who do not see it.
        palette: colours of heights.
        alike: layers of all panels that are to have the same colours, these among them; default: these.

    Raises:
        InputError: there is no such CRS.
    """
    return map_element(describe(layers, crs, palette, alike), label)


def panel_page(title: str, layers: Sequence[Layer], crs: str, palette: Palette = "continuous") -> str:
    """Make a self-contained page that shows the layers, see `panel`."""
    element = map_element(describe(layers, crs, palette), title, is_alone=True)
    return whole_page(title, element, head_in_page(), content_policy(script_source()))


def describe(
    layers: Sequence[Layer], crs: str, palette: Palette = "continuous", alike: Sequence[Layer] = ()
) -> dict[str, Any]:
    """Describe the layers for the script, pixels included."""
    lefts, bottoms, rights, tops = zip(*(layer.bounds for layer in layers), strict=True)
    bounds = min(lefts), min(bottoms), max(rights), max(tops)
    rows, columns = layers[0].values.shape[:2]
    grid = Grid(known_crs("crs", crs), from_bounds(*bounds, columns, rows), rows, columns)
    frame = Frame(grid)
    # Each pixel counts once, so that all panels have the same colours.
    every = alike or layers
    scales = {
        "height": height_scale(_all_values(every, "height"), palette),
        "difference": difference_scale(_all_values(every, "difference")),
    }
    return {
        **frame.describe(),
        "layers": [_describe(layer, frame, scales) for layer in layers],
        "shown": {"left": 0, "right": min(1, len(layers) - 1), "below": None},
    }


def _describe(layer: Layer, frame: Frame, scales: dict[str, ColourScale]) -> dict[str, Any]:
    rows, columns = layer.values.shape[:2]
    about: dict[str, Any] = {
        "name": layer.name,
        "kind": layer.kind,
        "rect": frame.rect(layer.bounds),
        "width": columns,
        "height": rows,
    }
    if layer.kind == "image":
        return about | {"picture": _picture(layer)}
    if layer.kind == "classes":
        return about | of_classes(layer.classes) | {"step": 1, "data": _data(layer, 1.0)}
    data = {"step": STEP, "decimals": 2, "data": _data(layer, STEP)}
    return about | coloured(layer.kind, scales[layer.kind]) | data


def _all_values(layers: Sequence[Layer], kind: Kind) -> NDArray[np.float64]:
    values = [layer.values[_known(layer)].ravel() for layer in layers if layer.kind == kind]
    return np.concatenate([np.empty(0), *values])


def _known(layer: Layer) -> NDArray[np.bool_]:
    """Tell where there is a value: (H, W)."""
    return np.asarray(layer.valid_HW & np.isfinite(layer.values))


def _data(layer: Layer, step: float) -> str:
    """Pack numbers as int16, in steps, deflated, in base64."""
    known_HW = _known(layer)
    filled_HW = np.where(known_HW, layer.values, 0)
    if step != 1:
        filled_HW = np.rint(np.clip(filled_HW, -MOST_METRES, MOST_METRES) / step)
    stored_HW = np.where(known_HW, filled_HW, MISSING).astype("<i2")
    return base64.b64encode(zlib.compress(stored_HW.tobytes(), 9)).decode()


def _picture(layer: Layer) -> str:
    """Pack an image as a data URL, transparent where it has no value."""
    from matplotlib.image import imsave

    rgba_HW4 = np.dstack([layer.values, np.where(layer.valid_HW, 255, 0)]).astype(np.uint8)
    file = io.BytesIO()
    imsave(file, rgba_HW4, format="webp", pil_kwargs={"quality": QUALITY})
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
