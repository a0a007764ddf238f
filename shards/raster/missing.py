"""What is missing in a raster: the one definition, for images, heights and masks of every command.

    marks = Missing.of(raster, numbers, nodata)
    stored_BHW, missing_BHW = marks.read(window)

A pixel of a band is missing where

- it has the band's own nodata value, or one that the user names (`--nodata`)
- the file's mask says so: an internal or external mask, for all bands or for the band
- an alpha band that is not read itself is 0
- a float is NaN, infinite, or beyond HUGE, which no instrument measures

`shards.format.missing` defines what is missing in an array, where marks are values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from shards.format.missing import NODATA as NODATA
from shards.format.missing import missing_values
from shards.raster.on_grid import read_on_grid
from shards.raster.opening import read_window

HUGE = 1e20
"""Floats beyond this stand for no measurement, declared or not: -3.4e38 (the lowest float32, of Esri and
GDAL), 9.97e36 (netCDF), 1e20 (CF conventions)."""


@dataclass(frozen=True)
class Missing:
    """Marks of missing pixels in the bands of an open raster that are read."""

    raster: Any
    numbers: tuple[int, ...]
    """Numbers, from 1, of the bands that are read."""
    values_B: tuple[tuple[float, ...], ...]
    """Values of each band that stand for nothing."""
    masked: tuple[int, ...]
    """Numbers of the bands that have masks of their own."""
    has_mask: bool
    """Whether there is one mask for all bands."""
    alphas: tuple[int, ...]
    """Numbers of the alpha bands."""

    @classmethod
    def of(cls, raster: Any, numbers: Sequence[int], nodata: float | None = None) -> "Missing":
        """Find the marks in a raster's header; `nodata` is one more value, of all bands."""
        named = () if nodata is None else (float(nodata),)
        values = tuple(
            (*(() if own is None else (float(own),)), *named)
            for own in (raster.nodatavals[number - 1] for number in numbers)
        )
        alphas = tuple(
            number
            for number, kind in enumerate(raster.colorinterp, 1)
            if kind == ColorInterp.alpha and number not in numbers
        )
        flags_B = [set(raster.mask_flag_enums[number - 1]) for number in numbers]
        no_mask = {MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha}
        has_mask = any(MaskFlags.per_dataset in flags and not flags & no_mask for flags in flags_B)
        masked = tuple(
            number
            for number, flags in zip(numbers, flags_B, strict=True)
            if not has_mask and not flags & no_mask
        )
        return cls(raster, tuple(numbers), values, masked, has_mask, alphas)

    @property
    def is_marked_apart(self) -> bool:
        """Tell whether a mask or alpha band marks pixels, whatever their values are."""
        return bool(self.masked or self.has_mask or self.alphas)

    def read(
        self, window: Window, shape: tuple[int, int] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read stored_BHW and missing_BHW of a window.

        Args:
            window: window of the raster.
            shape: rows and columns of an overview of it that is read instead.

        Raises:
            InputError: the raster's file is damaged.
        """
        stored_BHW = self._read(list(self.numbers), window, shape)
        return stored_BHW, self.missing(stored_BHW, window, shape)

    def read_all(self, windows: Sequence[Window]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read stored_BN and missing_BN of windows, one after the other, as `read` does, faster.

        Raises:
            InputError: the raster's file is damaged.
        """
        parts = [self._read(list(self.numbers), window, None) for window in windows]
        stored_BN = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        missing_BN = self._without_value(stored_BN)
        if self.is_marked_apart:
            start = 0
            for window, part in zip(windows, parts, strict=True):
                stop = start + part[0].size
                missing_BHW = missing_BN[:, start:stop].reshape(part.shape)
                self._add_marks(missing_BHW, window, None)
                missing_BN[:, start:stop] = missing_BHW.reshape(len(part), -1)
                start = stop
        return stored_BN, missing_BN

    def missing(
        self, stored_BHW: NDArray[Any], window: Window, shape: tuple[int, int] | None = None
    ) -> NDArray[np.bool_]:
        """Tell which stored values of a window, or of its overview, are missing."""
        missing_BHW = self._without_value(stored_BHW)
        self._add_marks(missing_BHW, window, shape)
        return missing_BHW

    def _without_value(self, stored_BHW: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell which values mean nothing; (bands, pixels) will do, too."""
        return np.stack(
            [of_band(band_HW, values) for band_HW, values in zip(stored_BHW, self.values_B, strict=True)]
        )

    def _add_marks(
        self, missing_BHW: NDArray[np.bool_], window: Window, shape: tuple[int, int] | None
    ) -> None:
        """Add what masks and alpha bands mark to the missing pixels."""
        if self.has_mask:
            missing_BHW |= self._mask(self.numbers[0], window, shape)
        for number in self.masked:
            missing_BHW[self.numbers.index(number)] |= self._mask(number, window, shape)
        for number in self.alphas:
            missing_BHW |= self._read(number, window, shape) == 0

    def _mask(self, number: int, window: Window, shape: tuple[int, int] | None) -> NDArray[np.bool_]:
        return np.asarray(self.raster.read_masks(number, window=window, out_shape=shape) == 0)

    def _read(self, bands: int | list[int], window: Window, shape: tuple[int, int] | None) -> NDArray[Any]:
        if shape is None:
            return read_on_grid(self.raster, bands, window)
        whole = shape if isinstance(bands, int) else (len(bands), *shape)
        return np.asarray(read_window(self.raster, indexes=bands, window=window, out_shape=whole))


def of_band(stored_HW: NDArray[Any], values: Sequence[float] = ()) -> NDArray[np.bool_]:
    """Tell which values of a band are missing, given the values that stand for nothing."""
    missing_HW = missing_values(stored_HW, None)
    if stored_HW.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            missing_HW |= np.abs(stored_HW) >= HUGE
    for value in values:
        # A float32 band that states -3.4028235e38 as text may hold a neighbour of it: HUGE has both.
        with np.errstate(over="ignore"):
            missing_HW |= stored_HW == value
    return missing_HW


def mark(
    stored_BHW: NDArray[Any],
    missing_BHW: NDArray[np.bool_],
    nodata: float | None,
    is_marked_apart: bool = False,
) -> NDArray[Any]:
    """Give missing pixels the value by which `shards.format.missing` knows them; `stored_BHW` may change.

    Args:
        stored_BHW: pixels as read.
        missing_BHW: which of them are missing.
        nodata: value of missing pixels. Where whole numbers cannot have it, they become floats, and NaN.
        is_marked_apart: whether masks mark pixels, so that `nodata` may be a measured value, too: it becomes
            the next one, as in gdalwarp.
    """
    known_BHW, dtype = missing_values(stored_BHW, nodata), stored_BHW.dtype
    if is_marked_apart and nodata is not None and dtype.kind != "f" and _holds(dtype, nodata):
        next_one = nodata - 1 if nodata == np.iinfo(dtype).max else nodata + 1
        stored_BHW[known_BHW & ~missing_BHW] = next_one
    left_BHW = missing_BHW & ~known_BHW
    if not left_BHW.any():
        return stored_BHW
    value = nodata if nodata is not None and _holds(dtype, nodata) else np.nan
    if np.isnan(value):
        stored_BHW = stored_BHW.astype(np.float32, copy=False)
    stored_BHW[left_BHW] = value
    return stored_BHW


def _holds(dtype: np.dtype[Any], number: float) -> bool:
    """Tell whether pixels of this type can have this value: bytes cannot be -9999, the default nodata."""
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return number == int(number) and limits.min <= number <= limits.max


def nodata_to_store(raster: Any, numbers: Sequence[int], nodata: float | None) -> float | None:
    """Choose the value of missing pixels in a dataset that is made of this raster.

    It is what the raster declares or the user names, None if it is NaN or if nothing marks pixels; where a
    mask marks them, -9999, or 0 where bytes or unsigned numbers hold no -9999.
    """
    dtype = np.dtype(raster.dtypes[numbers[0] - 1])
    marks = Missing.of(raster, numbers, nodata)
    for value in chain.from_iterable(marks.values_B):
        if not math.isnan(value):
            return value if dtype.kind == "f" else int(value)
    if not marks.is_marked_apart or dtype.kind == "f":
        return None
    return NODATA if dtype.kind == "i" else 0
