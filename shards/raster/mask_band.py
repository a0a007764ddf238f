"""Whether a band that is taken for a measured one only marks pixels, as alpha bands and masks do.

finding = mask_as_band(named, marks, "")

GDAL calls a fourth band of bytes alpha unless told otherwise, and other programs write masks of any type
without saying so. Such a band may be taken as nir, by its place alone.
"""

import numpy as np
from rasterio.enums import ColorInterp

from shards.raster.band_names import COLOURS, NamedBands
from shards.raster.few_windows import few_windows
from shards.raster.finding import Finding
from shards.raster.gdal_advice import declare_alpha
from shards.raster.missing import Missing
from shards.wording import Option, Words

WINDOWS = 25
"""Most windows that are read; reading ends once all bands have more than two values: mostly at the first."""
FEW, MANY = 2, 16
"""Most different values of a mask, and least of a measured band. At least half of the bands must have MANY:
where all have few, the image is flat, and none stands out."""
NEEDED = "if so, it lacks {band} and cannot be used with this model"
"""What to do about a mask in the place of a band that a model needs."""


def mask_as_band(named: NamedBands, marks: Missing, needed: str = "") -> Finding | None:
    """Find a band with an assumed name that has at most two values where the others have many.

    Pixels count that have all bands.

    Args:
        named: names of the raster's bands.
        marks: the bands that are read, and their missing pixels.
        needed: what follows if the band is a mask, where it cannot be left out.

    Raises:
        InputError: the raster's file is damaged.
    """
    raster, numbers = marks.raster, marks.numbers
    kinds = [kind.name for kind in raster.colorinterp]
    unsure = [place for place, number in enumerate(numbers) if kinds[number - 1] not in COLOURS]
    if not named.assumed or not unsure:
        return None
    held = [set[float]() for _ in numbers]
    for window in few_windows((0, 0, raster.height, raster.width), WINDOWS):
        stored_BHW, missing_BHW = marks.read(window)
        stored_BN = stored_BHW[:, ~missing_BHW.any(0)]
        for values, stored_N in zip(held, stored_BN, strict=True):
            if len(values) < MANY:
                values.update(np.unique(stored_N).tolist())
        if all(len(held[place]) > FEW for place in unsure):
            return None
    few = [place for place in unsure if 0 < len(held[place]) <= FEW]
    if not few or 2 * sum(len(values) >= MANY for values in held) < len(held):
        return None
    values, number = held[few[-1]], numbers[few[-1]]
    band, others = named.names[number - 1], tuple(np.delete(named.names, number - 1).tolist())
    has = " and ".join(f"{value:.7g}" for value in sorted(values))
    line = f"band {number}, taken as {band}, has only {has}; is it a mask or alpha?"
    if needed:
        cure = Words(needed.format(band=band), "; if not, give ", Option("bands", named.names))
    else:
        is_declared = raster.colorinterp[number - 1] == ColorInterp.alpha
        declare = "" if is_declared else f"declare it ({declare_alpha(kinds, number)}) and "
        left, all_names = Option("bands", others), " ".join(named.names)
        cure = Words(f"if so, {declare}name the other bands (", left, f"), if not all ({all_names})")
    return Finding("alpha", line, cure, is_gross=True)
