"""Datasets that Hugging Face's library wrote come back pixel for pixel, whatever they are kept in.

- nested lists, Array3D, save_to_disk, DatasetDict, Parquet and Arrow files, here and on remote storage
- any process reads any rows in any order
- scaled pixels become exactly the whole numbers that they were
- columns that are no lists are attributes, or known of a chip's origin
- a bad row is refused by itself, for a reason; a mistake is one line that says what to do
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from ingest.chips.check import Rejected, Rules, checked
from ingest.chips.source import GROUP, Raw
from ingest.config import HuggingFaceConfig
from ingest.files.huggingface_source import HuggingFaceSource
from shards.errors import InputError
from shards.storage.objects import publish_folder

ROWS, SIZE = 23, 8
BANDS = ("red", "green", "blue")
SCALES = (7142.0, 5893.0, 5387.0)

Columns = dict[str, Any]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The library, offline, with its caches in a place of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.setenv(name, "1")
        import datasets

        datasets.disable_progress_bars()
        yield datasets


def chips(rows: int = ROWS) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Images (rows, SIZE, SIZE, bands) and heights (rows, SIZE, SIZE)."""
    rng = np.random.default_rng(0)
    image_NHWC = rng.integers(0, 5387, (rows, SIZE, SIZE, len(BANDS)), np.int16)
    return image_NHWC, rng.gamma(2, 2, (rows, SIZE, SIZE)).astype(np.float32)


def columns(rows: int = ROWS) -> Columns:
    """As the notebook keeps chips: scaled to 0..1, bands last."""
    image_NHWC, height_NHW = chips(rows)
    scaled = (image_NHWC / np.array(SCALES)).astype(np.float32)
    return {"image": scaled.tolist(), "chm": height_NHW.tolist(), "place": [f"p{n}" for n in range(rows)]}


def source_of(data: Path | str, **options: Any) -> HuggingFaceSource:
    known: Columns = {"bands": BANDS, "chip_size": SIZE, "scaled_by": SCALES}
    return HuggingFaceSource(HuggingFaceConfig(out="", data=str(data), **(known | options)))


def read_all(source: HuggingFaceSource) -> list[Raw | Rejected]:
    return list(source.read(source.candidates().table))


def read_one(path: Path, image: Any, height: Any = None, **options: Any) -> Raw | Rejected:
    """What becomes of one image of a Parquet file."""
    columns = {"image": image if isinstance(image, pa.Array) else pa.array([np.asarray(image).tolist()])}
    if height is not None:
        columns["chm"] = pa.array([height])
    pq.write_table(pa.table(columns), path / "one.parquet")
    (raw,) = read_all(source_of(path / "one.parquet", height_column="chm" * (height is not None), **options))
    return raw


def assert_chips(raws: list[Raw | Rejected], source: HuggingFaceSource, rows: Any) -> None:
    """That these are the rows of `chips`, as stored."""
    image_NHWC, height_NHW = chips()
    for raw, row in zip(raws, rows, strict=True):
        assert isinstance(raw, Raw), raw
        image_CHW, height_HW = checked(raw.image, raw.height, source.schema, Rules())
        np.testing.assert_array_equal(image_CHW, image_NHWC[row].transpose(2, 0, 1))
        np.testing.assert_array_equal(height_HW, height_NHW[row])


def write_lists(datasets: Any, path: Path) -> Path:
    datasets.Dataset.from_dict(columns()).save_to_disk(path, num_shards=3)
    return path


def write_arrays(datasets: Any, path: Path) -> Path:
    features = datasets.Features(
        image=datasets.Array3D((SIZE, SIZE, 3), "float32"),
        chm=datasets.Array2D((SIZE, SIZE), "float32"),
        place=datasets.Value("string"),
    )
    datasets.Dataset.from_dict(columns(), features).save_to_disk(path, num_shards=2)
    return path


def write_bands_first(datasets: Any, path: Path) -> Path:
    features = datasets.Features(
        image=datasets.Array3D((None, SIZE, SIZE), "float64"),
        chm=datasets.Array3D((1, SIZE, SIZE), "float32"),
    )
    known = columns()
    known["image"] = np.transpose(known["image"], (0, 3, 1, 2))
    known["chm"] = np.array(known["chm"], np.float32)[:, None]
    del known["place"]
    datasets.Dataset.from_dict(known, features).save_to_disk(path)
    return path


def write_parquet(datasets: Any, path: Path) -> Path:
    for number, rows in enumerate((range(9), range(9, ROWS))):
        (path / "data").mkdir(parents=True, exist_ok=True)
        part = datasets.Dataset.from_dict(columns()).select(rows)
        part.to_parquet(path / "data" / f"train-{number:05d}-of-00002.parquet", batch_size=4)
    return path


def write_array_parquet(datasets: Any, path: Path) -> Path:
    saved = datasets.load_from_disk(str(write_arrays(datasets, path / "saved")))
    saved.to_parquet(path / "one.PARQUET")
    return path / "one.PARQUET"


def fixed_lists(rows: int = ROWS) -> pa.Table:
    """Fixed-size lists of fixed-size lists, and lists with 64-bit offsets."""
    known = columns(rows)
    image, chm = pa.float32(), pa.float32()
    for size in (3, SIZE, SIZE):
        image = pa.list_(image, size)
    for _ in range(2):
        chm = pa.large_list(chm)
    return pa.table({"image": pa.array(known["image"], image), "chm": pa.array(known["chm"], chm)})


def write_arrow_file(datasets: Any, path: Path) -> Path:
    path.mkdir()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(path / "x.arrow", fixed_lists().schema, options=options) as writer:
        writer.write_table(fixed_lists(), max_chunksize=5)
    return path


def write_arrow_stream(datasets: Any, path: Path) -> Path:
    path.mkdir()
    with pa.ipc.new_stream(path / "x.arrow", fixed_lists().schema) as writer:
        writer.write_table(fixed_lists(), max_chunksize=5)
    return path / "x.arrow"


WRITERS = (
    write_lists,
    write_arrays,
    write_bands_first,
    write_parquet,
    write_array_parquet,
    write_arrow_file,
    write_arrow_stream,
)


@pytest.mark.parametrize("write", WRITERS)
def test_every_row_comes_back_in_any_order_and_in_another_process(
    write: Callable[..., Path], datasets: Any, tmp_path: Path
) -> None:
    source = source_of(write(datasets, tmp_path / "set"))
    table = source.candidates().table
    assert table["_file"].type == pa.int32()
    assert (np.diff(table[GROUP].to_numpy()) >= 0).all()
    assert_chips(list(source.read(table)), source, range(ROWS))
    elsewhere = pickle.loads(pickle.dumps(source))
    for rows in ([], [4, 5, 6, 17, 22], [22, 3, 3, 9, 8, 0], list(range(ROWS))[::-5]):
        assert_chips(list(elsewhere.read(table.take(rows or pa.array([], pa.int64())))), source, rows)


def test_a_remote_folder_is_as_good_as_a_local_one(datasets: Any, tmp_path: Path) -> None:
    local = source_of(write_lists(datasets, tmp_path / "set"))
    publish_folder("memory://huggingface/set", str(tmp_path / "set"))
    try:
        remote = source_of("memory://huggingface/set")
        table = remote.candidates().table
        assert table.drop_columns(GROUP) == local.candidates().table.drop_columns(GROUP)
        assert table[GROUP] == table["_file"].cast(pa.int64())  # what is fetched whole is read by one task
        assert_chips(list(remote.read(table)), remote, range(ROWS))
        fsspec.filesystem("memory").rm("/huggingface/set/data-00001-of-00003.arrow")
        raws = list(remote.read(table))
        assert [isinstance(raw, Rejected) for raw in raws] == [n == 1 for n in table["_file"].to_pylist()]
    finally:
        fsspec.filesystem("memory").rm("/huggingface", recursive=True)


def test_splits_of_a_dataset_dict_are_told_apart(datasets: Any, tmp_path: Path) -> None:
    whole = datasets.Dataset.from_dict(columns())
    datasets.DatasetDict(train=whole.select(range(20)), test=whole.select(range(20, ROWS))).save_to_disk(
        tmp_path / "a set.v2"
    )
    source = source_of(tmp_path / "a set.v2/")
    table = source.candidates().table
    keys = [f"a_set_v2_train_{n:08d}" for n in range(20)] + [f"a_set_v2_test_{n:08d}" for n in range(3)]
    assert table["key"].to_pylist() == keys
    assert table["saved_split"].to_pylist() == ["train"] * 20 + ["test"] * 3
    assert table["place"].to_pylist() == [f"p{n}" for n in range(ROWS)]
    assert_chips(list(source.read(table)), source, range(ROWS))


@pytest.mark.parametrize(("scale", "dtype"), [(7142, "f4"), (5893.4, "f4"), (10_000, "f8"), (1, "f4")])
def test_scaled_pixels_become_the_numbers_that_they_were(scale: float, dtype: str, tmp_path: Path) -> None:
    """Clipped to 0..scale and divided by it, as the notebook does with 0..10,000."""
    pixel_CHW = np.stack([np.arange(10_000), np.arange(10_000, 0, -1)]).reshape(2, 100, 100)
    clipped = np.clip(pixel_CHW.astype(np.float32), 0, scale)
    scaled = pa.array([(clipped / np.float32(scale)).astype(dtype).tolist()], nested(dtype))
    raw = read_one(tmp_path, scaled, scaled_by=(scale, scale), bands=("a", "b"), chip_size=100)
    assert isinstance(raw, Raw)
    assert raw.image.dtype == np.int16
    np.testing.assert_array_equal(raw.image, np.rint(clipped))


def nested(dtype: str) -> pa.DataType:
    return pa.list_(pa.list_(pa.list_(pa.from_numpy_dtype(np.dtype(dtype)))))


def one_band(*values: float) -> NDArray[np.float64]:
    image_CHW = np.zeros((1, SIZE, SIZE))
    image_CHW.flat[: len(values)] = values
    return image_CHW


ONE: Columns = {"bands": ("grey",), "scaled_by": ()}


def test_a_missing_pixel_is_nodata_or_nan(tmp_path: Path) -> None:
    image = one_band(0.5, np.nan)
    scaled = read_one(tmp_path, image, **ONE | {"scaled_by": (200.0,)})
    assert isinstance(scaled, Raw)
    assert scaled.image.flat[:3].tolist() == [100, -9999, 0]
    lists = image.tolist()
    lists[0][0][1] = None
    for dtype in ("f4", "f8"):
        same = read_one(tmp_path, pa.array([lists], nested(dtype)), **ONE | {"scaled_by": (200.0,)})
        assert isinstance(same, Raw)
        np.testing.assert_array_equal(same.image, scaled.image)
    kept = read_one(tmp_path, image, **ONE | {"dtype": "float32"})
    assert isinstance(kept, Raw)
    np.testing.assert_array_equal(kept.image, image.astype(np.float32))
    lists[0][0][0] = 7
    whole = read_one(tmp_path, pa.array([lists], nested("i8")), **ONE)
    assert isinstance(whole, Raw)
    assert whole.image.flat[:3].tolist() == [7, -9999, 0]


@pytest.mark.parametrize(
    ("image", "options", "said"),
    [
        (one_band(0.5, 1.01), {"scaled_by": (9.0,)}, "not scaled to 0..1: image has values from 0 to 1.01"),
        (one_band(-0.1), {"scaled_by": (9.0,)}, "not scaled to 0..1: image has values from -0.1 to 0"),
        (one_band(np.inf), {"scaled_by": (9.0,)}, "not scaled to 0..1: image has values from 0 to inf"),
        (one_band(np.nan), {"scaled_by": (9.0,), "dtype": "uint8"}, "incomplete: image has NaN"),
        (one_band(np.nan), {"scaled_by": (9.0,), "nodata": None}, "incomplete: image has NaN"),
        (one_band(32768).astype("i8"), {}, "wrong dtype: image has values that int16 cannot hold"),
        (one_band(-1).astype("i2"), {"dtype": "uint8"}, "wrong dtype: image has values that uint8"),
        (
            one_band(2**24 + 1).astype("i4"),
            {"dtype": "float32"},
            "wrong dtype: image has values that float32",
        ),
        (
            np.zeros((1, SIZE, 5)),
            {"scaled_by": (9.0,)},
            r"wrong shape: image is \(1, 8, 5\), not \(1, 8, 8\)",
        ),
        (pa.array([[[[0]], [[0, 1]]]]), {}, "wrong shape: image has lists of 1 to 2 elements"),
        (pa.array([[[[0]], None]]), {}, "wrong shape: image has lists that are null or empty"),
        (
            pa.array([[], [[[0]]]][:1], nested("i2")),
            {},
            "wrong shape: image has lists that are null or empty",
        ),
        (pa.array([None], nested("i2")), {}, "missing partner: no image"),
    ],
)
def test_a_bad_image_is_refused_for_a_reason(image: Any, options: Columns, said: str, tmp_path: Path) -> None:
    raw = read_one(tmp_path, image, **ONE | options)
    schema = source_of(tmp_path / "one.parquet", **ONE, height_column="").schema
    if isinstance(raw, Raw):
        with pytest.raises(Rejected, match=said):
            checked(raw.image, raw.height, schema, Rules())
    else:
        assert re.match(said, str(raw))


def test_heights_are_told_as_they_are(tmp_path: Path) -> None:
    image_CHW, height_HW = one_band(1).astype("u1"), one_band(3)[0]
    source = source_of(
        write_pairs(tmp_path, image_CHW, [height_HW.tolist(), None, [[1.0]], [[1.0], []]]), **ONE
    )
    given, absent, small, ragged = read_all(source)
    assert isinstance(given, Raw)
    image, height = checked(given.image, given.height, source.schema, Rules())
    assert image.dtype == np.int16  # whole numbers that fit
    np.testing.assert_array_equal(height, height_HW)
    for raw, said in ((absent, "missing partner: no height"), (small, "wrong shape: height is")):
        assert isinstance(raw, Raw)
        with pytest.raises(Rejected, match=said):
            checked(raw.image, raw.height, source.schema, Rules())
    assert isinstance(ragged, Rejected)
    assert ragged.reason == "wrong shape"


def write_pairs(path: Path, image: NDArray[Any], heights: list[Any]) -> Path:
    table = pa.table({"image": [image.tolist()] * len(heights), "chm": heights})
    pq.write_table(table, path / "pairs.parquet")
    return path / "pairs.parquet"


def test_other_columns_are_attributes_or_known_of_the_origin(datasets: Any, tmp_path: Path) -> None:
    known = columns(3) | {
        "source": ["AK", None, "B"],
        "acquired": ["20150802", "2016-07-15", None],
        "x": [1, 2, None],
        "sensor": [2, 3, 3],
        "split": ["a", "b", "c"],
        "class": [True, None, False],
        "my col": [1.5, None, 2.5],
        "_file": [7, 8, 9],
        "tags": [["a"], [], None],
        "record": [{"a": 1}] * 3,
        "id": [5, 6, None],
    }
    datasets.Dataset.from_dict(known).save_to_disk(tmp_path / "set")
    candidates = source_of(tmp_path / "set", key_column="id").candidates()
    table = candidates.table.drop_columns(["_file", "_row", GROUP])
    assert {column.name: str(column.type) for column in table.schema} == {
        "key": "string",
        "place": "string",
        "source": "string",
        "acquired": "string",
        "x": "double",
        "table_sensor": "int64",
        "table_split": "string",
        "class": "bool",
        "my col": "double",
        "table__file": "int64",
    }
    assert table["key"].to_pylist() == ["5", "6"]
    assert table["acquired"].to_pylist() == ["2015-08-02", "2016-07-15"]
    assert table["source"].to_pylist() == ["AK", None]
    assert [tuple(refused) for refused in candidates.refused] == [
        ("row 2", "unusable key", "--key-column is empty")
    ]


def test_files_may_lack_columns_that_others_have(tmp_path: Path) -> None:
    extras: tuple[Columns, ...] = ({"a": [1] * 2}, {"a": [0.5] * 2, "b": ["x"] * 2}, {})
    for number, extra in enumerate(extras):
        table = fixed_lists(2)
        for name, values in extra.items():
            table = table.append_column(name, [values])
        pq.write_table(table, tmp_path / f"{number}.parquet")
    table = source_of(tmp_path).candidates().table
    assert table["a"].to_pylist() == [1, 1, 0.5, 0.5, None, None]
    assert table["b"].to_pylist() == [None, None, "x", "x", None, None]


# What is damaged.


def test_a_truncated_file_is_named(datasets: Any, tmp_path: Path) -> None:
    for write in (write_lists, write_array_parquet, write_arrow_stream):
        whole = write(datasets, tmp_path / write.__name__)
        file = whole if whole.is_file() else sorted(whole.glob("*.arrow"))[1]
        data = file.read_bytes()
        for length in (0, 20, len(data) // 2, len(data) - 2000):
            file.write_bytes(data[:length])
            with pytest.raises(InputError, match=f"{file.name}: cannot be read") as caught:
                source_of(whole).candidates()
            assert "\n" not in str(caught.value)


def test_what_is_damaged_later_loses_its_own_rows_only(datasets: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(fixed_lists(), file, row_group_size=6, use_dictionary=False, write_page_checksum=True)
    source = source_of(file)
    table = source.candidates().table
    assert np.bincount(table[GROUP].to_numpy()).tolist() == [6, 6, 6, 5]
    chunk = pq.read_metadata(file).row_group(1).column(0)
    data = bytearray(file.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 255
    file.write_bytes(data)
    raws = list(source.read(table))
    assert [isinstance(raw, Rejected) and raw.reason == "unreadable" for raw in raws[6:12]] == [True] * 6
    assert_chips(raws[:6] + raws[12:], source, [*range(6), *range(12, ROWS)])
    file.unlink()
    assert [raw.reason for raw in source.read(table) if isinstance(raw, Rejected)] == ["unreadable"] * ROWS


def test_no_damaged_byte_reads_other_memory(tmp_path: Path) -> None:
    """Lists whose ends lie elsewhere than in their values are refused, whatever they say."""
    whole = write_arrow_stream(None, tmp_path / "set")
    source = source_of(whole)
    table = source.candidates().table
    data = whole.read_bytes()
    with pa.ipc.open_stream(whole) as reader:
        ends = reader.read_next_batch().column("chm").buffers()[1].to_pybytes()
    at = data.index(ends)
    rng = np.random.default_rng(0)
    read = 0
    for _ in range(100):
        damaged = bytearray(data)
        damaged[at + rng.integers(len(ends))] ^= int(rng.integers(1, 256))
        whole.write_bytes(damaged)
        for row, raw in enumerate(source.read(table)):
            with suppress(Rejected):
                if isinstance(raw, Raw):
                    checked(raw.image, raw.height, source.schema, Rules())
                    assert_chips([raw], source, [row])
                    read += 1
    assert read > 0


# Mistakes of the user's.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"bands": (*BANDS, "nir")},
            r"the first image is \(8, 8, 3\) where 4 bands .* name its bands with --bands",
        ),
        (
            {"scaled_by": ()},
            r"pixels are float32: say what they were divided by \(--scaled-by ...\) or keep them",
        ),
        ({"scaled_by": (7142.0,)}, "--scaled-by: 1 numbers for 3 bands; give one for each"),
        (
            {"scaled_by": (1.0, 0.0, 1.0)},
            "--scaled-by .*0.0.*: give numbers above 0 that --dtype int16 can hold",
        ),
        ({"scaled_by": (1.0, 4e4, 1.0)}, "--scaled-by .*: give numbers"),
        ({"image_column": "img"}, "column img; choose by --image-column from image, chm, place"),
        ({"height_column": "h"}, "column h; choose by --height-column from"),
        ({"key_column": "k"}, "column k; choose by --key-column from"),
        ({"key_column": "chm"}, "column chm is .*; --key-column must name a column of text"),
        ({"height_column": "place"}, "column place is string; it must hold arrays of numbers"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: Columns, said: str, datasets: Any, tmp_path: Path
) -> None:
    source = source_of(write_arrays(datasets, tmp_path / "set"), **options)
    with pytest.raises(InputError, match=said) as caught:
        source.candidates()
    assert "\n" not in str(caught.value)


def test_data_that_cannot_be_used_is_refused(datasets: Any, tmp_path: Path) -> None:
    def refused(name: str) -> str:
        with pytest.raises(InputError) as caught:
            source_of(tmp_path / name).candidates()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    assert "no .arrow or .parquet files" in refused("empty")
    assert "no such folder" in refused("absent")
    assert "No such file or directory" in refused("absent.parquet")
    write_lists(datasets, tmp_path / "lacking")
    (tmp_path / "lacking" / "data-00002-of-00003.arrow").unlink()
    assert "data-00002-of-00003.arrow: cannot be read (" in refused("lacking")
    (tmp_path / "lacking" / "state.json").write_text("{")
    assert "state.json: not a JSON file" in refused("lacking")
    (tmp_path / "lacking" / "state.json").write_text(json.dumps({"_indices_data_files": [{}]}))
    assert "flatten_indices" in refused("lacking")
    pq.write_table(fixed_lists(1), tmp_path / "empty" / "a.parquet")
    write_arrow_file(datasets, tmp_path / "empty" / "b")
    assert "has .arrow and .parquet files" in refused("empty")
    shutil.rmtree(tmp_path / "empty" / "b")
    pq.write_table(fixed_lists(1).slice(1), tmp_path / "empty" / "a.parquet")
    assert "has no rows" in refused("empty")
    pictures = pa.array([{"bytes": b"", "path": ""}])
    pq.write_table(pa.table({"image": pictures, "chm": [[[0.0]]]}), tmp_path / "empty" / "a.parquet")
    assert "it must hold arrays of numbers (Array3D), not files (Image)" in refused("empty")
    twice = fixed_lists(1).append_column("m²", [["x"]]).append_column("m2", [["x"]])
    pq.write_table(twice, tmp_path / "empty" / "a.parquet")
    assert "column 'm2' would become a second m2; rename it" in refused("empty")
    pq.write_table(fixed_lists(1).append_column("a", [["x"]]), tmp_path / "empty" / "a.parquet")
    pq.write_table(fixed_lists(1).append_column("a", [[1]]), tmp_path / "empty" / "b.parquet")
    assert "its files differ" in refused("empty")


def test_whole_numbers_are_not_multiplied(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"pixels are int64, which is not scaled to 0..1; leave out --scaled-by"
    ):
        read_one(tmp_path, one_band(1).astype(int), **ONE | {"scaled_by": (9.0,)})
