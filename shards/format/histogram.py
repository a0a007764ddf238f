"""Counts of each value: whole numbers exactly, float32 in narrow bins. Adding is exact in any order.

A level is a whole number that stands for a value:

- an integer pixel is its own level
- the level of a height is its centimetres
- the level of a float32 is made of its sign and the first 18 bits of exponent and mantissa

So levels have the order of the values. The middle of a float32 bin differs from any value in it by at most
SKETCH_ERROR of that value (IEEE 754: 10 of the 23 mantissa bits are kept); below 1.2e-38, in IEEE's subnormal
range, by at most 1.2e-41.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.missing import missing_values

DROPPED_BITS = 13
SKETCH_ERROR = 2.0**-11
"""Largest relative error of a float32 value: 0.05 %."""
HEIGHT = "height"
"""Label that is counted in centimetres."""
CM_PER_M = 100.0
HIGHEST_CENTIMETRES = 32767
"""Limit of counted heights. Those beyond +-327 m are counted at the limit: no plant is that tall."""

PIECE = 1 << 16
"""Values counted at a time. Measured: they stay in a core's cache."""


@dataclass(frozen=True)
class Histogram:
    """Counts of the levels first, first + 1, ... in counts_L; no other level occurs."""

    first: int
    counts_L: NDArray[np.int64]

    @classmethod
    def empty(cls) -> "Histogram":
        """Make a histogram that has counted nothing."""
        return cls(0, np.zeros(0, np.int64))

    @classmethod
    def of_levels(cls, levels: NDArray[Any]) -> "Histogram":
        """Count whole numbers in an array of any shape."""
        flat = levels.reshape(-1)
        total = cls.empty()
        for start in range(0, flat.size, PIECE):
            piece = flat[start : start + PIECE].astype(np.intp)
            first = int(piece.min())
            piece -= first
            total += cls(first, np.bincount(piece).astype(np.int64, copy=False))
        return total

    def __add__(self, other: "Histogram") -> "Histogram":
        if not other.counts_L.size:
            return self
        if not self.counts_L.size:
            return other
        first = min(self.first, other.first)
        end = max(self.first + self.counts_L.size, other.first + other.counts_L.size)
        counts_L = np.zeros(end - first, np.int64)
        for part in (self, other):
            start = part.first - first
            counts_L[start : start + part.counts_L.size] += part.counts_L
        return Histogram(first, counts_L)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and all(map(np.array_equal, self._present(), other._present()))

    def __hash__(self) -> int:
        raise TypeError("a histogram cannot be a key: it has no hash")

    def _present(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the levels that occur, ascending, and their counts."""
        places = np.flatnonzero(self.counts_L)
        return places + self.first, self.counts_L[places]

    def trimmed(self) -> "Histogram":
        """Cut levels that never occur off both ends, so that equal histograms have equal bytes."""
        levels, _ = self._present()
        if not levels.size:
            return Histogram.empty()
        return Histogram(int(levels[0]), self.counts_L[levels[0] - self.first : levels[-1] - self.first + 1])

    def pixels(self, dtype: str, nodata: float | None) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the values that occur in a band of `dtype`, ascending, and their counts, without nodata.

        For float32, the whole bin of nodata is left out.
        """
        levels, counts = self._present()
        values = float_values(levels) if dtype == "float32" else levels.astype(np.float64)
        if nodata is None:
            return values, counts
        missing = int(float_levels(np.array([nodata], np.float32))[0]) if dtype == "float32" else nodata
        return values[levels != missing], counts[levels != missing]

    def labels(self, label: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the heights in metres, or values of another label, that occur, ascending, and counts."""
        if label != HEIGHT:
            return self.pixels("float32", None)
        levels, counts = self._present()
        return levels / CM_PER_M, counts


def count_pixels(values: NDArray[Any]) -> Histogram:
    """Count stored pixels in an array of any shape, without NaN and infinity."""
    if values.dtype.kind == "f":
        present = values[~missing_values(values, None)]
        return Histogram.of_levels(float_levels(present.astype(np.float32, copy=False)))
    if values.dtype.kind == "i" and values.dtype.itemsize <= 2 and values.size:
        return _count_signed(values)
    return Histogram.of_levels(values)


def _count_signed(values: NDArray[Any]) -> Histogram:
    """Count small signed integers. Seen as unsigned they need no shift: those below 0 come at the end."""
    unsigned = np.ascontiguousarray(values).reshape(-1).view(f"u{values.dtype.itemsize}")
    half = 1 << (8 * values.dtype.itemsize - 1)
    counts_L = np.bincount(unsigned).astype(np.int64, copy=False)
    return (Histogram(0, counts_L[:half]) + Histogram(-half, counts_L[half:])).trimmed()


def count_labels(values: NDArray[np.float32], label: str) -> Histogram:
    """Count labels in an array of any shape, without NaN: heights by the centimetre, others like pixels."""
    return _count_heights(values) if label == HEIGHT else count_pixels(values)


def _count_heights(metres: NDArray[np.float32]) -> Histogram:
    if not metres.size:
        return Histogram.empty()
    # Minimum and maximum show, in a fraction of the time, that nothing is missing or out of range.
    lowest, highest = float(metres.min()), float(metres.max())
    if not -HIGHEST_CENTIMETRES / CM_PER_M < lowest <= highest < HIGHEST_CENTIMETRES / CM_PER_M:
        metres = metres[np.isfinite(metres)]
    centimetres = metres.reshape(-1).astype(np.float64)
    centimetres *= CM_PER_M
    np.rint(centimetres, out=centimetres)
    if metres.size and not (lowest >= 0 and highest < HIGHEST_CENTIMETRES / CM_PER_M):
        np.clip(centimetres, -HIGHEST_CENTIMETRES - 1, HIGHEST_CENTIMETRES, out=centimetres)
        return Histogram.of_levels(centimetres)
    return Histogram(0, np.bincount(centimetres.astype(np.int32)).astype(np.int64, copy=False))


def float_levels(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the level of each finite float32; levels have the order of the values."""
    bits = np.ascontiguousarray(values).view(np.int32)
    magnitude = (bits & np.int32(0x7FFFFFFF)) >> DROPPED_BITS
    return np.where(bits < 0, -magnitude, magnitude)


def float_values(levels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the middle of each level's bin; 0 for level 0."""
    magnitude = np.abs(levels).astype(np.int32)
    middle = ((magnitude << DROPPED_BITS) + (1 << (DROPPED_BITS - 1))).view(np.float32).astype(np.float64)
    return np.where(magnitude == 0, 0.0, np.sign(levels) * middle)
