"""Bad input to `treeline ingest pairs`: a clear line or a counted rejection, never half a dataset.

- one bad chip of many is counted under its reason; the others are kept as they are
- nothing is unpickled; nothing is written outside --out, whatever names say
- what lies at --out is refused untouched, or kept
- a full disk and a storage that fails are failures: exit code 1, and the same command goes on; no chip is
  blamed for them
- a mistake is one line, with exit code 2, before anything is read
"""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import rasterio
from in_process import treeline
from rasterio.io import MemoryFile
from servers import BUCKET, HOST, S3Server, _running, environment_of, proxy

from cluster import cli
from shards.commands.verify import verify
from shards.config import VerifyConfig
from shards.errors import InputError
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import remove_folder

ROOT = Path(__file__).resolve().parents[3]
SIZE = 16


def write_pairs(folder: Path, count: int) -> Path:
    """`count` pairs of SIZE x SIZE pixels, c0000 and so on, below folder/images and folder/heights."""
    rng = np.random.default_rng(7)
    for name in ("images", "heights"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        image_CHW = rng.integers(1, 5000, (4, SIZE, SIZE)).astype(np.int16)
        np.save(folder / "images" / f"c{number:04d}.npy", image_CHW)
        np.save(folder / "heights" / f"c{number:04d}.npy", rng.gamma(2, 2, (SIZE, SIZE)).astype(np.float32))
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder of eight good pairs."""
    return write_pairs(tmp_path / "pairs", 8)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 2,000 pairs, of which c1000 is a column short; not to be changed by a test."""
    folder = write_pairs(tmp_path_factory.mktemp("many") / "pairs", 2000)
    np.save(folder / "images" / "c1000.npy", np.ones((4, SIZE, SIZE - 1), np.int16))
    return folder


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 300 good pairs; not to be changed by a test."""
    return write_pairs(tmp_path_factory.mktemp("some") / "pairs", 300)


def flags(pairs: Path | str, out: Path | str) -> list[str]:
    places = ["--images", f"{pairs}/images", "--heights", f"{pairs}/heights", "--out", str(out)]
    return ["ingest", "pairs", *places, "--chip-size", str(SIZE)]


def ingest(pairs: Path | str, out: Path | str, *options: str) -> Dataset:
    assert cli.run([*flags(pairs, out), *options]) == 0
    dataset = open_dataset(str(out))
    assert verify(VerifyConfig(str(out))) == []
    return dataset


def called_after(setup: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """`treeline ARGUMENTS` in a process of its own, after the lines of `setup`."""
    program = f"import sys\n{setup}\nfrom cluster import cli\nsys.argv[0] = 'treeline'\ncli.main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )


def the_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """What a failing command said, which is one line besides its progress."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("treeline: ")]
    assert done.stderr.rstrip().endswith(line), "the line is the last"
    return line


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels(dataset: Dataset) -> dict[str, bytes]:
    """By key: the image's bytes and the height's."""
    batch = dataset.gather(dataset.chips("all"))
    keys = dataset.index["key"].to_pylist()
    rows = zip(keys, batch.image_BCHW, batch.height_BHW, strict=True)
    return {key: image.tobytes() + height.tobytes() for key, image, height in rows}


def pixels_of_files(pairs: Path) -> dict[str, bytes]:
    return {
        path.stem: np.load(path).tobytes() + np.load(pairs / "heights" / path.name).tobytes()
        for path in (pairs / "images").iterdir()
    }


class Trap:
    """Leaves a file behind if anybody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_one_wrong_shape_among_thousands(many: Path, tmp_path: Path) -> None:
    dataset = ingest(many, tmp_path / "out")
    assert dataset.manifest.rejected == {"wrong shape": 1}
    assert dataset.rejected["key"].to_pylist() == ["c1000"]
    expected = pixels_of_files(many)
    del expected["c1000"]
    assert pixels(dataset) == expected


def test_pickles_are_never_loaded(pairs: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = np.array([Trap(sprung)], object)
    images, heights = pairs / "images", pairs / "heights"
    np.save(images / "c0000.npy", trap, allow_pickle=True)
    (heights / "c0001.npy").write_bytes(pickle.dumps(Trap(sprung)))
    (images / "c0002.npy").unlink()
    np.savez(images / "c0002.npz", trap)
    (heights / "c0003.npy").unlink()
    (heights / "c0003.npz").write_bytes(pickle.dumps(Trap(sprung)))
    dataset = ingest(pairs, tmp_path / "out")
    assert not sprung.exists()
    assert dataset.manifest.rejected == {"unreadable": 4}
    assert sorted(dataset.rejected["key"].to_pylist()) == ["c0000", "c0001", "c0002", "c0003"]


def tif_bytes(image_CHW: np.ndarray, crs: str | None) -> bytes:
    bands, rows, columns = image_CHW.shape
    at = rasterio.Affine(2, 0, 300_000, 0, -2, 1_600_000)
    with MemoryFile() as file:
        with file.open(
            driver="GTiff",
            count=bands,
            height=rows,
            width=columns,
            dtype=image_CHW.dtype,
            crs=crs,
            transform=at,
        ) as raster:
            raster.write(image_CHW)
        return bytes(file.read())


def test_a_raster_chip_without_crs_and_damaged_files(pairs: Path, tmp_path: Path) -> None:
    images, heights = pairs / "images", pairs / "heights"
    image_CHW = np.load(images / "c0000.npy")
    whole = tif_bytes(image_CHW, "EPSG:3338")
    contents = {"c0000": whole, "c0001": tif_bytes(image_CHW, None), "c0002": whole[:900], "c0003": b"II*\0"}
    for key, data in contents.items():
        (images / f"{key}.npy").unlink()
        (images / f"{key}.tif").write_bytes(data)
    np.savez(tmp_path / "good.npz", np.load(heights / "c0004.npy"))
    archive = (tmp_path / "good.npz").read_bytes()
    damaged = bytearray(archive)
    damaged[300] ^= 1  # of the values: the zip's CRC-32 tells
    for key, data in {
        "c0004": archive,
        "c0005": archive[:-30],
        "c0006": bytes(damaged),
        "c0007": b"",
    }.items():
        (heights / f"{key}.npy").unlink()
        (heights / f"{key}.npz").write_bytes(data)
    dataset = ingest(pairs, tmp_path / "out")
    reasons = dict(zip(*(dataset.rejected[name].to_pylist() for name in ("key", "reason")), strict=True))
    unreadable = dict.fromkeys(["c0002", "c0003", "c0005", "c0006", "c0007"], "unreadable")
    assert reasons == {"c0001": "no CRS", **unreadable}
    rows = {row["key"]: row for row in dataset.index.to_pylist()}
    assert rows.keys() == {"c0000", "c0004"}
    place = [rows["c0000"][name] for name in ("x", "y", "crs")]
    assert place == [300_000 + SIZE, 1_600_000 - SIZE, "EPSG:3338"]
    assert rows["c0004"]["crs"] is None


def test_of_several_arrays_the_named_one_is_taken(pairs: Path, tmp_path: Path) -> None:
    expected = pixels_of_files(pairs)
    for folder in (pairs / "images", pairs / "heights"):
        for path in list(folder.iterdir()):
            values = np.load(path)
            np.savez(path.with_suffix(".npz"), wanted=values, other=values[:1])
            path.unlink()
    with pytest.raises(InputError, match=r"8 unreadable.*several arrays \(wanted, other\).*--array"):
        cli.run(flags(pairs, tmp_path / "out"))
    with pytest.raises(InputError, match=r"8 unreadable.*no array 'none'"):
        cli.run([*flags(pairs, tmp_path / "out"), "--array", "none"])
    assert not (tmp_path / "out").exists()
    assert pixels(ingest(pairs, tmp_path / "out", "--array", "wanted")) == expected


@pytest.mark.parametrize(
    "foreign",
    ["train/000000.tar", "val/000003.tar", "statistics.json", "index.parquet", "train.zarr/zarr.json"],
)
def test_what_would_be_overwritten_is_refused(pairs: Path, tmp_path: Path, foreign: str) -> None:
    path = tmp_path / "out" / foreign
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of somebody else")
    for options in ([], ["--restart"]):
        with pytest.raises(InputError, match=f"{foreign}, which would be overwritten.*another --out"):
            cli.run([*flags(pairs, tmp_path / "out"), *options])
        assert files_below(tmp_path / "out") == {foreign: b"of somebody else"}


def test_other_files_beside_the_dataset_are_kept(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    others = {
        "notes.txt": b"1",
        "train/README": b"2",
        "train/x.tar": b"3",
        "index.csv": b"4",
        ".ingest-notes": b"5",
    }
    for name, data in others.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    with pytest.raises(InputError, match="no chip was kept"):
        cli.run([*flags(pairs, out), "--min-height", "1000"])
    assert files_below(out) == others
    cli.run(flags(pairs, out))
    assert others.items() <= files_below(out).items()
    assert all("is not listed" in problem for problem in verify(VerifyConfig(str(out))))


def test_another_dataset_is_not_touched(pairs: Path, tmp_path: Path) -> None:
    ingest(pairs, tmp_path / "out")
    before = files_below(tmp_path / "out")
    for options in (["--shares", "0.5", "0.5"], ["--bands", "a", "b", "c", "d"]):
        line = rf"already holds a dataset, made with other options \({options[0]}\)"
        with pytest.raises(InputError, match=line):
            cli.run([*flags(pairs, tmp_path / "out"), *options])
    assert files_below(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--chip-size", "32"], "image is .*, not "),
        (["--dtype", "uint8"], "image is int16, not uint8"),
        (["--bands", "a", "b"], "image is .*, not "),
    ],
)
def test_options_that_fit_no_chip_are_refused_at_once(
    pairs: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    with pytest.raises(InputError, match=rf"{says}.*, in 8 of 8 chips; see --dtype, --bands and --chip-size"):
        cli.run([*flags(pairs, tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


def test_folders_that_are_swapped_are_refused_at_once(pairs: Path, tmp_path: Path) -> None:
    swapped = ["--images", f"{pairs}/heights", "--heights", f"{pairs}/images"]
    with pytest.raises(InputError, match=r"image is float32, not int16.* are not swapped"):
        cli.run(["ingest", "pairs", *swapped, "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    "options", [["--table-crs", "EPSG:3338"], ["--file-column", "file"], ["--label", "biomass"]]
)
def test_options_that_can_do_nothing_are_refused(pairs: Path, tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(InputError, match=f"{options[0]}: does nothing without"):
        cli.run(["ingest", "pairs", "--images", f"{pairs}/images", "--out", str(tmp_path / "out"), *options])


def test_heights_in_centimetres_are_wondered_at(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(flags(pairs, tmp_path / "metres")) == 0
    assert "are they metres?" not in capsys.readouterr().out
    for file in (pairs / "heights").iterdir():
        np.save(file, np.load(file) * np.float32(100))
    assert cli.run(flags(pairs, tmp_path / "centimetres")) == 0
    assert "one height in a hundred is above 120 m: are they metres?" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["images", "heights"])
def test_a_dataset_is_not_made_among_its_chips(pairs: Path, folder: str) -> None:
    before = files_below(pairs)
    with pytest.raises(InputError, match="holds the chips to be read; choose another"):
        cli.run(flags(pairs, f"{pairs}/{folder}/"))
    assert files_below(pairs) == before


OURS = r"(train|val)/\d{6}\.tar|\.ingest/plan\.json|\.ingest/parts/(train|val)-\d{6}-[0-9a-f]{16}\.zip"
LIMITED = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))
"""


# A shard of 40 chips has 200 kB and its part too; the rows of the index have more, from 1,000 chips on.
@pytest.mark.parametrize(
    ("folder", "limit"),
    [("some", 150_000), pytest.param("many", 260_000, marks=pytest.mark.slow)],
    ids=["shard", "index"],
)
def test_a_file_system_that_takes_no_more(
    folder: str, limit: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pairs = request.getfixturevalue(folder)
    out, options = tmp_path / "out", ["--shard-chips", "40"]
    done = called_after(LIMITED.format(limit), [*flags(pairs, out), *options])
    assert "File too large" in the_line(done, 1)
    left = files_below(out)
    assert all(re.fullmatch(OURS, name) for name in left)
    parts = sum(name.startswith(".ingest/parts") for name in left)
    assert parts == (0 if folder == "some" else json.loads(left[".ingest/plan.json"])["shards"])
    with pytest.raises(InputError, match="holds an unfinished ingest of other files or options"):
        cli.run([*flags(pairs, out), *options, "--shares", "0.5", "0.5"])
    assert files_below(out) == left
    ingest(pairs, out, *options)
    cli.run([*flags(pairs, tmp_path / "undisturbed"), *options])
    assert files_below(out) == files_below(tmp_path / "undisturbed")


FULL_DISK = """
set -e
mount -t tmpfs -o size=2m none "$DISK"
"$@" || echo "code $?" > "$COPY/code"
(cd "$DISK" && find . -type f -printf '%P\\n') > "$COPY/left"
mount -o remount,size=100m "$DISK"
"$@"
cp -r "$DISK/out" "$COPY/out"
"""


@pytest.mark.slow
def test_a_full_disk(some: Path, tmp_path: Path) -> None:
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    copy.mkdir()
    own_mounts = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    can = subprocess.run([*own_mounts, f"mount -t tmpfs none {disk}"], capture_output=True, check=False)
    if can.returncode:
        pytest.skip("nothing can be mounted here")
    options = ["--shard-chips", "25", "--key-pattern", "(?P<number>[0-9]+)"]
    command = [sys.executable, "-m", "cluster.cli", *flags(some, disk / "out"), *options]
    environment = {**os.environ, "DISK": str(disk), "COPY": str(copy)}
    done = subprocess.run(
        [*own_mounts, FULL_DISK, "sh", *command],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=True,
    )  # fmt: skip
    assert (copy / "code").read_text() == "code 1\n"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("treeline: ")]
    assert "No space left on device" in line
    left = (copy / "left").read_text().split()
    assert len(left) > 5, "something was made before the disk was full"
    assert all(re.fullmatch(OURS, name.removeprefix("out/")) for name in left)
    ingest(some, tmp_path / "undisturbed", *options)
    assert files_below(copy / "out") == files_below(tmp_path / "undisturbed")


@contextmanager
def read_only_rclone(folder: Path) -> Iterator[S3Server]:
    """A server whose bucket takes nothing."""
    (folder / BUCKET).mkdir(parents=True)
    config = folder / "rclone.conf"
    config.touch()

    def command(server: S3Server) -> list[str]:
        keys = ",".join(server.environment[f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
        binary = str(Path(sys.executable).with_name("rclone"))
        options = [
            "--read-only",
            "--addr",
            f"{HOST}:{server.port}",
            "--auth-key",
            keys,
            "--config",
            str(config),
        ]
        return [binary, "serve", "s3", *options, str(folder)]

    with _running("rclone", command) as server:
        yield server


@pytest.mark.parametrize("why", ["no such bucket", "wrong secret", "read-only"])
def test_a_bucket_that_denies_writing(
    why: str, moto: S3Server, rclone: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = "s3://nowhere/out" if why == "no such bucket" else f"s3://{BUCKET}/out"
    # There are no chips: whoever looked for them first would complain of that.
    arguments = flags(tmp_path / "no pairs", out)
    if why == "read-only":
        with read_only_rclone(tmp_path / "server") as server, environment_of(server):
            line = the_line(treeline(*arguments), 2)
    else:
        with environment_of(moto if why == "no such bucket" else rclone):
            if why == "wrong secret":
                monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
            line = the_line(treeline(*arguments), 2)
    assert line.startswith(f"treeline: {out}")
    assert "cannot be written" in line


@pytest.fixture(params=["moto", "rclone"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    return found


def upload(pairs: Path, url: str) -> str:
    filesystem, place = fsspec.core.url_to_fs(url)
    for name, data in files_below(pairs).items():
        filesystem.pipe_file(f"{place}/{name}", data)
    return url


@pytest.mark.slow
def test_chips_from_s3_give_the_bytes_of_those_from_disk(server: S3Server, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 50)
    with environment_of(server):
        url = upload(pairs, f"s3://{BUCKET}/chips-{server.name}")
        ingest(url, tmp_path / "remote", "--shard-chips", "15")
        remove_folder(url)
    ingest(pairs, tmp_path / "local", "--shard-chips", "15")
    remote, local = files_below(tmp_path / "remote"), files_below(tmp_path / "local")
    # The manifest says where the chips came from.
    assert remote.pop("dataset.json") != local.pop("dataset.json")
    assert remote == local


@pytest.mark.slow
def test_a_storage_that_fails_is_no_fault_of_a_chip(moto: S3Server, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with environment_of(moto):
        url = upload(pairs, f"s3://{BUCKET}/failing")
        with proxy(moto) as front, environment_of(front.server):
            front.fail_next("500", 2, containing="images/c0003")
            assert ingest(url, tmp_path / "retried").manifest.rejected == {}
            front.fail_next("500", 100, containing="images/c0005")
            options = ["--shard-chips", "3"]
            line = the_line(treeline(*flags(url, out), *options), 1)
            assert "failing/images/c0005.npy" in line
            assert not files_below(out), "the look at some chips met it before anything was written"
            front.forget()
            dataset = ingest(url, out, *options)
            ingest(url, tmp_path / "undisturbed", *options)
        remove_folder(url)
    assert dataset.manifest.rejected == {}
    assert files_below(out) == files_below(tmp_path / "undisturbed")


def test_an_object_that_vanished_is_a_rejected_chip(moto: S3Server, pairs: Path, tmp_path: Path) -> None:
    with environment_of(moto):
        url = upload(pairs, f"s3://{BUCKET}/vanishing")
        with proxy(moto) as front, environment_of(front.server):
            # Listed before, and gone now: for the look at some chips, and when it is read.
            front.fail_next("404", 2, containing="heights/c0005")
            dataset = ingest(url, tmp_path / "out")
        remove_folder(url)
    assert dataset.manifest.rejected == {"unreadable": 1}
    assert dataset.rejected["key"].to_pylist() == ["c0005"]


ODD_NAMES = {
    "..": b"...npy",
    "a..b": b"a..b.npy",
    "a b": b"a b.npy",
    "a\nb": b"a\nb.npy",
    "é" * 120: ("é" * 120).encode() + b".npy",
    "x" * 250: b"x" * 250 + b".npy",
    "x::y": b"x::y.npy",
    "$(touch z)": b"$(touch z).npy",
    "\\xff": b"\xff.npy",
}


def test_odd_names_of_files_are_counted(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = pixels_of_files(pairs)
    for folder in (pairs / "images", pairs / "heights"):
        for name in ODD_NAMES.values():
            (folder / os.fsdecode(name)).write_bytes((folder / "c0000.npy").read_bytes())
    before = files_below(tmp_path)
    dataset = ingest(pairs, tmp_path / "out")
    assert pixels(dataset) == expected
    assert dataset.manifest.rejected == {"unusable key": len(ODD_NAMES)}
    assert set(dataset.rejected["key"].to_pylist()) == ODD_NAMES.keys()
    assert written_outside(tmp_path, before) == set()
    assert len([line for line in capsys.readouterr().out.splitlines() if "unusable key" in line]) == 1


def written_outside(folder: Path, before: dict[str, bytes]) -> set[str]:
    """Files below `folder` that are not as they were, those of folder/out aside."""
    now = {name: data for name, data in files_below(folder).items() if not name.startswith("out/")}
    return {name for name, _ in before.items() ^ now.items()}


# The last letters are keys of their own; none but the first is a file.
ODD_ROWS = [
    "c0000.npy",
    "..",
    "../../a.npy",
    "/etc/b",
    "sub/../../d.npy",
    "y" * 300 + ".npy",
    "é e.npy",
    "\0f.npy",
]


@pytest.mark.parametrize("image_name", [".*(?P<key>.)", "(?P<key>.*)", "(?P<key>c)?.*"])
def test_odd_names_in_a_table_are_counted(pairs: Path, tmp_path: Path, image_name: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["filename", *(f'"{name}"' for name in ODD_ROWS)]))
    before = files_below(tmp_path)
    options = ["--table", str(table), "--image-name", image_name]
    # Without labels, so that no partner is missed and every name is met.
    places = ["--images", str(pairs / "images"), "--out", str(tmp_path / "out"), "--chip-size", str(SIZE)]
    assert cli.run(["ingest", "pairs", *places, *options]) == 0
    dataset = open_dataset(str(tmp_path / "out"))
    assert dataset.index.num_rows == 1
    assert sum(dataset.manifest.rejected.values()) == len(ODD_ROWS) - 1
    assert written_outside(tmp_path, before) == set()


@pytest.mark.parametrize(
    ("pattern", "key"),
    [(r"c(?P<key>\.\..*)", r"..\..\x"), (r"c(?P<key>\.\.).*", ".."), (r"c\.\.(?P<key>).*", "")],
)
def test_a_pattern_that_finds_no_key_is_counted(pairs: Path, tmp_path: Path, pattern: str, key: str) -> None:
    for folder in (pairs / "images", pairs / "heights"):
        (folder / "c0000.npy").rename(folder / r"c..\..\x.npy")
    before = files_below(tmp_path)
    options = ["--image-name", pattern, "--height-name", pattern, "--key-pattern", "(?P<source>.*)"]
    said = re.escape(f"1 unusable key, first {key}: only letters")
    with pytest.raises(InputError, match=said):
        cli.run([*flags(pairs, tmp_path / "out"), *options])
    assert files_below(tmp_path) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["o [x]*?/é ö", "o%20#?", "~o", "$HOME", "a/../o", "-o"])
def test_odd_names_of_outputs_are_meant(pairs: Path, tmp_path: Path, name: str) -> None:
    expected = pixels_of_files(pairs)
    before = files_below(tmp_path)
    assert pixels(ingest(pairs, tmp_path / "out" / name)) == expected
    assert (tmp_path / "out" / name / "dataset.json").is_file()
    assert written_outside(tmp_path, before) == set()


def test_an_output_with_too_long_a_name(pairs: Path, tmp_path: Path) -> None:
    before = files_below(tmp_path)
    with pytest.raises(InputError, match="o" * 300):
        cli.run(flags(pairs, tmp_path / ("o" * 300)))
    assert files_below(tmp_path) == before


MISTAKES = [
    ("--shares 0.5 0.6", "--shares 0.5 0.6: sum to 1.1"),
    ("--shares -1 2", "--shares -1 2: each must be a number from 0 to 1"),
    ("--shares nan 1", "--shares nan 1: each must be"),
    ("--chip-size 0", "--chip-size 0: give 1"),
    ("--pixel-size nan", "--pixel-size nan: give a size above 0"),
    ("--min-valid 2", "--min-valid 2: give a share from 0 to 1"),
    ("--min-valid nan", "--min-valid nan: give"),
    ("--min-height nan", "--min-height nan: give a number, or None"),
    ("--nodata inf", "--nodata inf: "),
    ("--shard-chips 0", "--shard-chips 0: give 1"),
    ("--workers -1", "--workers -1: give 0"),
    ("--buffer -1", "--buffer -1: give a distance of 0 or more"),
    ("--split-by strips", "--split-by strips: needs positions, and 8 of 8 chips have none"),
    ("--key-pattern (", "--key-pattern (: not a regular expression"),
    ("--key-pattern c", "--key-pattern c: has no groups"),
    ("--key-pattern (?P<colour>c)", "has groups colour"),
    ("--image-name (", "--image-name (: not a regular expression"),
    ("--image-name (.+)", "--image-name (.+): has no group (?P<key>...)"),
    ("--image-name x(?P<key>.+)", "--image-name x(?P<key>.+): no name matches"),
    ("--height-name (?P<key>c).*", "c0001.npy: has the same key c as c0000.npy; see --height-name"),
    ("--bands a a", "band names 'a a': give each"),
    ("--images {0}/none", "/none: no such folder"),
    ("--heights {0}/none", "/none: no such folder"),
    ("--images {0}", "no .npy, .npz or .tif chips in this folder"),
    ("--table {0}/none.csv", "none.csv: no such file"),
    ("--out {0}/images/c0000.npy", "c0000.npy: cannot be written"),
    ("--out=", "--out: is empty; give a folder"),
    ("--out foo://x", "foo://x: not a URL that can be used here"),
    ("--append", "no dataset here to add to"),
    ("--min-height 1000", "no chip was kept (8 too low, first c0"),
]


@pytest.mark.parametrize(("given", "says"), MISTAKES, ids=[given for given, _ in MISTAKES])
def test_a_mistake_is_named_and_leaves_nothing(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = files_below(tmp_path)
    options = given.format(pairs).split(" ")
    with pytest.raises(InputError) as raised:
        cli.run([*flags(pairs, tmp_path / "new" / "out"), *options])
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert files_below(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_mistakes_have_exit_code_2_and_one_line(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    line = the_line(treeline(*flags(pairs, out), "--min-height", "1000"), 2)
    assert "no chip was kept (8 too low" in line
    done = treeline(*flags(pairs, out), "--dtype", "float64")
    assert done.returncode == 2
    assert "--dtype" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()


def test_the_same_command_knows_its_dataset_whatever_nodata_is(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # NaN is not equal to itself
        ingest(pairs, tmp_path / "out", "--nodata", "nan")
    assert "is complete already" in capsys.readouterr().out
    assert b"NaN" not in (tmp_path / "out" / "dataset.json").read_bytes()
