"""One tar shard: plain WebDataset for everybody, equal rows for us, and both say the same.

- Python's tarfile and WebDataset's own reader give the arrays that our row views give, under the same keys
- every chip takes the same number of bytes, whatever its key and origin
- the same chips give the same bytes; bytes of another length are an error
"""

from __future__ import annotations

import gc
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from pixels import in_another_layout

from shards.errors import DatasetError
from shards.format.schema import Chip, Schema
from shards.format.tar import arrays_of, pack, row_layout, stride_of

MEMBERS = ("image.npy", "height.npy", "json")
SCHEMAS = [
    Schema(("blue", "green", "red", "nir")),
    Schema(("red", "green", "blue"), "uint8", None, 32),
    Schema(("vh",), "uint16", 0, 17),
    Schema(tuple("abcdefgh"), "int16", -9999, 24),
]


def ours(shard_S: np.ndarray, samples: int, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    stride = stride_of(shard_S.size, samples, schema)
    return arrays_of(shard_S[: samples * stride].reshape(samples, stride), schema)


def from_tarfile(shard_S: np.ndarray) -> dict[str, dict[str, bytes]]:
    """Payloads by key and ending."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(shard_S.data), mode="r:") as archive:
        for member in archive:
            key, _, ending = member.name.partition(".")
            payload = archive.extractfile(member)
            assert payload is not None
            found.setdefault(key, {})[ending] = payload.read()
    return found


@pytest.fixture(params=SCHEMAS, ids=lambda schema: f"{len(schema.bands)}x{schema.chip_size}-{schema.dtype}")
def case(request: pytest.FixtureRequest, new_chip: Callable[..., Chip]) -> tuple[list[Chip], Schema]:
    """Five chips of a schema, one with an origin and a key longer than the others'."""
    chips = [new_chip(number, request.param) for number in range(5)]
    chips[2] = replace(chips[2], key="k" * 88, x=1.25, y=-3.5, crs="EPSG:3338" * 60)
    return chips, request.param


def test_tarfile_reads_what_was_packed(case: tuple[list[Chip], Schema]) -> None:
    chips, schema = case
    found = from_tarfile(pack(chips, schema))
    assert list(found) == [chip.key for chip in chips]
    for chip in chips:
        payloads = found[chip.key]
        assert tuple(payloads) == MEMBERS
        image = np.load(io.BytesIO(payloads["image.npy"]), allow_pickle=False)
        assert image.dtype == schema.dtype
        np.testing.assert_array_equal(image, chip.image_CHW)
        np.testing.assert_array_equal(np.load(io.BytesIO(payloads["height.npy"])), chip.height_HW)
        assert json.loads(payloads["json"]) == chip.origin()


def test_our_views_are_what_was_packed(case: tuple[list[Chip], Schema]) -> None:
    chips, schema = case
    image_BCHW, height_BHW = ours(pack(chips, schema), len(chips), schema)
    assert image_BCHW.dtype == schema.dtype
    assert height_BHW.dtype == np.float32
    np.testing.assert_array_equal(image_BCHW, np.stack([chip.image_CHW for chip in chips]))
    np.testing.assert_array_equal(height_BHW, np.stack([chip.height_HW for chip in chips]))


def test_every_chip_takes_the_same_bytes(case: tuple[list[Chip], Schema]) -> None:
    chips, schema = case
    shard_S = pack(chips, schema)
    assert shard_S.dtype == np.uint8
    assert shard_S.ndim == 1
    with tarfile.open(fileobj=io.BytesIO(shard_S.data), mode="r:") as archive:
        starts = [member.offset for member in archive if member.name.endswith(".image.npy")]
    assert len(set(np.diff(starts))) == 1
    assert np.diff(starts)[0] == (shard_S.size - 1024) / len(chips) >= row_layout(schema).span


def test_a_chip_of_the_usual_schema_has_its_arrays_in_the_first_51_200_bytes(schema: Schema) -> None:
    assert row_layout(schema).span == 51_200


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # WebDataset leaves closing to Python
def test_webdataset_reads_what_we_read(pairs_dataset: Any) -> None:
    dataset = pairs_dataset.open()
    paths = [str(Path(pairs_dataset.url) / shard.name) for shard in dataset.manifest.shards]
    batch = dataset.gather(dataset.chips("all"))
    keys = dataset.index["key"].to_pylist()
    samples = list(webdataset.WebDataset(paths, shardshuffle=False).decode())
    gc.collect()
    assert [sample["__key__"] for sample in samples] == keys
    for number, sample in enumerate(samples):
        assert sample["image.npy"].dtype == batch.image_BCHW.dtype
        np.testing.assert_array_equal(sample["image.npy"], batch.image_BCHW[number])
        np.testing.assert_array_equal(sample["height.npy"], batch.height_BHW[number])
        assert sample["json"] == pairs_dataset.chips[keys[number]].origin()


def test_the_same_chips_give_the_same_bytes_and_no_trace_of_who_wrote_them(
    case: tuple[list[Chip], Schema],
) -> None:
    chips, schema = case
    shard_S = pack(chips, schema)
    again_S = pack([replace(chip, image_CHW=chip.image_CHW.copy()) for chip in chips], schema)
    assert shard_S.tobytes() == again_S.tobytes()
    with tarfile.open(fileobj=io.BytesIO(shard_S.data), mode="r:") as archive:
        facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in archive}
    assert facts == {(0, 0, 0, "", "", 0o644)}


def test_memory_layout_and_byte_order_leave_no_trace(case: tuple[list[Chip], Schema]) -> None:
    chips, schema = case
    assert pack(in_another_layout(chips), schema).tobytes() == pack(chips, schema).tobytes()


@pytest.mark.parametrize("change", [-1, 1, -512, 512, -(10**9)])
def test_bytes_of_another_length_are_an_error(case: tuple[list[Chip], Schema], change: int) -> None:
    chips, schema = case
    nbytes = pack(chips, schema).size + change
    with pytest.raises(DatasetError, match=f"{nbytes:,} bytes"):
        stride_of(nbytes, len(chips), schema)
