"""Statistics from counts are those of numpy over all the pixels, and the same bits however they were added.

- mean, deviation, extremes, percentiles of bands and height; clamp, clamped mean and deviation
- nodata and missing heights are left out
- any grouping and order of merging, and any detour over bytes, gives identical numbers
- the dataset's statistics are those of its training split
"""

from __future__ import annotations

import json
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest

from shards.schema import Schema
from shards.statistics import PERCENTILES, Counts, Statistics, Summary, levels_of, summarise

RELATIVE = 1e-12
"""numpy's sums over 64-bit floats round; ours do not."""


def counted(image_NCHW: np.ndarray, height_NHW: np.ndarray, schema: Schema) -> Counts:
    counts = Counts.empty(schema)
    counts.add(image_NCHW, height_NHW)
    return counts


def made(schema: Schema, chips: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Skewed pixels of the schema's type with some at its limits, and heights with a long tail."""
    rng = np.random.default_rng(seed)
    limits = np.iinfo(schema.dtype)
    image = rng.gamma(2.0, limits.max / 40, (chips, *schema.image_shape)) + limits.min / 200
    image_NCHW = np.clip(image, limits.min, limits.max).astype(schema.dtype)
    image_NCHW[0, :, 0, :2] = limits.min, limits.max
    height_NHW = rng.gamma(1.0, 3.0, (chips, *schema.label_shape)).astype(np.float32)
    height_NHW[:, ::2] = 0
    return image_NCHW, height_NHW


def assert_is_numpys(summary: Summary, values: np.ndarray) -> None:
    values = values.astype(np.float64).ravel()
    assert summary.count == values.size
    assert (summary.minimum, summary.maximum) == (values.min(), values.max())
    assert summary.mean == pytest.approx(values.mean(), rel=RELATIVE)
    assert summary.std == pytest.approx(values.std(), rel=RELATIVE)
    assert list(summary.percentiles) == [str(percent) for percent in PERCENTILES]
    for percent in PERCENTILES:
        assert summary.percentiles[str(percent)] == np.percentile(values, percent, method="inverted_cdf")


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
    statistics = summarise(counted(image_NCHW, height_NHW, schema), schema)
    assert statistics is not None
    assert tuple(statistics.bands) == schema.bands
    for band, name in enumerate(schema.bands):
        stored, summary = image_NCHW[:, band], statistics.bands[name]
        valid = stored[stored != schema.nodata] if schema.nodata is not None else stored.ravel()
        assert valid.size < stored.size or schema.nodata is None
        assert_is_numpys(summary, valid)
        values = valid.astype(np.float64)
        assert summary.clamp_max == pytest.approx(values.mean() + 3 * values.std(), rel=RELATIVE)
        scaled = np.clip(values, 0, summary.clamp_max) / summary.clamp_max
        assert summary.clamped_mean == pytest.approx(scaled.mean(), rel=RELATIVE)
        assert summary.clamped_std == pytest.approx(scaled.std(), rel=RELATIVE)
    assert_is_numpys(statistics.height, np.rint(height_NHW.astype(np.float64) * 100) / 100)
    assert statistics.height.mean == pytest.approx(height_NHW.mean(dtype=np.float64), abs=0.005)


def test_missing_heights_are_left_out_and_impossible_ones_counted_at_the_ends() -> None:
    schema = Schema(("red",), "uint8", None, 4)
    image_NCHW, height_NHW = made(schema, chips=2)
    height_NHW[0] = [[np.nan, np.inf, -np.inf, 1.0]] * 4
    height_NHW[1] = [[1.0, 2.0, 1e9, -1e9]] * 4
    statistics = summarise(counted(image_NCHW, height_NHW, schema), schema)
    assert statistics is not None
    assert_is_numpys(statistics.height, np.repeat([1.0, 1.0, 2.0, 327.67, -327.68], 4))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_every_value_of_a_type_is_counted_in_its_own_place(dtype: str) -> None:
    schema = Schema(("red",), dtype, None, 16)
    levels = levels_of(dtype)
    image_NCHW = levels.astype(dtype).reshape(-1, 1, 16, 16)
    counts = counted(image_NCHW, np.ones((image_NCHW.shape[0], 16, 16), np.float32), schema)
    np.testing.assert_array_equal(counts.pixels_CL, np.ones((1, levels.size)))
    assert counts.heights_L.sum() == image_NCHW.size


def test_any_grouping_and_order_gives_the_same_bits() -> None:
    schema = Schema(("blue", "nir"), chip_size=8)
    image_NCHW, height_NHW = made(schema, chips=40)
    whole = counted(image_NCHW, height_NHW, schema)
    expected = summarise(whole, schema)
    rng = np.random.default_rng(1)
    for groups in (1, 2, 7, 40):
        parts = np.array_split(rng.permutation(40), groups)
        counts = [counted(image_NCHW[part], height_NHW[part], schema) for part in parts]
        detour = [Counts.from_bytes(part.to_bytes()) for part in counts]
        one_by_one = Counts.empty(schema)
        for part in parts:
            one_by_one.add(image_NCHW[part], height_NHW[part])
        half = len(detour) // 2
        for merged in (
            reduce(add, counts, Counts.empty(schema)),
            reduce(add, reversed(detour)),
            reduce(add, detour[half:]) + reduce(add, detour[:half], Counts.empty(schema)),
            one_by_one,
        ):
            assert merged.to_bytes() == whole.to_bytes()
            assert summarise(merged, schema) == expected


def test_adding_leaves_the_summands_alone() -> None:
    schema = Schema(("red",), chip_size=4)
    first, second = (counted(*made(schema, seed=seed), schema) for seed in (1, 2))
    before = first.to_bytes(), second.to_bytes()
    assert (first + second).to_bytes() not in before
    assert (first.to_bytes(), second.to_bytes()) == before


def test_the_clamp_of_a_dark_band_is_not_zero() -> None:
    schema = Schema(("red",), chip_size=4)
    image_NCHW, height_NHW = np.zeros((1, 1, 4, 4), np.int16), np.ones((1, 4, 4), np.float32)
    statistics = summarise(counted(image_NCHW, height_NHW, schema), schema)
    assert statistics is not None
    red = statistics.bands["red"]
    assert (red.mean, red.std, red.clamp_max, red.clamped_mean, red.clamped_std) == (0, 0, 1, 0, 0)


def test_nothing_counted_has_no_statistics() -> None:
    schema = Schema(("red",), chip_size=4)
    assert summarise(Counts.empty(schema), schema) is None
    nodata = np.full((1, 1, 4, 4), schema.nodata, np.int16)
    assert summarise(counted(nodata, np.ones((1, 4, 4), np.float32), schema), schema) is None
    missing = np.full((1, 4, 4), np.nan, np.float32)
    assert summarise(counted(np.ones_like(nodata), missing, schema), schema) is None


def test_json_keeps_every_bit() -> None:
    schema = Schema(("blue", "nir"), chip_size=8)
    statistics = summarise(counted(*made(schema), schema), schema)
    assert statistics is not None
    assert Statistics.from_json(json.loads(json.dumps(statistics.to_json()))) == statistics


def test_a_dataset_has_the_statistics_of_its_training_split(
    pairs_dataset: Any,
) -> None:
    dataset = pairs_dataset.open()
    rows = dataset.index.to_pylist()
    training = [pairs_dataset.chips[row["key"]] for row in rows if row["split"] == "train"]
    assert 0 < len(training) < len(rows)
    images, heights = (
        np.stack([chip.image_CHW for chip in training]),
        np.stack([chip.height_HW for chip in training]),
    )
    for band, name in enumerate(dataset.schema.bands):
        assert_is_numpys(dataset.statistics.bands[name], images[:, band])
    assert_is_numpys(dataset.statistics.height, np.rint(heights.astype(np.float64) * 100) / 100)
