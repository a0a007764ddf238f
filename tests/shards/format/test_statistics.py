"""Statistics from counts are those of one float64 NumPy pass, and the same bits however they were added.

- mean, deviation, extremes, percentiles of bands and height; clamp, clamped mean and deviation; class shares
- of all chips, of each height source and of each sensor
- nodata and missing heights are left out
- any grouping and order of merging, and any detour over bytes, gives identical numbers
- float32 pixels are counted in bins that are ordered as they are and at most SKETCH_ERROR from them
- the dataset's statistics are those of its training split
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pixels import in_another_layout

from shards.format.height_classes import EDGES, NAMES
from shards.format.histogram import PIECE, SKETCH_ERROR, Histogram, count_pixels, float_levels, float_values
from shards.format.manifest import COUNTS, STATISTICS
from shards.format.schema import Chip, Schema
from shards.format.statistics import (
    COUNTED_CHIPS,
    PERCENTILES,
    UNKNOWN,
    BandSummary,
    Counts,
    Statistics,
    Summary,
    Tally,
    statistics_json,
    summarise,
)

RELATIVE = 1e-12
"""numpy's sums over 64-bit floats round; ours do not."""
SUBNORMAL_ERROR = 2.0**-136
"""Width of the bins below the smallest normal float32."""
SAR = Schema(("vv", "vh"), "float32", -99.0, 8)
INTEGERS = Schema(("blue", "nir"), chip_size=8)
both_kinds = pytest.mark.parametrize("schema", [INTEGERS, SAR], ids=lambda schema: schema.dtype)


def made(schema: Schema, chips: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Skewed pixels of the schema's type with some at its limits, and heights with a long tail.

    Of float32: decibels, some of them missing.
    """
    rng = np.random.default_rng(seed)
    height_NHW = rng.gamma(1.0, 3.0, (chips, *schema.label_shape)).astype(np.float32)
    height_NHW[:, ::2] = 0
    if schema.dtype == "float32":
        image_NCHW = rng.normal(-12, 4, (chips, *schema.image_shape)).astype(np.float32)
        image_NCHW[:, :, 0, :3] = np.nan, np.inf, -np.inf
        return image_NCHW, height_NHW
    limits = np.iinfo(schema.dtype)
    image = rng.gamma(2.0, limits.max / 40, (chips, *schema.image_shape)) + limits.min / 200
    image_NCHW = np.clip(image, limits.min, limits.max).astype(schema.dtype)
    image_NCHW[0, :, 0, :2] = limits.min, limits.max
    return image_NCHW, height_NHW


def made_chips(schema: Schema, count: int = 60, seed: int = 0) -> list[Chip]:
    """Chips of three sources and three sensors, one of each unknown; some pixels and heights are missing."""
    rng = np.random.default_rng(seed)
    image_NCHW, height_NHW = made(schema, count, seed)
    image_NCHW[::3, :, 2:5] = schema.nodata
    height_NHW[1::3, :1] = np.nan
    sources = rng.choice([0, 1, 2], count, p=[0.1, 0.8, 0.1])
    return [
        Chip(f"chip_{number}", image_CHW, height_HW, (None, "AK_IFSAR", "3DEP")[sources[number]], sensor)
        for number, (image_CHW, height_HW) in enumerate(zip(image_NCHW, height_NHW, strict=True))
        for sensor in [(None, "WV02", "S1")[number % 3]]
    ]


def statistics_of(image_NCHW: np.ndarray, height_NHW: np.ndarray, schema: Schema) -> Statistics:
    statistics = summarise(Tally.of(image_NCHW, height_NHW, schema), schema)
    assert statistics is not None
    return statistics


def pixels_of(chips: list[Chip]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([chip.image_CHW for chip in chips]), np.stack([chip.height_HW for chip in chips])


def assert_is_numpys(summary: Summary, values: np.ndarray) -> None:
    values = values.astype(np.float64).ravel()
    assert summary.count == values.size
    assert (summary.minimum, summary.maximum) == (values.min(), values.max())
    assert summary.mean == pytest.approx(values.mean(), rel=RELATIVE)
    assert summary.std == pytest.approx(values.std(), rel=RELATIVE)
    assert list(summary.percentiles) == [str(percent) for percent in PERCENTILES]
    for percent in PERCENTILES:
        assert summary.percentiles[str(percent)] == np.percentile(values, percent, method="inverted_cdf")


def assert_clamps_as_numpy(summary: BandSummary, values: np.ndarray, low: float) -> None:
    """Clamping to (low, mean + 3 std), then scaling to 0..1, in a second pass."""
    values = values.astype(np.float64).ravel()
    high = values.mean() + 3 * values.std()
    assert summary.clamp_min == pytest.approx(low, rel=RELATIVE)
    assert summary.clamp_max == pytest.approx(high, rel=RELATIVE)
    scaled = (np.clip(values, low, high) - low) / (high - low)
    assert summary.clamped_mean == pytest.approx(scaled.mean(), rel=RELATIVE)
    assert summary.clamped_std == pytest.approx(scaled.std(), rel=RELATIVE)


def class_shares(metres: np.ndarray) -> dict[str, float]:
    """By the words of `shards.format.height_classes.EDGES`, class by class."""
    edges = (-np.inf, *EDGES[1:-1], np.inf)
    shares = [float(np.mean((low <= metres) & (metres < high))) for low, high in pairwise(edges)]
    return dict(zip(NAMES, shares, strict=True))


def assert_is_one_float64_pass(
    statistics: Statistics, schema: Schema, image_NCHW: np.ndarray, height_NHW: np.ndarray
) -> None:
    """Of integer pixels: `statistics` are numpy's over all valid pixels at once."""
    assert tuple(statistics.bands) == schema.bands
    for band, name in enumerate(schema.bands):
        stored = image_NCHW[:, band]
        valid = stored[stored != schema.nodata] if schema.nodata is not None else stored.ravel()
        assert_is_numpys(statistics.bands[name], valid)
        assert_clamps_as_numpy(statistics.bands[name], valid, low=0.0)
    centimetres = np.rint(height_NHW[np.isfinite(height_NHW)].astype(np.float64) * 100)
    assert statistics.height is not None
    assert_is_numpys(statistics.height, centimetres / 100)
    assert statistics.height.classes == pytest.approx(class_shares(centimetres / 100), rel=RELATIVE)
    assert sum(statistics.height.classes.values()) == pytest.approx(1.0)


# Integer pixels and heights


@pytest.mark.parametrize(
    "schema",
    [
        Schema(("blue", "green", "red", "nir"), chip_size=16),
        Schema(("red",), "uint8", None, 20),
        Schema(("vv", "vh"), "uint16", 0, 8),
        Schema(("vv", "vh"), "int16", None, 8),
    ],
    ids=lambda schema: f"{schema.dtype} nodata {schema.nodata}",
)
def test_statistics_are_those_of_numpy(schema: Schema) -> None:
    image_NCHW, height_NHW = made(schema)
    if schema.nodata is not None:
        image_NCHW[3, :, 2:5] = schema.nodata
    statistics = statistics_of(image_NCHW, height_NHW, schema)
    assert_is_one_float64_pass(statistics, schema, image_NCHW, height_NHW)
    assert (statistics.bands[schema.bands[0]].count < image_NCHW[:, 0].size) == (schema.nodata is not None)
    assert statistics.height is not None
    assert statistics.height.mean == pytest.approx(height_NHW.mean(dtype=np.float64), abs=0.005)


def test_missing_heights_are_left_out_and_impossible_ones_counted_at_the_ends() -> None:
    schema = Schema(("red",), "uint8", None, 4)
    image_NCHW, height_NHW = made(schema, chips=2)
    height_NHW[0] = [[np.nan, np.inf, -np.inf, 1.0]] * 4
    height_NHW[1] = [[1.0, 2.0, 1e9, -1e9]] * 4
    statistics = statistics_of(image_NCHW, height_NHW, schema)
    assert statistics.height is not None
    assert_is_numpys(statistics.height, np.repeat([1.0, 1.0, 2.0, 327.67, -327.68], 4))


def test_heights_at_the_edges_of_classes_are_in_the_upper_one() -> None:
    schema = Schema(("red",), "uint8", None, 4)
    heights = [-2, 0, 0.004, 0.01, 0.49, 0.5, 0.99, 1, 2, 3, 4.99, 5, 10, 34.99, 35, 300]
    height_NHW = np.array(heights, np.float32).reshape(1, 4, 4)
    statistics = statistics_of(np.ones((1, 1, 4, 4), np.uint8), height_NHW, schema)
    assert statistics.height is not None
    counted = [round(16 * share) for share in statistics.height.classes.values()]
    assert counted == [3, 2, 2, 1, 1, 2, 1, 4]


def test_labels_other_than_heights_are_counted_as_float_pixels_are() -> None:
    schema = Schema(("red",), "uint8", None, 4, label="carbon")
    values = np.random.default_rng(0).gamma(1.0, 3000.0, (1, 4, 4)).astype(np.float32)
    statistics = statistics_of(np.ones((1, 1, 4, 4), np.uint8), values, schema)
    assert statistics.height is not None
    assert statistics.height.classes == {}
    assert statistics.height.maximum == pytest.approx(values.max(), rel=SKETCH_ERROR)
    assert statistics.height.maximum > 327.67
    assert statistics.height.mean == pytest.approx(values.mean(), rel=SKETCH_ERROR)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_every_value_of_a_type_is_counted_in_its_own_place(dtype: str) -> None:
    limits = np.iinfo(dtype)
    every = np.arange(limits.min, limits.max + 1)
    histogram = count_pixels(every.astype(dtype).reshape(4, -1))
    assert histogram == Histogram(limits.min, np.ones(every.size, np.int64))
    for nodata in (None, limits.min, 7, limits.max):
        values, counts = histogram.pixels(dtype, nodata)
        np.testing.assert_array_equal(values, every[every != nodata] if nodata is not None else every)
        assert (counts == 1).all()


def test_the_clamp_of_a_dark_band_is_not_zero() -> None:
    schema = Schema(("red",), chip_size=4)
    red = statistics_of(np.zeros((1, 1, 4, 4), np.int16), np.ones((1, 4, 4), np.float32), schema).bands["red"]
    assert (red.mean, red.std, red.clamp_max, red.clamped_mean, red.clamped_std) == (0, 0, 1, 0, 0)


# Counts add


@pytest.mark.parametrize("seed", range(3))
def test_histograms_are_numpys_counts_and_add_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Pieces counted apart have ranges of their own.
    levels = np.concatenate([rng.integers(low, low + 50, PIECE // 2 + 3) for low in (-400, 300, -400, 0, 9)])
    whole = Histogram.of_levels(levels)
    values, counts = whole.pixels("int16", None)
    expected = np.unique(levels, return_counts=True)
    np.testing.assert_array_equal(values, expected[0])
    np.testing.assert_array_equal(counts, expected[1])
    parts = [Histogram.of_levels(part) for part in np.array_split(rng.permutation(levels), 7)]
    parts.append(Histogram(-1000, np.zeros(3, np.int64)))
    for order in (parts, parts[::-1], [*parts[3:], Histogram.empty(), *parts[:3]]):
        total = reduce(add, order)
        assert total == whole != parts[0]
        assert total.trimmed().counts_L.tobytes() == whole.trimmed().counts_L.tobytes()
        assert total.trimmed().first == levels.min()


@both_kinds
def test_any_grouping_and_order_gives_the_same_bits(schema: Schema) -> None:
    chips = made_chips(schema)
    whole = Counts.of_chips(chips)
    plain, expected = whole.to_bytes(compressed=False), json.dumps(statistics_json(whole, schema))
    rng = np.random.default_rng(1)
    for groups in (1, 2, 7, len(chips)):
        parts = np.array_split(rng.permutation(len(chips)), groups)
        counts = [Counts.of_chips([chips[number] for number in part]) for part in parts]
        detour = [
            Counts.from_bytes(part.to_bytes(compressed=number % 2 == 0)) for number, part in enumerate(counts)
        ]
        half = groups // 2
        for merged in (
            reduce(add, counts, Counts()),
            reduce(add, reversed(detour)),
            reduce(add, detour[half:]) + reduce(add, detour[:half], Counts()),
            Counts.from_bytes(reduce(add, detour).to_bytes()),
        ):
            assert merged.to_bytes(compressed=False) == plain
            assert merged.total() == whole.total()
            assert json.dumps(statistics_json(merged, schema)) == expected
        assert merged.to_bytes() == whole.to_bytes() != plain


def test_adding_leaves_the_summands_alone() -> None:
    first, second = (Counts.of_chips(made_chips(SAR, seed=seed)) for seed in (1, 2))
    before = first.to_bytes(), second.to_bytes()
    both = first + second
    assert both.to_bytes() not in before
    assert (both + both).to_bytes() != both.to_bytes()
    assert (first.to_bytes(), second.to_bytes()) == before


@both_kinds
def test_memory_layout_and_byte_order_leave_no_trace(schema: Schema) -> None:
    chips = made_chips(schema)
    expected = Counts.of_chips(chips).to_bytes()
    assert Counts.of_chips(in_another_layout(chips)).to_bytes() == expected
    assert reduce(add, (Counts.of_chips([chip]) for chip in in_another_layout(chips))).to_bytes() == expected


# Sources and sensors


def test_statistics_of_sources_and_sensors_are_those_of_numpy_over_their_chips() -> None:
    schema, chips = INTEGERS, made_chips(INTEGERS, 80)
    assert max(Counter((chip.source, chip.sensor) for chip in chips).values()) > COUNTED_CHIPS
    counts = Counts.of_chips(chips)
    values = statistics_json(counts, schema)
    assert_is_one_float64_pass(Statistics.from_json(values), schema, *pixels_of(chips))
    for part, attribute in enumerate(("source", "sensor")):
        members: dict[str, list[Chip]] = {}
        for chip in chips:
            members.setdefault(getattr(chip, attribute) or UNKNOWN, []).append(chip)
        assert len(members) == 3
        assert list(values[f"{attribute}s"]) == list(counts.of_part(part)) == sorted(members)
        for name, some in members.items():
            statistics = Statistics.from_json(values[f"{attribute}s"][name])
            assert statistics == summarise(counts.of_part(part)[name], schema)
            assert_is_one_float64_pass(statistics, schema, *pixels_of(some))
        assert reduce(add, counts.of_part(part).values()) == counts.total()


def test_a_source_called_unknown_is_counted_with_the_chips_of_none() -> None:
    chips = [replace(chip, source=chip.source and UNKNOWN) for chip in made_chips(INTEGERS, 12)]
    counts = Counts.of_chips(chips)
    assert len({group[0] for group in counts.tallies}) == 2
    assert counts.of_part(0) == {UNKNOWN: counts.total()}


def test_nothing_counted_has_no_statistics() -> None:
    schema = Schema(("red",), chip_size=4)
    nothing = Counts.of_chips([])
    assert nothing.total() is None
    assert statistics_json(nothing, schema) == {}
    assert Counts.from_bytes(nothing.to_bytes()) == nothing == nothing + Counts()
    ones, nodata = np.ones((1, 4, 4), np.int16), np.full((1, 4, 4), schema.nodata, np.int16)
    heights, missing = np.ones((4, 4), np.float32), np.full((4, 4), np.nan, np.float32)
    for chip in (Chip("a", nodata, heights, "dark"), Chip("b", ones, missing, "bare")):
        counts = Counts.of_chips([chip])
        assert statistics_json(counts, schema) == {}
        assert Counts.from_bytes(counts.to_bytes()) == counts
        good = Counts.of_chips([Chip("c", ones, heights, "good")])
        assert list(statistics_json(counts + good, schema)["sources"]) == ["good"]


# float32 pixels


def sketch_cases() -> dict[str, np.ndarray]:
    """Values of float32 bands, as some sensors give them and as none should."""
    rng = np.random.default_rng(5)
    magnitudes = rng.choice([-1.0, 1.0], 6400) * 10.0 ** rng.uniform(-30, 30, 6400)
    coherence = rng.beta(2, 3, 6400)
    coherence[:20], coherence[20:40] = 0, 1
    few = rng.choice([-1.5, -1.0, -0.0, 0.0, 0.25, 3.0], 6400)
    cases = {
        "decibels": rng.normal(-12, 4, 6400),
        "coherence": coherence,
        "amplitudes": rng.rayleigh(0.2, 6400),
        "magnitudes": magnitudes,
        "zeros and negatives": few,
        "zeros": np.where(rng.random(6400) < 0.5, -0.0, 0.0),
    }
    return {name: values.astype(np.float32) for name, values in cases.items()}


SKETCHES = sketch_cases()


def sketched(values: np.ndarray, nodata: float | None = None) -> BandSummary:
    """The summary of a float32 band that holds `values`."""
    schema = replace(SAR, bands=("vv",), nodata=nodata, label="")
    image_NCHW = values.reshape(1, 1, -1, 80)
    return statistics_of(image_NCHW, np.empty((1, 0, 0), np.float32), schema).bands["vv"]


@pytest.mark.parametrize("name", SKETCHES)
def test_a_float32_band_is_described_within_the_error_of_its_bins(name: str) -> None:
    stored = SKETCHES[name]
    values, summary = stored.astype(np.float64), sketched(stored)
    assert summary.count == values.size
    assert summary.minimum == pytest.approx(values.min(), rel=SKETCH_ERROR)
    assert summary.maximum == pytest.approx(values.max(), rel=SKETCH_ERROR)
    for percent in PERCENTILES:
        exact = np.percentile(values, percent, method="inverted_cdf")
        assert summary.percentiles[str(percent)] == pytest.approx(exact, rel=SKETCH_ERROR, abs=0)
    assert abs(summary.mean - values.mean()) <= SKETCH_ERROR * np.abs(values).mean()
    # No value moved by more than SKETCH_ERROR of itself: the deviation by no more than that of their scale.
    error = SKETCH_ERROR * np.sqrt(np.mean(values**2))
    assert abs(summary.std - values.std()) <= error


@pytest.mark.parametrize("name", [name for name in SKETCHES if name != "zeros"])
def test_the_clamp_of_a_float32_band_is_mean_and_three_deviations_on_both_sides(name: str) -> None:
    stored = SKETCHES[name]
    values, middles, summary = stored.astype(np.float64), float_values(float_levels(stored)), sketched(stored)
    assert_is_numpys(summary, middles)
    assert_clamps_as_numpy(summary, middles, low=middles.mean() - 3 * middles.std())
    # Of the values themselves: mean and deviation may be off by `error`, so each limit by four times that.
    error = SKETCH_ERROR * np.sqrt(np.mean(values**2))
    low, high = values.mean() - 3 * values.std(), values.mean() + 3 * values.std()
    assert abs(summary.clamp_min - low) <= 4 * error
    assert abs(summary.clamp_max - high) <= 4 * error
    # A value is off by 1 (clipped: 4), the limit below it by 4, the span by 6.
    scaled = (np.clip(values, low, high) - low) / (high - low)
    assert abs(summary.clamped_mean - scaled.mean()) <= 15 * error / (high - low)
    assert abs(summary.clamped_std - scaled.std()) <= 15 * error / (high - low)
    assert 0 < summary.clamped_mean < 1


def test_what_is_no_number_and_nodata_are_left_out() -> None:
    stored = SKETCHES["decibels"]
    for nodata in (-99.0, 0.0, -3.4028234663852886e38, np.nan):
        rng = np.random.default_rng(6)
        missing = rng.choice(np.array([np.nan, np.inf, -np.inf, nodata], np.float32), stored.size)
        mixed = rng.permutation(np.concatenate([stored, missing]))
        assert sketched(mixed, nodata) == sketched(stored)
    schema = replace(SAR, bands=("vv",), label="")
    nan = np.full((1, 1, 8, 8), np.nan, np.float32)
    assert summarise(Tally.of(nan, np.empty((1, 0, 0), np.float32)), schema) is None


@pytest.mark.parametrize("constant", [0.0, -12.5, 0.3, -9999.0, 1e20, -1e30, 1e-40])
def test_a_constant_float32_band_is_not_divided_by_zero(constant: float) -> None:
    summary = sketched(np.full(160, constant, np.float32))
    assert summary.mean == summary.minimum == summary.maximum == summary.clamp_min
    assert summary.mean == pytest.approx(constant, rel=SKETCH_ERROR, abs=SUBNORMAL_ERROR)
    assert (summary.std, summary.clamped_mean, summary.clamped_std) == (0, 0, 0)
    assert np.float32(summary.clamp_max) > np.float32(summary.clamp_min)


@pytest.mark.parametrize("seed", range(4))
def test_levels_are_ordered_as_their_values_and_close_to_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, 100_000, np.uint32)
    subnormal = rng.integers(0, 2**23, 10_000, np.uint32) | (rng.integers(0, 2, 10_000, np.uint32) << 31)
    special = np.array([0, 2**31, 1, 2**31 + 1, 0x7F7FFFFF, 0xFF7FFFFF, 0x00800000, 0x007FFFFF], np.uint32)
    values = np.concatenate([bits, subnormal, special]).view(np.float32)
    values = np.sort(values[np.isfinite(values)])
    levels = float_levels(values)
    assert (np.diff(levels) >= 0).all()
    middles, exact = float_values(levels), values.astype(np.float64)
    assert (np.abs(middles - exact) <= np.maximum(SKETCH_ERROR * np.abs(exact), SUBNORMAL_ERROR)).all()
    assert np.array_equal(float_levels(-values), -levels)
    assert float_levels(np.array([0.0, -0.0], np.float32)).tolist() == [0, 0]


def test_every_level_is_the_level_of_its_middle() -> None:
    highest = int(float_levels(np.array([np.finfo(np.float32).max]))[0])
    levels = np.arange(-highest, highest + 1)
    middles = float_values(levels)
    assert (np.diff(middles) > 0).all()
    assert np.isfinite(middles).all()
    np.testing.assert_array_equal(float_levels(middles.astype(np.float32)), levels)


# Bytes and JSON


@pytest.mark.parametrize("label", ["height", ""])
@both_kinds
def test_json_and_bytes_keep_every_bit_with_and_without_a_label(schema: Schema, label: str) -> None:
    schema = replace(schema, label=label)
    image_NCHW, height_NHW = made(schema)
    assert height_NHW.shape == (12, *schema.label_shape)
    counts = Counts.of_chips(
        [Chip(str(number), image_NCHW[number], height_NHW[number]) for number in range(12)]
    )
    values = statistics_json(counts, schema)
    statistics = Statistics.from_json(json.loads(json.dumps(values)))
    assert statistics == statistics_of(image_NCHW, height_NHW, schema)
    assert (statistics.height is None) == (values["height"] is None) == (not label)
    assert Statistics.from_json(json.loads(json.dumps(statistics.to_json()))) == statistics
    again = Counts.from_bytes(counts.to_bytes())
    assert again == counts
    assert again.to_bytes() == counts.to_bytes()
    assert statistics_json(again, schema) == values


# A dataset


def test_a_dataset_has_the_statistics_of_its_training_split(pairs_dataset: Any) -> None:
    dataset = pairs_dataset.open()
    schema, rows = dataset.schema, dataset.index.to_pylist()
    training = [pairs_dataset.chips[row["key"]] for row in rows if row["split"] == "train"]
    assert 0 < len(training) < len(rows)
    assert_is_one_float64_pass(dataset.statistics, schema, *pixels_of(training))
    stored = json.loads((Path(pairs_dataset.url) / STATISTICS).read_bytes())
    for part, attribute in (("sources", "source"), ("sensors", "sensor")):
        assert set(stored[part]) == {getattr(chip, attribute) for chip in training}
        for name, values in stored[part].items():
            some = [chip for chip in training if getattr(chip, attribute) == name]
            assert_is_one_float64_pass(Statistics.from_json(values), schema, *pixels_of(some))
    counts = Counts.from_bytes((Path(pairs_dataset.url) / COUNTS).read_bytes())
    assert statistics_json(counts, schema) == stored
    assert counts.to_bytes() == Counts.of_chips(training).to_bytes()
