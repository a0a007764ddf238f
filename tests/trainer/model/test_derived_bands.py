"""Bands made on the device: 12 channels of which 8 are stored, as bytes of decibels.

- values of tensors are those of arrays, bit for bit
- stored differences and derived ones give the same pixels and tokens, bit for bit, where floats are stored
- bytes give the same pixels as floats to half a step of their rounding, and tokens to what follows from it
- a checkpoint keeps scale, offset and derived bands; only the stored bands that are needed are read
- the linear baseline on derived bands is numpy's least squares on their values
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from regressors import SMALL_BACKBONE, SMALL_DECODER

from shards.errors import InputError
from shards.format.band_values import values_of
from shards.format.schema import Schema, with_values
from shards.format.statistics import Statistics, Tally, summarise
from shards.read.dataset import Batch
from trainer.model.backbone import build_backbone
from trainer.model.height_checkpoint import Checkpoint, load_checkpoint, read_checkpoint_header
from trainer.model.normalise import Normalise
from trainer.model.regressor import Regressor
from trainer.score.baselines import Baselines, fit_baselines, stored_terms

STEP = 30 / 255
"""Decibels between two stored bytes."""
SEASONS = ("winter", "spring", "summer", "autumn")
STORED = tuple(f"{polarisation}_{season}" for season in SEASONS for polarisation in ("vv", "vh"))
DERIVED = tuple(f"vv_vh_{season}" for season in SEASONS)
FORMULAS = tuple(f"vv_vh_{season} = vv_{season} - vh_{season}" for season in SEASONS)
TWELVE = (*STORED, *DERIVED)
FLOATS_12 = Schema(TWELVE, "float32", None, 32)
FLOATS_8 = with_values(Schema(STORED, "float32", None, 32), FORMULAS)
BYTES_8 = with_values(Schema(STORED, "uint8", None, 32), FORMULAS, ("30/255",), ("-30",))


def decibels(count: int = 3) -> NDArray[np.float32]:
    """image_BCHW of the eight stored bands, between -30 and 0 dB."""
    rng = np.random.default_rng(8)
    level_BC = rng.uniform(-16, -8, (count, 8, 1, 1)) - 5 * (np.arange(8) % 2)[:, None, None]
    return np.clip(rng.normal(level_BC, 2, (count, 8, 32, 32)), -30, 0).astype(np.float32)


def with_differences(image_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Twelve bands, as they would be stored."""
    return np.concatenate([image_BCHW, image_BCHW[:, ::2] - image_BCHW[:, 1::2]], 1)


def as_bytes(image_BCHW: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint((image_BCHW + 30) / STEP).astype(np.uint8)


def statistics_of(image_BCHW: NDArray[np.generic], schema: Schema) -> Statistics:
    height_BHW = np.full((len(image_BCHW), 32, 32), 2.0, np.float32)
    found = summarise(Tally.of(image_BCHW, height_BHW, schema), schema)
    assert found is not None
    return found


def regressor_of(schema: Schema, bands: tuple[str, ...], statistics: Statistics) -> Regressor:
    torch.manual_seed(1)
    backbone = build_backbone({**SMALL_BACKBONE, "num_channels": len(bands)})
    return Regressor(schema, bands, statistics, backbone, SMALL_DECODER).eval()


@torch.inference_mode()
def pixels_and_tokens(
    schema: Schema, image_BCHW: NDArray[np.generic], statistics: Statistics
) -> tuple[torch.Tensor, torch.Tensor]:
    regressor = regressor_of(schema, TWELVE, statistics)
    pixels_BCHW, valid_BHW = regressor.normalise(torch.from_numpy(image_BCHW))
    assert valid_BHW.all()
    return pixels_BCHW, regressor.tokens(pixels_BCHW)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("scale", [(), ("30/255", "hh=-0.3")])
def test_values_of_tensors_are_those_of_arrays(dtype: str, scale: tuple[str, ...]) -> None:
    schema = with_values(
        Schema(("vv", "vh", "hh", "hv"), dtype, 7, 16),
        ("d = vv - vh", "s = hv + vv", "e = hv - hh"),
        scale,
        ("vh=-30.3",) if scale else (),
    )
    rng = np.random.default_rng(2)
    image_BCHW = rng.integers(0, 200, (2, *schema.image_shape)).astype(dtype)
    if dtype == "float32":
        image_BCHW += rng.random(image_BCHW.shape, np.float32) * (image_BCHW != 7)
        image_BCHW[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    statistics = statistics_of(np.tile(image_BCHW, (1, 1, 2, 2)), schema)
    for bands in (("d",), ("e", "hh", "d"), ("vv", "vh"), ("s", "d", "hv", "e", "vv"), schema.all_bands):
        layer = Normalise(schema, bands, statistics)
        values_BCHW, missing_BCHW = layer.values(torch.from_numpy(image_BCHW))
        expected_BCHW = values_of(image_BCHW, schema, bands)
        missing = np.isnan(expected_BCHW)
        np.testing.assert_array_equal(missing_BCHW.numpy(), missing)
        np.testing.assert_array_equal(values_BCHW.numpy()[~missing], expected_BCHW[~missing])
        pixels_BCHW, valid_BHW = layer(torch.from_numpy(image_BCHW))
        assert pixels_BCHW.shape == expected_BCHW.shape
        assert (pixels_BCHW.numpy()[missing] == 0).all()
        np.testing.assert_array_equal(valid_BHW.numpy(), ~missing.any(1))
        np.testing.assert_array_equal(layer.valid(image_BCHW[0]), valid_BHW[0].numpy())
        assert missing.any()


def test_only_the_stored_bands_that_are_needed_are_read() -> None:
    statistics = statistics_of(decibels(), FLOATS_8)
    assert Normalise(FLOATS_8, TWELVE, statistics).positions == tuple(range(8))
    assert Normalise(FLOATS_8, ("vv_vh_summer",), statistics).positions == (4, 5)
    some = Normalise(FLOATS_8, ("vv_vh_summer", "vh_summer", "vv_winter"), statistics)
    assert some.positions == (5, 0, 4)
    plain = Normalise(FLOATS_8, ("vh_summer", "vv_winter"), statistics)
    constants = {"clamp_min_C", "clamp_span_C", "mean_C", "std_C"}
    assert {name for name, _ in plain.named_buffers()} == {*constants, "position_S"}


def test_derived_differences_are_stored_ones_bit_for_bit() -> None:
    image_BCHW = decibels()
    stored, derived = (
        pixels_and_tokens(schema, pixels_BCHW, statistics_of(pixels_BCHW, schema))
        for schema, pixels_BCHW in ((FLOATS_12, with_differences(image_BCHW)), (FLOATS_8, image_BCHW))
    )
    for one, other in zip(stored, derived, strict=True):
        assert torch.equal(one, other)


def test_bytes_give_the_tokens_of_floats_to_their_rounding() -> None:
    """A byte is off by half a step, 15/255 dB, and a difference of two by a whole one."""
    twelve_BCHW, bytes_BCHW = with_differences(decibels()), as_bytes(decibels())
    statistics = statistics_of(twelve_BCHW, FLOATS_12)
    expected_BCHW, expected_BND = pixels_and_tokens(FLOATS_12, twelve_BCHW, statistics)
    found_BCHW, found_BND = pixels_and_tokens(BYTES_8, bytes_BCHW, statistics)
    for place, band in enumerate(TWELVE):
        summary = statistics.bands[band]
        per_decibel = 1 / ((summary.clamp_max - summary.clamp_min) * summary.clamped_std)
        off = (found_BCHW[:, place] - expected_BCHW[:, place]).abs().max().item()
        bound = (STEP if band in DERIVED else STEP / 2) * per_decibel
        assert 0.8 * bound < off <= bound + 1e-5, band
    # The rounding is all that tells them apart: floats that were rounded likewise give the same tokens.
    rounded_BCHW = (bytes_BCHW * np.float32(STEP) - np.float32(30)).astype(np.float32)
    _, rounded_BND = pixels_and_tokens(FLOATS_12, with_differences(rounded_BCHW), statistics)
    assert torch.equal(found_BND, rounded_BND)
    assert 0 < (found_BND - expected_BND).std() < 0.02 * expected_BND.std()
    # Each with the statistics of its own archive.
    _, own_BND = pixels_and_tokens(BYTES_8, bytes_BCHW, statistics_of(bytes_BCHW, BYTES_8))
    assert (own_BND - expected_BND).std() < 0.02 * expected_BND.std()


def test_a_checkpoint_keeps_what_values_are(tmp_path: Path) -> None:
    image_BCHW = as_bytes(decibels(1))
    bands = ("vv_vh_summer", "vv_winter")
    regressor = regressor_of(BYTES_8, bands, statistics_of(image_BCHW, BYTES_8))
    trained_on = {"data": "chips", "fingerprint": "0123456789abcdef", "treeline": "0"}
    baselines = Baselines(1.5, (0.1,) * 9, chips=8)
    Checkpoint(regressor, trained_on, {"epoch": 0}, baselines).save(str(tmp_path / "checkpoint"))
    loaded = load_checkpoint(str(tmp_path / "checkpoint")).regressor
    assert loaded.schema == BYTES_8 == read_checkpoint_header(str(tmp_path / "checkpoint")).schema
    stored = torch.from_numpy(image_BCHW)
    assert torch.equal(loaded.predict(stored)[0], regressor.predict(stored)[0])


def test_a_band_that_was_not_counted_is_refused() -> None:
    said = r"no band vv_vh: there are vv_winter .* vv_vh_autumn; treeline split --derive counts others"
    with pytest.raises(InputError, match=said):
        Normalise(BYTES_8, ("vv_winter", "vv_vh"), statistics_of(as_bytes(decibels()), BYTES_8))


@pytest.mark.parametrize(
    ("bands", "coefficients"),
    [
        (("d",), 2),
        (("d", "e"), 3),
        (("d", "s"), 2),
        (("d", "vv"), 2),
        (("vv", "vh", "d"), 2),
        (("hh", "vv", "d", "s", "e"), 3),
    ],
    ids=str,
)
def test_the_linear_baseline_is_least_squares_on_the_values(
    bands: tuple[str, ...], coefficients: int
) -> None:
    """`coefficients`: of the stored bands that these are made of."""
    schema = with_values(
        Schema(("vv", "vh", "hh"), "uint8", 0, 8),
        ("d = vv - vh", "s = vv + vh", "e = hh - vh"),
        ("30/255", "vh=0.2"),
        ("-30",),
    )
    rng = np.random.default_rng(4)
    image_BCHW = rng.integers(0, 255, (5, *schema.image_shape)).astype(np.uint8)
    values_BCHW = values_of(image_BCHW, schema, bands).astype(np.float64)
    height_BHW = (values_BCHW.sum(1) + rng.normal(0, 3, values_BCHW[:, 0].shape)).astype(np.float32)
    positions, mixing_FC = stored_terms(schema, bands)
    assert len(positions) == coefficients
    batch = Batch(np.arange(5), np.empty((0, 0), np.uint8), image_BCHW, height_BHW)
    fitted = fit_baselines([batch], schema.nodata, positions, mixing_FC)
    known = np.isfinite(values_BCHW).all(1)
    assert not known.all()
    design = np.c_[np.moveaxis(values_BCHW, 1, -1)[known], np.ones(known.sum())]
    # Above the rounding of float32, so that bands that follow from others do not fit it.
    solution = np.linalg.lstsq(design, height_BHW[known].astype(np.float64), rcond=1e-5)[0]
    np.testing.assert_allclose(fitted.linear(image_BCHW)[known], design @ solution, atol=1e-4)
    assert Baselines.from_json(fitted.to_json()) == fitted
