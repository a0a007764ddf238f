"""Statistics in one pass, exact for integer pixels, from counts of each value (`shards.format.histogram`).

Counts add in any grouping and order. Everything else follows from them: mean, standard deviation,
percentiles, the clamp, and mean and deviation after clamping, which otherwise need a second pass. Counts are
kept by height source and sensor, so that these can be told apart later.

Stored bands are counted as stored, and their statistics are in the unit of their values: of the same decibels
as uint8 and as float32 they differ only by rounding. A derived band is counted by its own values, since its
deviation follows from no stored band's.

    counts = Counts.of_chips(chips, schema)    # any number of times, on any number of machines
    statistics = summarise((counts + other_counts).total(), schema)
"""

import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.band_values import values_of_band
from shards.format.height_classes import EDGES, NAMES
from shards.format.histogram import HEIGHT, SKETCH_ERROR, Histogram, count_labels, count_pixels
from shards.format.npz import npz_arrays
from shards.format.schema import Chip, Schema
from shards.storage.json_marks import AtLeast, Between
from shards.storage.json_text import parsed
from shards.storage.limits import COUNTS_BYTES
from shards.storage.typed_json import typed

PERCENTILES = (1, 2, 5, 25, 50, 75, 90, 95, 98, 99)
CLAMP_DEVIATIONS = 3.0
"""Standard deviations from the mean at which pixels are clamped. The clamp is (0, mean + 3 std), as for the
regressors trained so far; for float32 pixels, bands with a scale or offset, and derived bands, all of which
may be decibels below 0, (mean - 3 std, mean + 3 std)."""
UNKNOWN = "unknown"
"""Name in the statistics for chips whose source or sensor is not known."""
COUNTED_CHIPS = 16
"""Chips counted at a time: one band of them stays in a core's cache."""

Group = tuple[str, str]
"""Height source and sensor of some chips; "" where not known."""


@dataclass(frozen=True)
class Tally:
    """The counts of each value in each band and in the height."""

    bands: tuple[Histogram, ...]
    """Histograms of what is stored, then of derived bands' values: in the order of `Schema.all_bands`."""
    height: Histogram

    @classmethod
    def of(
        cls, image_NCHW: NDArray[Any], height_NHW: NDArray[np.float32], schema: Schema | None = None
    ) -> "Tally":
        """Count stored pixels (chips, bands, rows, columns) and labels (chips, rows, columns).

        `schema` is the chips'; default: one with heights and without derived bands.
        """
        stored = (image_NCHW[:, band] for band in range(image_NCHW.shape[1]))
        derived = (values_of_band(image_NCHW, schema, b.name) for b in schema.derived) if schema else ()
        bands = tuple(count_pixels(values_NHW) for values_NHW in (*stored, *derived))
        return cls(bands, count_labels(height_NHW, schema.label if schema else HEIGHT))

    def __add__(self, other: "Tally") -> "Tally":
        bands = tuple(mine + theirs for mine, theirs in zip(self.bands, other.bands, strict=True))
        return Tally(bands, self.height + other.height)


@dataclass
class Counts:
    """The tallies of chips by height source and sensor."""

    tallies: dict[Group, Tally] = field(default_factory=dict)

    @classmethod
    def of_chips(cls, chips: Sequence[Chip], schema: Schema | None = None) -> "Counts":
        """Count all pixels of `chips`; `schema` as in `Tally.of`."""
        groups: dict[Group, list[Chip]] = {}
        for chip in chips:
            groups.setdefault((chip.source or "", chip.sensor or ""), []).append(chip)
        counts = cls()
        for group, members in groups.items():
            for start in range(0, len(members), COUNTED_CHIPS):
                piece = members[start : start + COUNTED_CHIPS]
                image_NCHW = np.stack([chip.image_CHW for chip in piece])
                height_NHW = np.stack([chip.height_HW for chip in piece])
                counts._add(group, Tally.of(image_NCHW, height_NHW, schema))
        return counts

    def __add__(self, other: "Counts") -> "Counts":
        both = Counts(dict(self.tallies))
        for group, tally in other.tallies.items():
            both._add(group, tally)
        return both

    def _add(self, group: Group, tally: Tally) -> None:
        self.tallies[group] = self.tallies[group] + tally if group in self.tallies else tally

    def total(self) -> Tally | None:
        """Return the tally of all chips, or None if no chip was counted."""
        return _sum(self.tallies.values())

    def of_part(self, part: int) -> dict[str, Tally]:
        """Return the tallies by height source (part 0) or by sensor (part 1), sorted by name."""
        parts: dict[str, Tally] = {}
        for group, tally in self.tallies.items():
            # Chips whose source is called "unknown" and chips without one are counted together.
            name = group[part] or UNKNOWN
            parts[name] = parts[name] + tally if name in parts else tally
        return dict(sorted(parts.items()))

    def to_bytes(self, compressed: bool = True) -> bytes:
        """Encode as an .npz: "groups" (JSON) and the arrays of each. The same counts give the same bytes."""
        groups = sorted(self.tallies)
        firsts: list[list[int]] = []
        arrays: dict[str, NDArray[Any]] = {}
        for number, group in enumerate(groups):
            tally = self.tallies[group]
            histograms = [histogram.trimmed() for histogram in (*tally.bands, tally.height)]
            firsts.append([histogram.first for histogram in histograms])
            for place, histogram in enumerate(histograms):
                arrays[f"{number}.{place}"] = histogram.counts_L
        text = json.dumps({"groups": groups, "firsts": firsts})
        buffer = io.BytesIO()
        save = np.savez_compressed if compressed else np.savez
        save(buffer, allow_pickle=False, groups=np.frombuffer(text.encode(), np.uint8), **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "counts.npz") -> "Counts":
        """Decode what `to_bytes` encoded.

        Raises:
            InputError: the bytes of `where` are something else.
        """
        arrays = npz_arrays(data, where, COUNTS_BYTES)
        if "groups" not in arrays:
            raise InputError(f"{where}: holds no counts; copy it again")
        stored = typed(parsed(arrays["groups"].tobytes(), where), _Groups, where)
        if len(stored.groups) != len(stored.firsts):
            raise InputError(
                f"{where}: {len(stored.groups)} groups, {len(stored.firsts)} firsts; copy it again"
            )
        tallies: dict[Group, Tally] = {}
        for number, (group, firsts) in enumerate(zip(stored.groups, stored.firsts, strict=True)):
            histograms: list[Histogram] = []
            for place, first in enumerate(firsts):
                counts_L = arrays.get(f"{number}.{place}")
                if (
                    counts_L is None
                    or counts_L.dtype != np.int64
                    or counts_L.ndim != 1
                    or (counts_L < 0).any()
                ):
                    raise InputError(f"{where}: {number}.{place} is no list of counts; copy it again")
                histograms.append(Histogram(first, counts_L))
            if not histograms:
                raise InputError(f"{where}: group {number} has no counts; copy it again")
            tallies[group] = Tally(tuple(histograms[:-1]), histograms[-1])
        return cls(tallies)


@dataclass(frozen=True)
class _Groups:
    """What counts.npz has as JSON."""

    groups: tuple[tuple[str, str], ...]
    firsts: tuple[tuple[Annotated[int, Between(-(1 << 24), 1 << 24)], ...], ...]
    """Level of each histogram's first count. Levels of all types are within 24 bits."""


def _sum(tallies: Iterable[Tally]) -> Tally | None:
    total: Tally | None = None
    for tally in tallies:
        total = tally if total is None else total + tally
    return total


@dataclass(frozen=True)
class Summary:
    """Summary of one band (in the unit of its values) or the height (in metres). std is the population's (no
    n - 1)."""

    count: Annotated[int, AtLeast(1)]
    minimum: float
    maximum: float
    mean: float
    std: Annotated[float, AtLeast(0)]
    percentiles: dict[str, float]
    """Percentiles by name. "90" is the smallest value that at least 90 % of the pixels do not exceed."""


@dataclass(frozen=True)
class BandSummary(Summary):
    """Summary of a band, and the constants of the regressor's first layer."""

    clamp_max: float
    """Upper clamp, mean + 3 std in the unit of the values. Pixels are clamped to (clamp_min, clamp_max), then
    scaled to 0..1."""
    clamped_mean: float
    """Mean of the clamped, scaled (0..1) pixels."""
    clamped_std: Annotated[float, AtLeast(0)]
    """Standard deviation of the clamped, scaled (0..1) pixels."""
    clamp_min: float = 0.0
    """Lower clamp: 0 for integer pixels, mean - 3 std for float32, bands with a scale, and derived bands."""


@dataclass(frozen=True)
class LabelSummary(Summary):
    """Summary of the height or another label."""

    classes: dict[str, Annotated[float, Between(0, 1)]] = field(default_factory=dict)
    """Share (0..1) of pixels in each of `shards.format.height_classes`, or in each class of the schema; {} if
    there are neither."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of the training split: each band by name, in the order of `Schema.all_bands`; the height."""

    bands: dict[str, BandSummary]
    height: LabelSummary | None
    """Summary of the label; None in a dataset without labels."""

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any], where: str = "statistics.json") -> "Statistics":
        """Make the statistics that `to_json` was called on; those by source and sensor may be beside them.

        Raises:
            InputError: a value in `where` is not what it must be.
        """
        stored = typed(values, StoredStatistics, where)
        return cls(stored.bands, stored.height)


@dataclass(frozen=True)
class StoredStatistics(Statistics):
    """Content of statistics.json where there are training chips."""

    sources: dict[str, Statistics] = field(default_factory=dict)
    sensors: dict[str, Statistics] = field(default_factory=dict)


def statistics_json(counts: Counts, schema: Schema) -> dict[str, Any]:
    """Make the content of statistics.json: all training chips, then by "sources" and by "sensors".

    Without training chips it is {}.
    """
    total = counts.total()
    statistics = summarise(total, schema) if total else None
    if statistics is None:
        return {}

    def each(part: int) -> dict[str, Any]:
        found = {name: summarise(tally, schema) for name, tally in counts.of_part(part).items()}
        return {name: one.to_json() for name, one in found.items() if one is not None}

    return {**statistics.to_json(), "sources": each(0), "sensors": each(1)}


def summarise(tally: Tally, schema: Schema) -> Statistics | None:
    """Compute the statistics of a tally, without nodata; None if a band or the label has no value."""
    bands: dict[str, BandSummary] = {}
    for name, histogram in zip(schema.all_bands, tally.bands, strict=True):
        values, counts = band_counts(name, histogram, schema)
        if not values.size:
            return None
        is_signed = schema.dtype == "float32" or name not in schema.bands or schema.is_scaled(name)
        bands[name] = _band_summary(values, counts, is_signed)
    if not schema.label:
        return Statistics(bands, None)
    heights, counts = tally.height.labels(schema.label)
    if not heights.size:
        return None
    if schema.class_names:
        heights = np.floor(heights)  # see LAST_CLASS: a class is the low end of its bin
        shares = dict(zip(heights.tolist(), (counts / counts.sum()).tolist(), strict=True))
        classes = {name: shares.get(number, 0.0) for number, name in schema.class_names}
    else:
        classes = _classes(heights, counts) if schema.label == HEIGHT else {}
    return Statistics(bands, LabelSummary(**asdict(_summary(heights, counts)), classes=classes))


def band_counts(
    name: str, histogram: Histogram, schema: Schema
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the values that occur in a band, stored or derived, ascending, and their counts."""
    if name not in schema.bands:
        return histogram.pixels("float32", None)
    values, counts = histogram.pixels(schema.dtype, schema.nodata)
    if not schema.is_scaled(name):
        return values, counts
    scale, offset = schema.scaling(name)
    ascending = slice(None, None, 1 if scale > 0 else -1)
    return (values * scale + offset)[ascending], counts[ascending]


def _band_summary(values: NDArray[np.float64], counts: NDArray[np.int64], signed: bool) -> BandSummary:
    summary = _summary(values, counts)
    low = summary.mean - CLAMP_DEVIATIONS * summary.std if signed else 0.0
    high = summary.mean + CLAMP_DEVIATIONS * summary.std
    # A band that is dark or constant throughout must not lead to a division by zero. Adding 1 alone is not
    # enough: 1e20 + 1 is 1e20 in float64.
    if not signed or high == low:
        high = max(high, low + max(1.0, abs(low) * SKETCH_ERROR))
    mean, std = _mean_and_std((np.clip(values, low, high) - low) / (high - low), counts)
    return BandSummary(**asdict(summary), clamp_max=high, clamped_mean=mean, clamped_std=std, clamp_min=low)


def _mean_and_std(values: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[float, float]:
    """Compute mean and deviation with exactly rounded sums (fsum), so that only the counts decide."""
    total = int(counts.sum())
    mean = math.fsum(values * counts) / total
    return mean, math.sqrt(math.fsum((values - mean) ** 2 * counts) / total)


def _summary(values: NDArray[np.float64], counts: NDArray[np.int64]) -> Summary:
    cumulative = np.cumsum(counts)
    total = int(cumulative[-1])
    mean, std = _mean_and_std(values, counts)
    # Integer arithmetic: the rank of the 90th percentile of 10 pixels is 9, never 9.000000001.
    ranks = {str(percent): -(-percent * total // 100) for percent in PERCENTILES}
    percentiles = {name: float(values[np.searchsorted(cumulative, rank)]) for name, rank in ranks.items()}
    return Summary(total, float(values[0]), float(values[-1]), mean, std, percentiles)


def _classes(heights: NDArray[np.float64], counts: NDArray[np.int64]) -> dict[str, float]:
    # Heights are whole centimetres here: only 0 lies below 1 mm, the first class's upper edge.
    place = np.searchsorted(EDGES[1:-1], heights, side="right")
    shares = np.bincount(place, weights=counts, minlength=len(NAMES)) / counts.sum()
    return dict(zip(NAMES, shares.tolist(), strict=True))
