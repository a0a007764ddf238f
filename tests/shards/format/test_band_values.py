"""Values of bands: stored * scale + offset, and derived bands, which are counted like stored ones.

- values are numpy's own arithmetic; a derived one is missing where either band is, whatever its scale
- a schema that says nothing of it keeps the bytes it had before; JSON keeps one that does
- statistics of a derived band are those of a stored band of the same values, to the bit
- decibels as bytes and as floats have the same statistics but for rounding
- what cannot be is refused in one line; what differs between two schemas is said with the band's name
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from shards.errors import InputError
from shards.format.band_values import difference, values_of, values_of_band
from shards.format.derived import DerivedBand
from shards.format.schema import Chip, Schema, with_values
from shards.format.statistics import Counts, Statistics, Tally, statistics_json, summarise

STEP = 30 / 255
"""Decibels between two stored bytes."""
FLOATS = Schema(("vv", "vh"), "float32", None, 16)
BYTES = Schema(("vv", "vh"), "uint8", None, 16)
SCALED = with_values(BYTES, (), ("30/255",), ("-30",))


def decibels(count: int = 6, seed: int = 0) -> np.ndarray:
    """image_BCHW of VV and VH in decibels, between -30 and 0."""
    rng = np.random.default_rng(seed)
    vv_BHW = rng.normal(-10, 3, (count, 16, 16))
    return np.clip(np.stack([vv_BHW, vv_BHW - rng.gamma(4, 1.5, vv_BHW.shape)], 1), -30, 0).astype(np.float32)


def as_bytes(image_BCHW: np.ndarray) -> np.ndarray:
    return np.rint((image_BCHW + 30) / STEP).astype(np.uint8)


def statistics_of(image_BCHW: np.ndarray, schema: Schema) -> Statistics:
    heights_BHW = np.ones((len(image_BCHW), *schema.label_shape), np.float32)
    found = summarise(Tally.of(image_BCHW, heights_BHW, schema), schema)
    assert found is not None
    return found


# Values


@pytest.mark.parametrize("sign", ["-", "+"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_values_are_stored_times_scale_plus_offset_and_derived_from_those(dtype: str, sign: str) -> None:
    schema = with_values(
        Schema(("vv", "vh", "hh"), dtype, 7, 8), (f"made = hh {sign} vv",), ("0.5", "hh=-2"), ("vv=-30",)
    )
    image_CHW = np.random.default_rng(3).integers(0, 120, schema.image_shape).astype(dtype)
    image_CHW[0, 0, 0], image_CHW[2, 1, 1] = 7, 7
    found_CHW = values_of(image_CHW, schema, ("hh", "made", "vv"))
    vv_HW, hh_HW = (np.where(image_CHW[n] == 7, np.nan, image_CHW[n]).astype(np.float32) for n in (0, 2))
    vv_HW, hh_HW = vv_HW * np.float32(0.5) - np.float32(30), hh_HW * np.float32(-2)
    made_HW = hh_HW - vv_HW if sign == "-" else hh_HW + vv_HW
    assert found_CHW.dtype == np.float32
    np.testing.assert_array_equal(found_CHW, np.stack([hh_HW, made_HW, vv_HW]))
    assert np.isnan(found_CHW[1][[0, 1], [0, 1]]).all()
    np.testing.assert_array_equal(values_of(image_CHW[None, None], schema, schema.bands)[0, 0, 0], vv_HW)


def test_infinity_and_nan_are_missing_in_a_derived_band() -> None:
    schema = with_values(FLOATS, ("d = vv - vh",))
    image_CHW = decibels(1)[0]
    image_CHW[0, 0, :2], image_CHW[1, 0, 1:3] = np.inf, [np.inf, np.nan]
    found_HW = values_of_band(image_CHW, schema, "d")
    assert np.isnan(found_HW[0, :3]).all()
    np.testing.assert_array_equal(found_HW[1:], image_CHW[0, 1:] - image_CHW[1, 1:])


def test_values_that_are_stored_are_the_stored_ones() -> None:
    image_CHW = decibels(1)[0]
    np.testing.assert_array_equal(values_of(image_CHW, FLOATS, FLOATS.bands), image_CHW)


# What is written


def test_a_schema_that_says_nothing_of_values_has_the_bytes_of_before() -> None:
    before = (
        '{"bands": ["vv", "vh"], "dtype": "uint8", "nodata": null, "chip_size": 16, "pixel_size": 2.0, '
        '"label": "height", "label_unit": "m"}'
    )
    assert json.dumps(BYTES.to_json()) == before
    neutral = with_values(BYTES, (), ("1",), ("0",))
    assert neutral == BYTES == Schema.from_json(json.loads(before))
    assert replace(BYTES, scale=(1.0, 1.0), offset=(0.0, 0.0)) == BYTES


def test_json_keeps_values() -> None:
    schema = with_values(SCALED, ("d = vv - vh", "s = vh + vv"))
    written = json.loads(json.dumps(schema.to_json()))
    assert written["derived"] == ["d = vv - vh", "s = vh + vv"]
    assert written["scale"] == [STEP, STEP]
    assert Schema.from_json(written) == schema


@pytest.mark.parametrize("text", ["d=vv-vh", "d = vv - vh", "  d= vv  -  vh "])
def test_a_formula_may_have_spaces(text: str) -> None:
    assert DerivedBand.parse(text) == DerivedBand("d", "vv", "-", "vh")


def test_a_sign_may_be_part_of_a_bands_name() -> None:
    assert DerivedBand.parse("d = s1-vv + s1-vh") == DerivedBand("d", "s1-vv", "+", "s1-vh")


def test_bands_are_added_to_those_there_are() -> None:
    first = with_values(SCALED, ("d = vv - vh",))
    both = with_values(first, ("s = vv + vh", "d = vv - vh"))
    assert both.all_bands == ("vv", "vh", "d", "s")
    assert (both.scale, both.offset) == (SCALED.scale, SCALED.offset)
    assert with_values(both, (), ("vh=2",)).scale == (STEP, 2.0)


# Statistics


def test_a_derived_band_has_the_statistics_of_a_stored_one_of_its_values() -> None:
    image_BCHW = decibels()
    image_BCHW[0, 0, :3] = np.nan
    image_BCHW[1, 1, 2:5] = -np.inf
    with np.errstate(invalid="ignore"):
        stored_BCHW = np.concatenate([image_BCHW, image_BCHW[:, :1] - image_BCHW[:, 1:]], 1)
    derived = statistics_of(image_BCHW, with_values(FLOATS, ("d = vv - vh",)))
    assert derived == statistics_of(stored_BCHW, replace(FLOATS, bands=("vv", "vh", "d")))
    assert list(derived.bands) == ["vv", "vh", "d"]
    assert derived.bands["d"].count == image_BCHW[:, 0].size - 2 * 3 * 16
    differences = stored_BCHW[:, 2][np.isfinite(stored_BCHW[:, 2])].astype(np.float64)
    assert derived.bands["d"].mean == pytest.approx(differences.mean(), rel=1e-3)
    assert derived.bands["d"].std == pytest.approx(differences.std(), rel=1e-3)
    # What could not be computed from the stored bands: they go together.
    apart = np.hypot(derived.bands["vv"].std, derived.bands["vh"].std)
    assert derived.bands["d"].std < 0.9 * apart


def test_bytes_with_a_scale_have_the_statistics_of_floats_to_their_rounding() -> None:
    image_BCHW, formulas = decibels(), ("d = vv - vh",)
    floats = statistics_of(image_BCHW, with_values(FLOATS, formulas))
    scaled = statistics_of(as_bytes(image_BCHW), with_values(SCALED, formulas))
    plain = statistics_of(as_bytes(image_BCHW), BYTES)
    for name, steps in (("vv", 0.5), ("vh", 0.5), ("d", 1.0)):
        found, expected = scaled.bands[name], floats.bands[name]
        for fact in ("mean", "std", "minimum", "maximum"):
            assert getattr(found, fact) == pytest.approx(getattr(expected, fact), abs=steps * STEP + 0.01)
        for edge in ("clamp_min", "clamp_max"):
            assert getattr(found, edge) == pytest.approx(getattr(expected, edge), abs=4 * steps * STEP + 0.04)
        assert found.clamp_min < found.mean < 0 or name == "d"
        assert found.clamped_mean == pytest.approx(expected.clamped_mean, abs=0.02)
        assert found.clamped_std == pytest.approx(expected.clamped_std, abs=0.01)
    for name in BYTES.bands:  # exact, as bytes are: only the unit is another
        unit, stored = scaled.bands[name], plain.bands[name]
        assert unit.mean == pytest.approx(stored.mean * STEP - 30, rel=1e-12)
        assert unit.std == pytest.approx(stored.std * STEP, rel=1e-12)
        assert unit.percentiles["90"] == pytest.approx(stored.percentiles["90"] * STEP - 30, rel=1e-12)
        assert stored.clamp_min == 0


def test_a_negative_scale_turns_the_percentiles_round() -> None:
    image_BCHW = as_bytes(decibels())
    up, down = (statistics_of(image_BCHW, with_values(BYTES, (), (n,))).bands["vv"] for n in ("2", "-2"))
    assert (down.minimum, down.maximum) == (-up.maximum, -up.minimum)
    assert down.mean == pytest.approx(-up.mean)
    assert list(down.percentiles.values()) == sorted(down.percentiles.values())


def test_counts_add_in_any_order_and_bytes_keep_them() -> None:
    schema = with_values(SCALED, ("d = vv - vh",))
    heights_HW = np.ones((16, 16), np.float32)
    chips = [Chip(str(n), image_CHW, heights_HW) for n, image_CHW in enumerate(as_bytes(decibels()))]
    whole = Counts.of_chips(chips, schema)
    parts = Counts.of_chips(chips[4:], schema) + Counts.of_chips(chips[:4], schema)
    assert whole.to_bytes() == parts.to_bytes() == Counts.from_bytes(whole.to_bytes()).to_bytes()
    assert statistics_json(parts, schema) == statistics_json(whole, schema)
    assert set(statistics_json(whole, schema)["sources"]["unknown"]["bands"]) == {"vv", "vh", "d"}
    # The stored bands' histograms are those of a dataset without derived bands.
    plain = Counts.of_chips(chips, BYTES).total()
    total = whole.total()
    assert plain is not None
    assert total is not None
    assert total.bands[:2] == plain.bands
    assert asdict(statistics_of(as_bytes(decibels()), schema)) != {}


# Mistakes


@pytest.mark.parametrize(
    ("derive", "scale", "offset", "message"),
    [
        (("vv - vh",), (), (), "--derive 'vv - vh': cannot be read; give \"NAME = BAND - BAND\""),
        (("d = vv * vh",), (), (), "--derive 'd = vv * vh': cannot be read"),
        (("d = vv - vh - vh",), (), (), "cannot be read"),
        (("d = vv - hh",), (), (), "--derive 'd = vv - hh': no stored band hh: there are vv vh"),
        (("d = vv - vh", "e = d - vh"), (), (), "no stored band d: there are vv vh"),
        (("vh = vv - vh",), (), (), "vh is a stored band; choose another name"),
        (("d = vv - vh", "d = vv + vh"), (), (), "'d = vv + vh': another derived band has that name"),
        (("d = vv - vh", "d = vv - vh"), (), (), "another derived band has that name"),
        (("d = vv - vv",), (), (), "name two different bands"),
        ((), ("0",), (), "--scale vv=0: give a number other than 0"),
        ((), ("vh=0",), (), "--scale vh=0: give a number other than 0"),
        ((), ("1e-60",), (), "--scale vv=1e-60: give a number other than 0"),
        ((), ("nan",), (), "--scale nan: not a number"),
        ((), ("1/0",), (), "--scale 1/0: not a number"),
        ((), ("hh=1",), (), "--scale hh=1: no stored band hh: there are vv vh"),
        ((), ("vv=1", "vv=2"), (), "--scale vv=2: is given twice"),
        ((), (), ("1", "2"), "--offset 2: is given twice"),
        ((), (), ("inf",), "--offset inf: not a number"),
        ((), (), ("1e60",), "--offset vv=1e+60: give a finite number"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(
    derive: tuple[str, ...], scale: tuple[str, ...], offset: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        with_values(BYTES, derive, scale, offset)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_name_cannot_get_another_meaning() -> None:
    schema = with_values(BYTES, ("d = vv - vh",))
    with pytest.raises(InputError, match="another derived band has that name"):
        with_values(schema, ("d = vv + vh",))


def test_a_name_that_json_could_not_keep_is_refused() -> None:
    with pytest.raises(InputError, match="--derive 'd = vv - v h': cannot be read"):
        Schema(("vv", "v h"), derived=(DerivedBand("d", "vv", "-", "v h"),))
    with pytest.raises(InputError, match="--derive 'd e = vv - vh': cannot be read"):
        replace(BYTES, derived=(DerivedBand("d e", "vv", "-", "vh"),))


def test_as_many_scales_as_bands() -> None:
    with pytest.raises(InputError, match="--scale: 3 numbers for 2 bands"):
        replace(BYTES, scale=(1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bands": ("vv", "hh")}, "lack band vh and have band hh"),
        ({"bands": ("vh", "vv")}, "have the bands vh vv, not vv vh in this order"),
        ({"dtype": "int16"}, "are int16, not uint8"),
        (
            {"scale": (STEP, 0.1)},
            "have band vh with scale 0.1 and offset -30, not scale 0.1176471 and offset -30",
        ),
        (
            {"offset": ()},
            "have band vv with scale 0.1176471 and offset 0, not scale 0.1176471 and offset -30",
        ),
        ({"derived": (DerivedBand("d", "vv", "+", "vh"),)}, "have band d = vv + vh, not d = vv - vh"),
        ({"derived": ()}, ""),
        ({"derived": (DerivedBand("e", "vv", "+", "vh"),)}, ""),
        ({"chip_size": 99}, ""),
    ],
    ids=str,
)
def test_what_differs_is_said_with_the_bands_name(change: dict[str, Any], said: str) -> None:
    expected = with_values(SCALED, ("d = vv - vh",))
    if "bands" in change:
        change = {**change, "derived": ()}
    assert difference(replace(expected, **change), expected) == said
    assert difference(expected, expected) == ""
