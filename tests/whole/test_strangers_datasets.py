"""Datasets that strangers made: nothing outside, nothing silent, nothing endless.

Their manifests are sealed again, so every checksum is right: only what a value says can tell.
"""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_process import treeline
from memory import needs_peak, peak_bytes_of
from sealed import put, replace_file, replace_object, seal
from servers import S3Server, environment_of

from ingest.work.begun import PLAN
from shards.errors import DatasetError, InputError
from shards.format import zarr_v3
from shards.format.npz import npz_arrays
from shards.format.statistics import Counts
from shards.storage.checksum import checksum
from shards.storage.limits import COUNTS_BYTES
from shards.storage.objects import find_files, join, publish_folder
from shards.write.finished_shard import FinishedShard

REFUSED_BYTES = 300 << 20
"""Most memory that a refused input may take."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, write_dataset: Any, new_chip: Any) -> Path:
    """A dataset of 12 chips in shards of 4."""
    folder = tmp_path_factory.mktemp("sound") / "chips"
    return Path(write_dataset(folder, [new_chip(number) for number in range(12)], 4).url)


@pytest.fixture
def chips(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(sound, tmp_path / "strange" / "chips"))


def files_of(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def refused(*arguments: str) -> str:
    """Run a command that must end with one line and exit code 1 or 2; return the line."""
    done = treeline(*arguments)
    assert done.returncode in (1, 2), done.stdout
    said = [line for line in done.stderr.splitlines() if not line.startswith("treeline verify")]
    assert "Traceback" not in done.stderr
    assert len(said) == 1, done.stderr
    assert len(said[0]) < 600
    return said[0]


def test_a_sound_dataset_stays_sound_when_sealed_again(chips: Path) -> None:
    seal(chips)
    assert treeline("verify", str(chips)).returncode == 0


# --- names that become paths ---

OUTSIDE = ["../../evil", "/tmp/evil", "train/../../evil", "a\0b", "..", "", "evil", "train\\x"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize(
    "place",
    ["shards/0/split", "shards/0/objects/0/name", "files/index.parquet/name", "files/counts.npz/name"],
)
def test_names_that_lead_out_are_refused_and_nothing_is_written(name: str, place: str, chips: Path) -> None:
    seal(chips, put(place, name))
    root = chips.parent.parent
    before = files_of(root)
    said = refused("convert", str(chips), "--out", str(root / "out" / "deep"), "--to", "zarr")
    assert "dataset.json: " in said
    assert files_of(root) == before


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_are_refused_on_s3(
    name: str, sound: Path, rclone: S3Server, tmp_path: Path
) -> None:
    """Read from a bucket, and written to one: nothing appears in either, nor on this disk."""
    chips = tmp_path / "chips"
    shutil.copytree(sound, chips)
    seal(chips, put("shards/0/objects/0/name", name))
    with environment_of(rclone):
        root = f"s3://bucket/{tmp_path.name}"
        publish_folder(join(root, "strange", "chips"), str(chips))
        here, there = files_of(tmp_path), find_files("s3://bucket")
        for source in (join(root, "strange", "chips"), str(chips)):
            said = refused("convert", source, "--out", join(root, "out", "deep"), "--to", "zarr")
            assert "dataset.json: " in said
        assert (files_of(tmp_path), find_files("s3://bucket")) == (here, there)


@pytest.mark.parametrize("section", ["splits", "files", "attributes"])
def test_names_of_a_section_that_lead_out_are_refused(section: str, chips: Path) -> None:
    value = json.loads((chips / "dataset.json").read_text())["files"]["index.parquet"]
    seal(chips, lambda values: values[section].update({"../x": value if section == "files" else 1}))
    assert "dataset.json: " in refused(
        "convert", str(chips), "--out", str(chips.parent / "out"), "--to", "zarr"
    )


@pytest.mark.parametrize("folder", ["train", ".ingest", "train.zarr", "train.zarr/image"])
def test_nothing_is_written_or_removed_through_a_link(
    folder: str, chips: Path, chip_folders: Any, tmp_path: Path
) -> None:
    """What lies behind a link that leads out is not ours, whatever it is called."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.txt").write_bytes(b"precious")
    out = tmp_path / "out"
    (out / folder).parent.mkdir(parents=True)
    (out / folder).symlink_to(elsewhere)
    folders = chip_folders(4)
    ingest = ["ingest", "pairs", "--images", str(folders.images), "--heights", str(folders.heights)]
    command = ["convert", str(chips), "--to", "zarr"] if "zarr" in folder else ingest
    done = treeline(*command, "--out", str(out))
    assert done.returncode == 2
    assert "is a link that leads out" in done.stderr
    assert os.listdir(elsewhere) == ["precious.txt"]


def test_records_of_steps_remove_nothing_outside(tmp_path: Path) -> None:
    from cluster.steps.records import RECORDS, Records

    step = {"command": "predict", "state": "done", "options": {}, "inputs": {}, "files": {"../../x": "1 2"}}
    (tmp_path / RECORDS).write_text(json.dumps({"steps": {"maps": step}}))
    with pytest.raises(InputError, match=r"steps\.json: steps\['maps'\]\.files"):
        Records(str(tmp_path))


# --- JSON of ours: types and ranges ---

WRONG = {
    "null": None,
    "true": True,
    "negative": -1,
    "huge": 2**64,
    "float": 1.5,
    "text": "<script>\x1b[31m\u202e\n",
    "long": "x" * 100_000,
    "list": [1],
    "object": {"a": [[]]},
    "nested": [[[[[[]]]]]],
}
FIELDS = [
    *("schema", "splits", "splits/train", "rejected", "shard_format", "shard_chips", "shards", "files"),
    *("made_by", "split_rule", "split_column", "attributes", "generation", "shards/0", "shards/0/split"),
    *("shards/0/samples", "shards/0/content", "shards/0/objects", "shards/0/objects/0"),
    *("shards/0/objects/0/nbytes", "shards/0/objects/0/xxh3", "files/index.parquet", "schema/bands"),
    *("schema/dtype", "schema/chip_size", "schema/pixel_size", "schema/label", "schema/nodata"),
    *("format", "version", "fingerprint"),
]


@pytest.mark.parametrize("field", FIELDS)
def test_wrong_values_of_the_manifest_are_named(field: str, chips: Path) -> None:
    """Each is refused when the dataset is opened, or found by verify, in one line."""
    text = (chips / "dataset.json").read_text()
    for kind, value in WRONG.items():
        (chips / "dataset.json").write_text(text)
        if (field, kind) in {("schema/nodata", "null"), ("made_by", "object"), ("schema/label", "long")}:
            continue
        seal(chips, put(field, value))
        done = treeline("verify", str(chips))
        said = done.stdout + done.stderr
        assert done.returncode in (1, 2), (kind, said)
        assert "Traceback" not in said
        assert "Error: " not in said, (kind, said)
        assert str(chips) in said, (kind, said)
        assert not any(mark in said for mark in ("\x1b", "\u202e")), (kind, said)
        assert max(map(len, said.splitlines())) < 700, (kind, said)


def test_unknown_names_are_refused_unless_they_may_be_passed_over(chips: Path) -> None:
    seal(chips, put("colour", "red"))
    assert "colour is unknown here" in refused("inspect", str(chips))
    seal(chips, put("colour", {"must_understand": False, "is": "red"}))
    assert treeline("verify", str(chips)).returncode == 0


@pytest.mark.parametrize("field", ["bands", "height", "sources"])
def test_wrong_values_of_statistics_are_named(field: str, chips: Path) -> None:
    statistics = json.loads((chips / "statistics.json").read_text())
    for value in (None, [], {"a": 1}, "x", 3):
        if (field, value) == ("height", None):
            continue
        replace_file(chips, "statistics.json", json.dumps(statistics | {field: value}).encode())
        assert "statistics.json: " in refused("inspect", str(chips)), value


@pytest.mark.parametrize(
    "text",
    [b"{}", b"[]", b"null", b"\xff\xfe", b'{"fingerprint": [1]}', b'{"fingerprint": "../../x"}', b"[" * 5000],
)
def test_a_plan_that_is_none_is_refused(
    text: bytes, chip_folders: Callable[..., Any], tmp_path: Path
) -> None:
    folders = chip_folders(4)
    out = tmp_path / "out"
    (out / PLAN).parent.mkdir(parents=True)
    (out / PLAN).write_bytes(text)
    command = ["ingest", "pairs", "--images", str(folders.images), "--heights", str(folders.heights)]
    said = refused(*command, "--out", str(out))
    assert "--restart" in said
    assert treeline(*command, "--out", str(out), "--restart").returncode == 0


def test_a_folder_and_a_pipe_where_a_file_should_be_are_refused_at_once(chips: Path) -> None:
    for name in ("statistics.json", "index.parquet", "dataset.json"):
        (chips / name).unlink()
        (chips / name).mkdir()
        assert name in refused("inspect", str(chips))
        (chips / name).rmdir()
        os.mkfifo(chips / name)
        assert "not a regular file" in refused("inspect", str(chips))


# --- headers before bodies ---


@needs_peak
@pytest.mark.parametrize("command", ["verify", "inspect", "convert"])
def test_an_index_with_too_many_rows_is_refused_by_its_footer(command: str, chips: Path) -> None:
    index = pq.read_table(chips / "index.parquet")
    zeros = pa.array(np.zeros(20_000_000, np.int32))
    many = pa.table({name: zeros.cast(pa.int64()) if name == "row" else zeros for name in ("row", "number")})
    buffer = io.BytesIO()
    pq.write_table(many, buffer)
    assert index.num_rows == 12
    replace_file(chips, "index.parquet", buffer.getvalue())
    words = [command, str(chips)] + (
        ["--out", str(chips.parent / "out"), "--to", "zarr"] if command == "convert" else []
    )
    ended: list[Any] = []
    assert peak_bytes_of(lambda: ended.append(treeline(*words))) < REFUSED_BYTES
    assert ended[0].returncode in (1, 2)
    assert "20,000,000 rows for 12 chips" in ended[0].stdout + ended[0].stderr


@needs_peak
@pytest.mark.parametrize("is_once", [False, True], ids=["in each row", "once"])
def test_a_table_that_unpacks_to_more_than_the_limit_is_refused(is_once: bool, chips: Path) -> None:
    """Few rows, but long texts: the footer says how long, or a text that is stored once."""
    index = pq.read_table(chips / "index.parquet")
    texts = pa.array(["x" * (30 << 20)] * 12)
    buffer, place = io.BytesIO(), index.schema.get_field_index("scene")
    pq.write_table(
        index.set_column(place, "scene", texts),
        buffer,
        compression="zstd",
        use_dictionary=["scene"] if is_once else False,
        dictionary_pagesize_limit=1 << 30,
    )
    del texts
    replace_file(chips, "index.parquet", buffer.getvalue())
    ended: list[Any] = []
    assert peak_bytes_of(lambda: ended.append(treeline("inspect", str(chips)))) < REFUSED_BYTES
    assert "TREELINE_MAX_TABLE_BYTES" in ended[0].stderr


def zarr_chunks(data: bytes, chunk: bytes) -> bytes:
    """Put `chunk` in place of all chunks of a shard of one chunk."""
    stored = chunk + zarr_crc(chunk)
    index = np.array([0, len(stored)], "<u8").tobytes()
    return stored + index + zarr_crc(index)


def zarr_crc(data: bytes) -> bytes:
    import google_crc32c

    return int(google_crc32c.value(data)).to_bytes(4, "little")


@pytest.fixture(scope="module")
def sound_zarr(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zarr") / "chips"
    assert treeline("convert", str(sound), "--out", str(folder), "--to", "zarr").returncode == 0
    return folder


ZSTD_2_63 = b"\x28\xb5\x2f\xfd\xe0" + (2**63).to_bytes(8, "little") + b"\x01\x00\x00"
BOMBS: list[tuple[str, int, Callable[[], bytes]]] = [
    ("blosc", 0, lambda: bytes(numcodecs.Blosc("zstd", 9).encode(np.zeros(1 << 30, np.uint8)))),
    ("zstd", 1, lambda: bytes(numcodecs.Zstd(1).encode(np.zeros(1 << 30, np.uint8)))),
    ("zstd of 2^63", 1, lambda: ZSTD_2_63),
    ("blosc of no size", 0, lambda: b"\x02\x01\x21\x02"),
    ("zstd of no size", 1, lambda: b"\x28\xb5\x2f\xfd\x00\x00"),
]


@needs_peak
@pytest.mark.parametrize(("place", "bomb"), [row[1:] for row in BOMBS], ids=[row[0] for row in BOMBS])
def test_chunks_that_unpack_to_more_than_chips_have_are_refused(
    place: int, bomb: Callable[[], bytes], sound_zarr: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sound_zarr, tmp_path / "chips"))
    chunk = bomb()
    replace_object(folder, 0, place, zarr_chunks(b"", chunk))
    ended: list[Any] = []
    assert peak_bytes_of(lambda: ended.append(treeline("verify", str(folder)))) < REFUSED_BYTES
    said = ended[0].stdout + ended[0].stderr
    assert ended[0].returncode == 1, said
    assert "bytes where" in said
    assert "SystemError" not in said


@pytest.mark.parametrize(("level", "dtype"), [(1, "u1"), (3, "<f4"), (9, "<i2")])
def test_sizes_in_frames_are_read_as_codecs_write_them(level: int, dtype: str) -> None:
    for size in (1, 200, 255, 256, 300, 65_535, 65_536, 65_792, 70_000, 200_000):
        values = np.arange(size).astype(dtype)
        zstd = np.frombuffer(numcodecs.Zstd(level).encode(values), np.uint8)
        blosc = np.frombuffer(numcodecs.Blosc("zstd", level).encode(values), np.uint8)
        assert zarr_v3._unpacked_zstd(zstd) == values.nbytes
        assert zarr_v3._unpacked_blosc(blosc) == values.nbytes


@needs_peak
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shards/0/samples", 2**40),
        ("schema/chip_size", 2**20),
        ("schema/bands", [f"b{number}" for number in range(100_000)]),
        ("shard_chips", 2**62),
    ],
)
def test_sizes_in_the_manifest_are_compared_with_limits(field: str, value: Any, chips: Path) -> None:
    seal(chips, put(field, value))
    ended: list[Any] = []
    assert peak_bytes_of(lambda: ended.append(treeline("verify", str(chips)))) < REFUSED_BYTES
    assert ended[0].returncode in (1, 2)
    assert "Traceback" not in ended[0].stderr


def npz_of(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


@needs_peak
def test_counts_that_unpack_to_more_than_the_limit_are_refused() -> None:
    bomb = npz_of(groups=np.zeros(COUNTS_BYTES.default + 1, np.uint8))
    assert len(bomb) < 1 << 20

    def read() -> None:
        with pytest.raises(InputError, match="TREELINE_MAX_COUNTS_BYTES"):
            Counts.from_bytes(bomb)

    assert peak_bytes_of(read) < REFUSED_BYTES


def counts_texts() -> Iterator[Any]:
    sound = {"groups": [["", ""]], "firsts": [[0, 0]]}
    for name, change in {
        "no groups": {"groups": []},
        "a number": {"groups": 3},
        "null": {"groups": [[None, ""]]},
        "short": {"groups": [["a"]]},
        "far": {"firsts": [[0, 2**60]]},
        "floats": {"firsts": [[0.5, 0]]},
        "empty": {"firsts": [[]]},
        "absent": {"firsts": [[0, 0, 0]]},
    }.items():
        yield pytest.param(json.dumps(sound | change).encode(), id=name)
    yield pytest.param(b"\xff", id="no JSON")


@pytest.mark.parametrize("text", list(counts_texts()))
def test_counts_of_wrong_types_are_refused(text: bytes) -> None:
    arrays = {"0.0": np.ones(3, np.int64), "0.1": np.ones(3, np.int64)}
    with pytest.raises(InputError, match="counts"):
        Counts.from_bytes(npz_of(groups=np.frombuffer(text, np.uint8), **arrays), "counts.npz")


@pytest.mark.parametrize("values", [np.ones(3), np.ones((2, 2), np.int64), np.array([-1, 2])])
def test_counts_that_are_none_are_refused(values: np.ndarray) -> None:
    text = np.frombuffer(json.dumps({"groups": [["a", "b"]], "firsts": [[0]]}).encode(), np.uint8)
    with pytest.raises(InputError, match=r"0\.0 is no list of counts"):
        Counts.from_bytes(npz_of(groups=text, **{"0.0": values}))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", npz_of(a=np.arange(9))[:-30], b"x" * 100])
def test_what_is_no_npz_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^x\.npz: "):
        npz_arrays(data, "x.npz", COUNTS_BYTES)


def test_parts_of_an_ingest_that_are_none_are_refused() -> None:
    with pytest.raises(DatasetError, match="is damaged"):
        FinishedShard.from_bytes(b"PK", "part.zip")


# --- verify ---


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("splits/val", 3, "splits.val"),
        ("splits", {}, "splits.train"),
        ("rejected", {"none": 5}, "rejected.parquet"),
        ("shard_chips", 2**40, "shard_chips"),
        ("shard_chips", 3, "shard_chips"),
        ("fingerprint", "0" * 16, "fingerprint"),
        ("fingerprint", [1], "fingerprint"),
        ("split_column", "0" * 16, "split_column"),
        ("attributes", {"cover": "int64"}, "attributes"),
        ("labels", {"cover": {}}, "labels"),
        ("generation", -1, "generation"),
    ],
)
def test_verify_compares_every_count_of_the_manifest(field: str, value: Any, said: str, chips: Path) -> None:
    seal(chips, put(field, value))
    done = treeline("verify", str(chips))
    assert done.returncode in (1, 2)
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["rejected.parquet", "index.parquet", "counts.npz", "statistics.json"])
def test_verify_opens_every_file(name: str, chips: Path) -> None:
    replace_file(chips, name, b"PAR1 no such file")
    done = treeline("verify", str(chips))
    assert done.returncode in (1, 2)
    assert name in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_members_of_a_tar_that_cannot_be_read_are_named(chips: Path) -> None:
    values = json.loads((chips / "dataset.json").read_text())
    shard = (chips / values["shards"][0]["objects"][0]["name"]).read_bytes()
    replace_object(chips, 0, 0, b"\xff" * 512 + shard[512:])
    done = treeline("verify", str(chips))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert values["shards"][0]["objects"][0]["name"] in done.stdout + done.stderr


def test_checksums_of_the_builder_are_those_of_treeline() -> None:
    import xxhash

    assert xxhash.xxh3_64_intdigest(b"chips") == checksum(b"chips")


def test_reading_gives_what_it_gave(pairs_dataset: Any) -> None:
    dataset = pairs_dataset.open()
    batch = dataset.gather(dataset.chips("all"))
    for row, key in enumerate(dataset.index["key"].to_pylist()):
        assert np.array_equal(batch.image_BCHW[row], pairs_dataset.chips[key].image_CHW)
