"""The check whether a chip is fit to learn from: arrays in; the chip's arrays, or why it is rejected, out."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.config import IngestConfig
from shards.errors import InputError
from shards.format.histogram import HEIGHT
from shards.format.missing import NODATA, missing_pixels, missing_values
from shards.format.schema import Schema

HEIGHT_NODATA = float(NODATA)
"""Value that marks missing heights in this field's rasters and chips, besides NaN."""

LEAST_SAID = 0.001
"""Least share of missing pixels that is written as a number."""
INCOMPLETE = "incomplete"
NO_HEIGHT = "no positive height"
UNREADABLE = "unreadable"
WRONG_DTYPE = "wrong dtype"
WRONG_SHAPE = "wrong shape"
UNKNOWN_CLASS = "unknown class"
TOO_LOW = "too low"
NO_DATE, OUT_OF_SEASON, NOT_IN_TIME = "no date", "out of season", "no height raster in time"
NO_MASK, NO_KEY = "no mask", "no key"
"""Reasons that more than one module names, as those above."""


class Rejected(Exception):
    """A chip that is not kept. `reason` is one of a few, for counting; `detail` says what was found."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Rules:
    """Conditions that a chip must meet to be kept."""

    min_valid: float = IngestConfig.min_valid
    """Least share (0..1) of its pixels that have every band and a label."""
    min_height: float | None = IngestConfig.min_height
    """Value that its highest label must exceed, in the label's unit; None disables."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_valid <= 1:
            raise InputError(f"--min-valid {self.min_valid:g}: give a share from 0 to 1")


def checked(
    image: NDArray[Any], height: NDArray[Any] | None, schema: Schema, rules: Rules
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Check a chip; return its image (bands, rows, columns) and label (rows, columns).

    The image has its stored type, the label is float32. Missing labels and missing pixels of floats are NaN.

    Raises:
        Rejected: wrong type or shape, too few pixels with a measurement, no label above the least one, or a
            class without a name.
    """
    image_CHW = _with_nan(_as_stored(image, schema), schema)
    height_HW, highest = _as_label(height, schema)
    image_missing_HW = missing_pixels(image_CHW, schema.nodata)
    if image_missing_HW is not None or math.isnan(highest):
        height_missing_HW = np.isnan(height_HW)
        _check_valid(image_missing_HW, height_missing_HW, schema.label, rules)
        highest = float(height_HW[~height_missing_HW].max(initial=-math.inf))
    if schema.class_names:
        _check_classes(height_HW, schema)
    elif schema.label and rules.min_height is not None and not highest > rules.min_height:
        if schema.label == HEIGHT and rules.min_height == 0:
            raise Rejected(NO_HEIGHT)
        raise Rejected(TOO_LOW, f"no {schema.label} above {rules.min_height:g} {schema.label_unit}".rstrip())
    return image_CHW, height_HW


def _as_stored(image: NDArray[Any], schema: Schema) -> NDArray[Any]:
    if image.dtype != np.dtype(schema.dtype):
        raise Rejected(WRONG_DTYPE, f"image is {image.dtype}, not {schema.dtype}")
    image = bands_first(image, schema)
    if image.shape != schema.image_shape:
        raise Rejected(WRONG_SHAPE, f"image is {image.shape}, not {schema.image_shape}")
    return np.ascontiguousarray(image)


def bands_first(image: NDArray[Any], schema: Schema) -> NDArray[Any]:
    """Bring (rows, columns, bands), or one band alone, to (bands, rows, columns); keep any other shape."""
    bands, rows, columns = schema.image_shape
    if image.shape == (rows, columns) and bands == 1:
        return image[None]
    if image.shape == (rows, columns, bands) != schema.image_shape:
        return image.transpose(2, 0, 1)
    return image


def _with_nan(image_CHW: NDArray[Any], schema: Schema) -> NDArray[Any]:
    """Mark every missing pixel of floats by NaN; return whole numbers as they are."""
    if image_CHW.dtype.kind != "f":
        return image_CHW
    missing_CHW = missing_values(image_CHW, schema.nodata)
    return np.where(missing_CHW, np.float32(np.nan), image_CHW) if missing_CHW.any() else image_CHW


def _as_label(height: NDArray[Any] | None, schema: Schema) -> tuple[NDArray[np.float32], float]:
    """Return the label with NaN where it is missing, and its highest value (NaN if any is missing)."""
    if not schema.label:
        return np.empty(schema.label_shape, np.float32), -math.inf
    if height is None:
        raise Rejected("missing partner", f"no {schema.label}")
    if height.dtype.kind not in "fiu":
        raise Rejected(WRONG_DTYPE, f"{schema.label} is {height.dtype}, not a number")
    if height.shape in ((1, *schema.label_shape), (*schema.label_shape, 1)):
        height = height.reshape(schema.label_shape)
    if height.shape != schema.label_shape:
        raise Rejected(WRONG_SHAPE, f"{schema.label} is {height.shape}, not {schema.label_shape}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and so counts as missing
        height_HW = np.ascontiguousarray(height, np.float32)
    # NaN would become an extreme, so the two extremes show in half the time that nothing is missing.
    highest = float(height_HW.max())
    if height_HW.min() > max(HEIGHT_NODATA, schema.nodata or HEIGHT_NODATA) and highest < math.inf:
        return height_HW, highest
    missing_HW = missing_heights(height_HW, schema.nodata)
    # One mark for all that is missing.
    if not missing_HW.any():
        return height_HW, highest
    return np.where(missing_HW, np.float32(np.nan), height_HW), math.nan


def missing_heights(height_HW: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Tell where heights are missing: not finite, HEIGHT_NODATA, or the image's `nodata`."""
    missing_HW = missing_values(height_HW, HEIGHT_NODATA)
    return missing_HW | (height_HW == nodata) if nodata else missing_HW  # 0 is a height


def _check_classes(height_HW: NDArray[np.float32], schema: Schema) -> None:
    """Reject a chip with a class that has no name."""
    value_N = height_HW[~np.isnan(height_HW)]
    unknown_N = value_N[~np.isin(value_N, [number for number, _ in schema.class_names])]
    if unknown_N.size:
        share = unknown_N.size / height_HW.size
        raise Rejected(UNKNOWN_CLASS, f"{schema.label} is {unknown_N[0]:g}, and {share:.1%} have no name")


def _check_valid(
    image_missing_HW: NDArray[np.bool_] | None,
    height_missing_HW: NDArray[np.bool_],
    label: str,
    rules: Rules,
) -> None:
    """Reject a chip that misses too many pixels."""
    if image_missing_HW is None:
        missing_HW = height_missing_HW
    elif height_missing_HW.size:
        missing_HW = image_missing_HW | height_missing_HW
    else:
        missing_HW = image_missing_HW
    # Divided once, because the given share was rounded once: 1 - 0.8 is less than 0.2.
    if np.count_nonzero(~missing_HW) / missing_HW.size >= rules.min_valid:
        return
    parts = [("image", image_missing_HW), (label, height_missing_HW)]
    said = [
        f"{_said_share(part.mean())} of {name}" for name, part in parts if part is not None and part.any()
    ]
    raise Rejected(INCOMPLETE, f"{' and '.join(said)} missing")


def _said_share(share: float) -> str:
    """Write a share above 0, which may be too small for one decimal."""
    return f"{share:.1%}" if share >= LEAST_SAID else f"less than {LEAST_SAID:.1%}"
