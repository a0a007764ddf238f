"""One shard as Zarr: zarr-python alone reads what we read, and damage is never a wrong chip.

- round trips of several schemas, full and partial shards, into strided arrays as well
- a folder of our objects and metadata is a Zarr to zarr-python, with names, units and dimensions
- the same chips give the same bytes; damaged objects are an error that says what is wrong
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from pixels import in_another_layout

from shards.errors import DatasetError
from shards.format.schema import Chip, Schema
from shards.format.shard_cut import SHARD_BYTES, SHARD_CHIPS, chips_in_shard
from shards.format.tar import row_layout
from shards.format.zarr_v3 import chunk_chips, decode, encode, metadata, object_name

ARRAYS = ("image", "height")

SCHEMAS = [
    Schema(("blue", "green", "red", "nir")),
    Schema(("red", "green", "blue"), "uint8", None, 32),
    Schema(("vh",), "uint16", 0, 17),
    Schema(tuple("abcdefgh"), "int16", -9999, 24),
]
SMALL = Schema(("red", "nir"), chip_size=8)
MISSING = 2**64 - 1


def name_of(schema: Schema) -> str:
    return f"{len(schema.bands)}x{schema.chip_size}-{schema.dtype}"


def arrays_of(chips: Sequence[Chip]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([chip.image_CHW for chip in chips]), np.stack([chip.height_HW for chip in chips])


def decoded(
    objects: dict[str, bytes], samples: int, shard_chips: int, schema: Schema
) -> tuple[np.ndarray, np.ndarray]:
    image_BCHW = np.empty((samples, *schema.image_shape), schema.dtype)
    height_BHW = np.empty((samples, *schema.label_shape), np.float32)
    data = {array: np.frombuffer(content, np.uint8) for array, content in objects.items()}
    decode(data, samples, shard_chips, schema, image_BCHW, height_BHW)
    return image_BCHW, height_BHW


def resealed(data: bytes, chunks: int, entry: int, offset: int, nbytes: int) -> bytes:
    """`data` with another index entry under a checksum that is right."""
    index = bytearray(data[-16 * chunks - 4 : -4])
    struct.pack_into("<QQ", index, 16 * entry, offset, nbytes)
    return data[: -len(index) - 4] + index + struct.pack("<I", google_crc32c.value(bytes(index)))


@pytest.fixture
def small(new_chip: Callable[..., Chip]) -> tuple[list[Chip], dict[str, bytes]]:
    """Eleven chips of a small schema, and their objects in a shard of 16 chips and one chunk."""
    chips = [new_chip(number, SMALL) for number in range(11)]
    return chips, encode(chips, SMALL, 16)


@pytest.mark.parametrize("schema", SCHEMAS, ids=name_of)
@pytest.mark.parametrize(
    ("samples", "shard_chips"), [(1, 1), (5, 5), (20, 20), (5, 34), (19, 34), (7, 23), (1, 1000)]
)
def test_decoding_gives_what_was_encoded(
    schema: Schema, samples: int, shard_chips: int, new_chip: Callable[..., Chip]
) -> None:
    chips = [new_chip(number, schema) for number in range(samples)]
    image_BCHW, height_BHW = decoded(encode(chips, schema, shard_chips), samples, shard_chips, schema)
    expected_BCHW, expected_BHW = arrays_of(chips)
    np.testing.assert_array_equal(image_BCHW, expected_BCHW)
    np.testing.assert_array_equal(height_BHW, expected_BHW)


@pytest.mark.parametrize(
    ("shard_chips", "expected"), [(1000, 10), (1024, 16), (5, 5), (17, 1), (34, 2), (1, 1)]
)
def test_a_chunk_is_the_largest_divisor_of_a_shard_up_to_16(shard_chips: int, expected: int) -> None:
    assert chunk_chips(shard_chips) == expected


LARGE = Schema(tuple("abcdefghijkl"), "float32", None, 448)


@pytest.mark.parametrize(
    ("schema", "shard_chips", "shard_bytes", "expected"),
    [
        (SCHEMAS[0], SHARD_CHIPS, SHARD_BYTES, 1024),  # as before shards were cut by bytes
        (LARGE, SHARD_CHIPS, SHARD_BYTES, 6),
        (LARGE, SHARD_CHIPS, 0, 1024),
        (LARGE, SHARD_CHIPS, 1, 1),
        (LARGE, 4, SHARD_BYTES, 4),
        (replace(LARGE, chip_size=64), SHARD_CHIPS, SHARD_BYTES, 288),  # 297 would fit
        (replace(LARGE, chip_size=64), 291, SHARD_BYTES, 291),
    ],
)
def test_how_many_chips_a_shard_holds(
    schema: Schema, shard_chips: int, shard_bytes: int, expected: int, new_chip: Callable[..., Chip]
) -> None:
    count = chips_in_shard(schema, shard_chips, shard_bytes)
    assert count == expected
    if count > 1 and shard_bytes:
        assert count * row_layout(schema).span < shard_bytes
    if count not in (1, shard_chips):
        assert chunk_chips(count) == min(count, 16)


@pytest.mark.parametrize("schema", SCHEMAS, ids=name_of)
@pytest.mark.parametrize("samples", [12, 23, 1])
def test_zarr_python_alone_reads_the_folder(
    schema: Schema, samples: int, tmp_path: Path, new_chip: Callable[..., Chip]
) -> None:
    chips = [new_chip(number, schema) for number in range(samples)]
    files = metadata(schema, samples, 6)
    for number, first in enumerate(range(0, samples, 6)):
        for array, content in encode(chips[first : first + 6], schema, 6).items():
            files[object_name(array, number)] = content
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    group = zarr.open_group(str(tmp_path), mode="r")
    for array, expected in zip(ARRAYS, arrays_of(chips), strict=True):
        found = group[array]
        assert isinstance(found, zarr.Array)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found[...], expected)
        np.testing.assert_array_equal(found[samples - 1], expected[-1])


@pytest.mark.parametrize("schema", SCHEMAS, ids=name_of)
def test_metadata_says_what_the_arrays_are(schema: Schema) -> None:
    files = metadata(schema, 2500, 1000)
    assert set(files) == {"zarr.json", "image/zarr.json", "height/zarr.json"}
    assert files == metadata(schema, 2500, 1000)
    group, image, height = (
        json.loads(files[name]) for name in ("zarr.json", *(f"{a}/zarr.json" for a in ARRAYS))
    )
    assert group["attributes"] == {
        "bands": list(schema.bands),
        "nodata": schema.nodata,
        "pixel_size": 2.0,
        "label": "height",
        "label_unit": "m",
    }
    assert image["dimension_names"] == ["chip", "band", "row", "column"]
    assert height["dimension_names"] == ["chip", "row", "column"]
    assert image["shape"] == [2500, *schema.image_shape]
    assert height["shape"] == [2500, *schema.label_shape]
    assert (image["data_type"], image["fill_value"]) == (schema.dtype, 0)
    assert (height["data_type"], height["fill_value"]) == ("float32", "NaN")


def test_object_names() -> None:
    assert [object_name(array, 7) for array in ARRAYS] == ["image/c/7/0/0/0", "height/c/7/0/0"]


@pytest.mark.parametrize("schema", SCHEMAS, ids=name_of)
def test_the_same_chips_give_the_same_bytes(schema: Schema, new_chip: Callable[..., Chip]) -> None:
    chips = [new_chip(number, schema) for number in range(13)]
    objects = encode(chips, schema, 40)
    for other in (chips, chips, in_another_layout(chips)):
        assert encode(other, schema, 40) == objects


def test_chunks_that_hold_only_the_fill_value_are_stored() -> None:
    image_CHW, height_HW = (
        np.zeros(SMALL.image_shape, np.int16),
        np.full(SMALL.label_shape, np.nan, np.float32),
    )
    chips = [Chip(str(number), image_CHW, height_HW) for number in range(5)]
    image_BCHW, height_BHW = decoded(encode(chips, SMALL, 34), 5, 34, SMALL)
    assert not image_BCHW.any()
    assert np.isnan(height_BHW).all()


def test_views_of_one_buffer_are_filled_and_nothing_around_them(
    small: tuple[list[Chip], dict[str, bytes]],
) -> None:
    chips, objects = small
    image_nbytes, height_nbytes = 2 * 2 * 8 * 8, 4 * 8 * 8
    rows_BS = np.full((12, image_nbytes + height_nbytes + 8), 7, np.uint8)
    image_BCHW = rows_BS[:11, :image_nbytes].view("<i2").reshape(11, *SMALL.image_shape, copy=False)
    height_BHW = rows_BS[:11, image_nbytes:-8].view("<f4").reshape(11, *SMALL.label_shape, copy=False)
    data = {array: np.frombuffer(content, np.uint8) for array, content in objects.items()}
    decode(data, 11, 16, SMALL, image_BCHW, height_BHW)
    for found, expected in zip((image_BCHW, height_BHW), arrays_of(chips), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (rows_BS[:, -8:] == 7).all()
    assert (rows_BS[11] == 7).all()


def test_fewer_chips_than_the_shard_holds(small: tuple[list[Chip], dict[str, bytes]]) -> None:
    chips, objects = small
    for samples in (0, 1, 10):
        found = decoded(objects, samples, 16, SMALL)
        for array, expected in zip(found, arrays_of(chips), strict=True):
            np.testing.assert_array_equal(array, expected[:samples])


@pytest.mark.parametrize("count", [0, 17])
def test_no_chips_and_too_many_are_refused(count: int, new_chip: Callable[..., Chip]) -> None:
    with pytest.raises(ValueError, match=f"{count} chips for a shard of 16"):
        encode([new_chip(0, SMALL)] * count, SMALL, 16)


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return bytes(damaged)


def cut_end(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def cut_start(data: bytes, rng: np.random.Generator) -> bytes:
    return data[rng.integers(1, len(data)) :]


def swap(data: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    first, second = rng.integers(len(data), size=2)
    damaged[first], damaged[second] = damaged[second], damaged[first]
    return bytes(damaged)


def overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(data)))
    patch = rng.bytes(int(rng.integers(1, 64)))
    return (data[:start] + patch + data[start + len(patch) :])[: len(data)]


def insert(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(data) + 1))
    return data[:start] + rng.bytes(int(rng.integers(1, 20))) + data[start:]


@pytest.mark.parametrize("damage", [flip, cut_end, cut_start, swap, overwrite, insert])
@pytest.mark.parametrize("array", ARRAYS)
def test_a_damaged_object_is_an_error_or_the_right_chips(
    array: str, damage: Callable[..., bytes], new_chip: Callable[..., Chip]
) -> None:
    chips = [new_chip(number, SMALL) for number in range(9)]
    objects, rng = encode(chips, SMALL, 34), np.random.default_rng(20_231_006)
    errors: list[str] = []
    for _ in range(200):
        damaged = objects | {array: damage(objects[array], rng)}
        try:
            found = decoded(damaged, 9, 34, SMALL)
        except DatasetError as error:
            errors.append(str(error))
        else:
            for values, expected in zip(found, arrays_of(chips), strict=True):
                np.testing.assert_array_equal(values, expected)
    assert len(errors) > 150
    assert all(error.startswith(array) for error in errors)


@pytest.mark.parametrize("array", ARRAYS)
def test_a_flip_of_any_chunk_byte_or_index_byte_is_an_error(
    array: str, small: tuple[list[Chip], dict[str, bytes]]
) -> None:
    objects = small[1]
    for position in range(len(objects[array])):
        damaged = bytearray(objects[array])
        damaged[position] ^= 0x40
        with pytest.raises(DatasetError, match=rf"{array}, (chunk 0|index): the checksum"):
            decoded(objects | {array: bytes(damaged)}, 11, 16, SMALL)


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize(
    ("offset", "nbytes", "message"),
    [
        (MISSING, MISSING, "is missing"),
        (0, MISSING, "not within"),
        (MISSING, 100, "not within"),
        (2**63, 2**63, "not within"),
        (10**6, 100, "not within"),
        (0, 3, "not within"),
        (0, 50, "checksum"),
    ],
)
def test_an_index_that_points_elsewhere(
    array: str, offset: int, nbytes: int, message: str, small: tuple[list[Chip], dict[str, bytes]]
) -> None:
    objects = small[1]
    damaged = objects | {array: resealed(objects[array], 1, 0, offset, nbytes)}
    with pytest.raises(DatasetError, match=rf"{array}, chunk 0.*{message}"):
        decoded(damaged, 11, 16, SMALL)


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("content", [b"", b"abc", bytes(40), b"\xff" * 200], ids=len)
def test_a_chunk_that_is_not_compressed_is_an_error_whatever_its_checksum(
    array: str, content: bytes, small: tuple[list[Chip], dict[str, bytes]]
) -> None:
    objects = small[1]
    chunk = content + struct.pack("<I", google_crc32c.value(content))
    damaged = objects | {array: resealed(chunk + bytes(20), 1, 0, 0, len(chunk))}
    with pytest.raises(DatasetError, match=f"{array}, chunk 0"):
        decoded(damaged, 11, 16, SMALL)


def test_chips_of_another_size_are_an_error(small: tuple[list[Chip], dict[str, bytes]]) -> None:
    other = replace(SMALL, chip_size=9)
    with pytest.raises(DatasetError, match="image, chunk 0: 4096 bytes where 16 chips have 5184"):
        decoded(small[1], 11, 16, other)


def test_more_chips_than_a_shard_holds_are_an_error(small: tuple[list[Chip], dict[str, bytes]]) -> None:
    with pytest.raises(DatasetError, match="17 chips are more than a shard of 16"):
        decoded(small[1], 17, 16, SMALL)


def test_bytes_too_few_for_an_index_are_an_error(small: tuple[list[Chip], dict[str, bytes]]) -> None:
    with pytest.raises(DatasetError, match="height: 19 bytes are too few"):
        decoded(small[1] | {"height": bytes(19)}, 11, 16, SMALL)
