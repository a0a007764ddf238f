"""Whether a band that is taken for a measured one only marks pixels, as alpha bands and masks do.

finding = mask_as_band(raster, named, wanted)

GDAL calls a fourth band of bytes alpha unless told otherwise, and other programs write masks without saying
so. Such a band may be taken as nir, by its place alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from shards.raster.band_names import ALPHA, COLOURS, NamedBands
from shards.raster.few_windows import few_windows
from shards.raster.finding import Finding
from shards.raster.gdal_advice import declare_alpha
from shards.raster.opening import read_window
from shards.wording import Option, Words

WINDOWS = 25
"""Most windows that are read; the first with any other value ends it, and that is nearly always the first."""
DTYPES = ("uint8", "uint16")
"""Types of pixels that masks have."""


def mask_as_band(raster: Any, named: NamedBands, wanted: Sequence[str]) -> Finding | None:
    """Find that the last band, whose name is assumed, holds nothing but 0 and 1, or 0 and the largest value.

    Args:
        raster: an open raster.
        named: names of its bands.
        wanted: names of the bands that are read.

    Raises:
        InputError: its file is damaged.
    """
    *others, name = named.names
    kind, dtype = raster.colorinterp[-1], raster.dtypes[-1]
    is_read = name != ALPHA and name in wanted
    if not named.assumed or not others or not is_read or kind.name in COLOURS or dtype not in DTYPES:
        return None
    held = set[int]()
    for window in few_windows((0, 0, raster.height, raster.width), WINDOWS):
        held |= set(np.unique(read_window(raster, indexes=raster.count, window=window)).tolist())
        marks = held - {0}
        if len(marks) > 1 or not marks <= {1, int(np.iinfo(dtype).max)}:
            return None
    if not marks:  # nothing but 0 may be a corner without pixels
        return None
    line = f"band {raster.count}, taken as {name}, has only 0 and {marks.pop()}; is it a mask or alpha?"
    kinds = [kind.name for kind in raster.colorinterp]
    declare = "" if kind == ColorInterp.alpha else f"declare it ({declare_alpha(kinds)}) and "
    left = Option("bands", tuple(others))
    all_names = " ".join(named.names)
    cure = Words(f"if so, {declare}name the other bands (", left, f"), if not all ({all_names})")
    return Finding("alpha", line, cure, is_gross=True)
