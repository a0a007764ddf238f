"""An array as the pixels of a scene, and what about it does not fit the training."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.scenes.band_order import EXCHANGED
from inference.scenes.sample import array_sample
from inference.scenes.scene import BYTES
from inference.scenes.values import value_findings
from shards.errors import InputError
from shards.format.missing import missing_values
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from shards.raster.filled import FILLED
from shards.raster.finding import Finding
from shards.wording import Option, Words

HIDDEN = "make {} NaN, or hide them by a numpy mask"
"""What to do about pixels of an array that are not measured."""
NAME = "the array"
"""Name of an array in messages."""


def array_pixels(image: NDArray[Any], schema: Schema, may_be_tiles: bool = False) -> NDArray[Any]:
    """Return image_CHW as a scene of these pixels has them: of the schema's type, or else float32.

    NaN, infinity, the schema's nodata value and what a numpy mask hides are missing.

    Args:
        image: stored pixels, with the schema's bands in their order.
        schema: schema of the chips of training.
        may_be_tiles: whether image_BCHW will do, too.

    Raises:
        InputError: it has other axes or bands, or no numbers.
    """
    array = np.asanyarray(image)
    said = f"an array of {array.dtype} of shape {array.shape}"
    if array.dtype.kind not in "iuf":
        raise InputError(f"{said}: give pixels as numbers, {schema.dtype} as in training or floats")
    axes = (3, 4) if may_be_tiles else (3,)
    if array.ndim not in axes or array.shape[-3] != len(schema.bands) or not array.size:
        also = " or (tiles, bands, rows, columns)" if may_be_tiles else ""
        raise InputError(f"{said}: give (bands, rows, columns){also} with the bands {' '.join(schema.bands)}")
    if isinstance(array, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(array), np.nan, array.data).astype(np.float32)
    return array if array.dtype == schema.dtype else array.astype(np.float32)


def said_missing(image_CHW: NDArray[Any], schema: Schema) -> str:
    """Say which share of an array is missing, in which band, why, and what to do."""
    share_B = missing_values(image_CHW, schema.nodata).reshape(len(image_CHW), -1).mean(1)
    band = int(share_B.argmax())
    mark = "" if schema.nodata is None else f", {schema.nodata:g} (the nodata value of training)"
    return (
        f"{100 * share_B[band]:.3g} % of band {schema.bands[band]} is NaN, infinite{mark} or hidden by the "
        "numpy mask; give an array of measured pixels, or another number where that value was measured"
    )


def array_findings(
    image_CHW: NDArray[Any], schema: Schema, statistics: Statistics, given: str = ""
) -> dict[str, tuple[Finding, ...]]:
    """Compare the pixels of an array with the training, as those of a scene are; {} if they are alike.

    Args:
        image_CHW: pixels as `array_pixels` returns them.
        schema: schema of the chips of training.
        statistics: statistics of these chips.
        given: type of the array that was given.
    """
    are_bytes = given == BYTES != schema.dtype
    found = value_findings(array_sample(image_CHW, schema, are_bytes), schema, statistics)
    said = tuple(replace(one, cure=_cure(one, schema)) for one in found)
    return {NAME: said} if said else {}


def _cure(finding: Finding, schema: Schema) -> str:
    """Say what to do about an array: it has no options for nodata and names of bands, as a scene has."""
    if finding.code == FILLED:
        if finding.is_gross:
            return f"if so, give another; if a part is measured, {HIDDEN.format('the others')}"
        return f"if so, {HIDDEN.format('them')}"
    if finding.code == EXCHANGED and isinstance(finding.cure, Words):
        (named,) = (part.value for part in finding.cure.parts if isinstance(part, Option))
        if isinstance(named, tuple):
            return f"if so, order its bands: image[..., {[named.index(band) for band in schema.bands]}, :, :]"
    return finding.cure
