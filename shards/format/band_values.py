"""The one definition of a pixel's value, for statistics and pictures: scale, offset, and derived bands.

`trainer.model.normalise` applies the same definition to tensors. A value is float32, NaN where it is missing.
`difference` tells whether the pixels of two datasets have the same meaning.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.missing import missing_values
from shards.format.schema import Schema


def values_of(image_BCHW: NDArray[Any], schema: Schema, bands: Sequence[str]) -> NDArray[np.float32]:
    """Return the values of the named bands from stored pixels, (..., bands, rows, columns) in and out.

    Raises:
        InputError: a band is neither stored nor derived.
    """
    return np.stack([values_of_band(image_BCHW, schema, band) for band in bands], axis=-3)


def values_of_band(image_BCHW: NDArray[Any], schema: Schema, band: str) -> NDArray[np.float32]:
    """Return the values of one band, (..., rows, columns).

    A derived band is missing where either of its two is.
    """
    derived = schema.derived_band(band)
    if derived is None:
        return _stored(image_BCHW, schema, band)
    first, second = (_stored(image_BCHW, schema, name) for name in (derived.first, derived.second))
    return first + np.float32(derived.factor) * second


def _stored(image_BCHW: NDArray[Any], schema: Schema, band: str) -> NDArray[np.float32]:
    stored_BHW = image_BCHW[..., schema.bands.index(band), :, :]
    missing_BHW = missing_values(stored_BHW, schema.nodata)
    scale, offset = map(np.float32, schema.scaling(band))
    with np.errstate(invalid="ignore", over="ignore"):  # of what is missing
        values_BHW = stored_BHW.astype(np.float32)
        if schema.is_scaled(band):
            values_BHW = values_BHW * scale + offset
    values_BHW[missing_BHW] = np.nan
    return values_BHW


def difference(found: Schema, expected: Schema) -> str:
    """Say how bands and values of `found` differ from the expected ones, to follow "chips"; "" if not.

    `found` need not know derived bands that are expected: they follow from stored ones. It must not know
    others of the same names.
    """
    lacking = [band for band in expected.bands if band not in found.bands]
    added = [band for band in found.bands if band not in expected.bands]
    if lacking or added:
        said = [
            f"{verb} band {' '.join(names)}" for verb, names in (("lack", lacking), ("have", added)) if names
        ]
        return " and ".join(said)
    if found.bands != expected.bands:
        return f"have the bands {' '.join(found.bands)}, not {' '.join(expected.bands)} in this order"
    if found.dtype != expected.dtype:
        return f"are {found.dtype}, not {expected.dtype}"
    for band in expected.bands:
        if found.scaling(band) != expected.scaling(band):
            return f"have band {band} with {said_scaling(found, band)}, not {said_scaling(expected, band)}"
    derived = {band.name: band for band in found.derived}
    for made in expected.derived:
        if derived.get(made.name, made) != made:
            return f"have band {derived[made.name]}, not {made}"
    return ""


def said_scaling(schema: Schema, band: str) -> str:
    """Say scale and offset of a stored band."""
    scale, offset = schema.scaling(band)
    return f"scale {scale:.7g} and offset {offset:.7g}"
