"""Chips and maps as pictures: near infrared-red-green composites, heights in the eight classes."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.height_classes import COLOURS, EDGES, NAMES
from shards.missing import missing_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMPOSITE_BANDS = ("nir", "red", "green")
BLANK = 255
STRETCH = (2.0, 98.0)
"""Percentiles of a picture's own pixels that become dark and bright."""


def composite(image_CHW: NDArray[Any], bands: tuple[str, ...], nodata: float | None) -> NDArray[np.uint8]:
    """RGB (rows, columns, 3) of near infrared, red, green (or the first bands there are); nodata is white."""
    chosen = [band for band in COMPOSITE_BANDS if band in bands]
    chosen = chosen if len(chosen) == 3 else [*bands, *bands, *bands][:3]
    rgb_HW3 = np.stack([image_CHW[bands.index(band)] for band in chosen], axis=-1).astype(np.float32)
    missing_HW = missing_values(rgb_HW3, nodata).any(-1)
    if missing_HW.all():
        return np.full(rgb_HW3.shape, BLANK, np.uint8)
    low_3, high_3 = np.percentile(rgb_HW3[~missing_HW], STRETCH, axis=0)
    scaled_HW3 = np.clip((rgb_HW3 - low_3) / np.maximum(high_3 - low_3, 1e-6), 0, 1)
    scaled_HW3[missing_HW] = 1
    return np.asarray(scaled_HW3 * BLANK, np.uint8)


def coloured_heights(height_HW: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """RGB (rows, columns, 3) of heights in metres, by class; NaN is white."""
    palette_K3 = np.array(
        [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS] + [[BLANK] * 3], np.uint8
    )
    class_HW = np.searchsorted(EDGES[1:-1], height_HW, side="right")
    class_HW[np.isnan(height_HW)] = len(COLOURS)
    return palette_K3[class_HW]


def draw_classes(figure: "Figure") -> None:
    """A legend of the height classes at the figure's foot."""
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=name) for colour, name in zip(COLOURS, NAMES, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=8)


def show(axes: "Axes", rgb_HW3: NDArray[np.uint8], title: str) -> None:
    """Draw a picture without axes, pixel by pixel."""
    axes.imshow(rgb_HW3, interpolation="nearest")
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of inches; drawn without a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(figure: "Figure") -> bytes:
    """The figure as a PNG; the same figure gives the same bytes."""
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
