"""What a chip may hold: any label or none, integer or float32 pixels; packed, it is what it was.

- without a label there is no height: none in the tar, an empty array in a chip
- Python's tarfile and WebDataset's own reader read such shards, attributes of a chip among them
- a schema that cannot be is refused in one line; what JSON keeps is the same schema
"""

from __future__ import annotations

import gc
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from shards.errors import DatasetError, InputError
from shards.format.schema import DTYPES, Chip, Schema
from shards.format.tar import arrays_of, pack, row_layout, stride_of

ATTRIBUTES: dict[str, Any] = {"burnt": True, "cover": 0.25, "plot": "Toolik é", "year": 2019}
SCHEMAS = [
    Schema(tuple("abc"), "int16", chip_size=16, label=""),
    Schema(("vv", "vh"), "float32", None, 16),
    Schema(("vv",), "float32", -99.0, 5, label=""),
    Schema(("red",), "uint8", None, 7, label="", label_unit=""),
    Schema(("red",), "uint16", 0, 3, label="biomass", label_unit="t/ha"),
]


def made_chips(schema: Schema, count: int = 4) -> list[Chip]:
    """Random pixels, of float32 with some missing; one chip with attributes, one with a null among them."""
    rng = np.random.default_rng(7)
    image_NCHW = rng.uniform(0, 200, (count, *schema.image_shape)).astype(schema.dtype)
    if schema.dtype == "float32":
        image_NCHW[:, :, 0, :2] = np.nan, -np.inf
    height_NHW = rng.gamma(1.0, 3.0, (count, *schema.label_shape)).astype(np.float32)
    chips = [Chip(f"chip_{n}", image_NCHW[n], height_NHW[n], "3DEP", "S1") for n in range(count)]
    chips[1] = replace(chips[1], attributes=ATTRIBUTES)
    chips[2] = replace(chips[2], attributes={"plot": None, "year": 1999})
    return chips


@pytest.fixture(params=SCHEMAS, ids=lambda schema: f"{schema.dtype} {schema.label or 'no label'}")
def case(request: pytest.FixtureRequest) -> tuple[list[Chip], Schema]:
    return made_chips(request.param), request.param


def assert_is_packed(chip: Chip, schema: Schema, image_CHW: np.ndarray, height_HW: np.ndarray) -> None:
    assert image_CHW.dtype == schema.dtype
    assert image_CHW.shape == schema.image_shape
    assert height_HW.dtype == np.float32
    assert height_HW.shape == schema.label_shape
    np.testing.assert_array_equal(image_CHW, chip.image_CHW)
    np.testing.assert_array_equal(height_HW, chip.height_HW)


def test_a_label_has_the_images_footprint_or_is_empty(case: tuple[list[Chip], Schema]) -> None:
    _, schema = case
    assert schema.label_shape == (schema.image_shape[1:] if schema.label else (0, 0))


def test_our_views_are_what_was_packed(case: tuple[list[Chip], Schema]) -> None:
    chips, schema = case
    shard_S = pack(chips, schema)
    stride = stride_of(shard_S.size, len(chips), schema)
    assert stride * len(chips) + 1024 == shard_S.size
    rows_BS = shard_S[: stride * len(chips)].reshape(len(chips), stride)
    span = row_layout(schema).span
    for rows in (rows_BS, np.ascontiguousarray(rows_BS[:, :span])):
        for chip, *arrays in zip(chips, *arrays_of(rows, schema), strict=True):
            assert_is_packed(chip, schema, *arrays)
    image_BCHW, height_BHW = arrays_of(rows_BS[:0], schema)
    assert (image_BCHW.shape, height_BHW.shape) == ((0, *schema.image_shape), (0, *schema.label_shape))
    for nbytes in (shard_S.size - 512, shard_S.size + 1, 1024):
        with pytest.raises(DatasetError, match=f"{nbytes:,} bytes"):
            stride_of(nbytes, len(chips), schema)


def test_tarfile_reads_what_was_packed_and_no_label_is_no_member(case: tuple[list[Chip], Schema]) -> None:
    chips, schema = case
    endings = ("image.npy", "height.npy", "json") if schema.label else ("image.npy", "json")
    with tarfile.open(fileobj=io.BytesIO(pack(chips, schema).data), mode="r:") as archive:
        assert archive.getnames() == [f"{chip.key}.{ending}" for chip in chips for ending in endings]

        def payload(name: str) -> io.BytesIO:
            member = archive.extractfile(name)
            assert member is not None
            return io.BytesIO(member.read())

        for chip in chips:
            image_CHW = np.load(payload(f"{chip.key}.image.npy"), allow_pickle=False)
            height_HW = np.load(payload(f"{chip.key}.height.npy")) if schema.label else chip.height_HW
            assert_is_packed(chip, schema, image_CHW, height_HW)
            assert json.load(payload(f"{chip.key}.json")) == chip.origin()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # WebDataset leaves closing to Python
def test_webdataset_reads_what_was_packed(case: tuple[list[Chip], Schema], tmp_path: Path) -> None:
    chips, schema = case
    path = tmp_path / "000000.tar"
    path.write_bytes(pack(chips, schema).data)
    samples = list(webdataset.WebDataset([str(path)], shardshuffle=False).decode())
    gc.collect()
    assert [sample["__key__"] for sample in samples] == [chip.key for chip in chips]
    for chip, sample in zip(chips, samples, strict=True):
        assert ("height.npy" in sample) == bool(schema.label)
        assert_is_packed(chip, schema, sample["image.npy"], sample.get("height.npy", chip.height_HW))
        assert sample["json"] == chip.origin()


def test_attributes_are_in_the_origin_unless_there_are_none_or_they_are_null() -> None:
    plain, rich, partly, _ = made_chips(SCHEMAS[0])
    assert rich.origin() == {**plain.origin(), "key": "chip_1", "attributes": ATTRIBUTES}
    assert partly.origin()["attributes"] == {"year": 1999}
    assert replace(plain, attributes={"plot": None}).origin() == plain.origin()


def test_json_keeps_a_schema(case: tuple[list[Chip], Schema]) -> None:
    _, schema = case
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_bands_are_found_by_name_in_any_order() -> None:
    schema = Schema(("blue", "green", "red", "nir"))
    assert schema.band_positions(("nir", "blue")) == (3, 0)
    with pytest.raises(InputError, match="no band swir: there are blue green red nir"):
        schema.band_positions(("red", "swir"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chip_size": 0}, "--chip-size 0: give 1"),
        ({"chip_size": -64}, "--chip-size -64: give 1"),
        ({"pixel_size": 0.0}, "--pixel-size 0: give a size above 0"),
        ({"pixel_size": -2.0}, "--pixel-size -2: give a size above 0"),
        ({"pixel_size": float("nan")}, "--pixel-size nan: give a size above 0"),
        ({"pixel_size": float("inf")}, "--pixel-size inf: give a size above 0"),
        ({"dtype": "float64"}, f"pixel type float64: images must be one of {', '.join(DTYPES)}"),
        ({"dtype": "int15"}, "pixel type int15"),
        ({"bands": ("red", "nir", "red")}, "'red nir red': give each band a name of its own"),
        ({"bands": ()}, "'': give each band a name"),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        replace(Schema(("red", "nir")), **change)
    assert "\n" not in str(caught.value)
