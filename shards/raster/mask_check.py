"""What is strange about a mask of clouds or quality: several bands, or no pixel that would be dropped."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from shards.raster.few_windows import few_windows
from shards.raster.finding import Finding
from shards.raster.gdal_advice import take_band
from shards.raster.opening import read_window

WINDOWS = 9
"""Windows of a mask that are looked at."""
NAMED = 8
"""Most values that are named."""


def mask_findings(raster: Any, drop: Sequence[int]) -> list[Finding]:
    """Look at the header of an open mask and at a few of its pixels; without a word if all of them are 0.

    Raises:
        InputError: its file is damaged.
    """
    found = list[Finding]()
    bands = sum(kind != ColorInterp.alpha for kind in raster.colorinterp)
    if bands > 1:
        line = f"has {bands} bands, of which the first is the mask"
        cure = f"if that is another one, or says what is clear, choose it first ({take_band('N')})"
        found.append(Finding("mask", line, cure))
    windows = few_windows((0, 0, raster.height, raster.width), WINDOWS)
    values = {
        value for window in windows for value in np.unique(read_window(raster, indexes=1, window=window))
    }
    others = sorted(values - {0, raster.nodata})
    if others and not values & set(drop):
        asked, held = (" ".join(f"{value:g}" for value in some) for some in (drop, others[:NAMED]))
        line = f"has no value of --mask-drop {asked} in the pixels looked at, which hold {held}"
        found.append(Finding("mask values", line, "if these are clouds, give them to --mask-drop"))
    return found
