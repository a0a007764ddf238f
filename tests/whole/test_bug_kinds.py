"""Kinds of chips and tars that went wrong once: for each its right exit code, line and value.

Each row of a table makes one input; its id names the kind.
"""

import gzip
import io
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from in_process import treeline
from numpy.typing import NDArray
from rasterio.transform import Affine

from shards.read.dataset import Dataset, open_dataset
from trainer.model.height_checkpoint import load_checkpoint

SIZE = 16


def image(number: int) -> NDArray[np.int16]:
    """A chip's pixels, (4, 16, 16); they differ from any other number's."""
    return np.random.default_rng(number).integers(1, 3000, (4, SIZE, SIZE)).astype(np.int16)


def height(number: int) -> NDArray[np.float32]:
    """A chip's heights in metres, (16, 16)."""
    return np.random.default_rng(1000 + number).uniform(0.1, 9, (SIZE, SIZE)).astype(np.float32)


def npy(array: NDArray[Any]) -> bytes:
    """The array as the bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


# --- tars ---


def tar_of(members: dict[str, bytes | str]) -> bytes:
    """A tar of files by name; text instead of bytes makes a link: `hard:TARGET` or `symbolic:TARGET`."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                kind, info.linkname = content.split(":")
                info.type = tarfile.LNKTYPE if kind == "hard" else tarfile.SYMTYPE
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def chips(*numbers: int, key: str = "c{}", pixels_of: int = 0) -> dict[str, bytes | str]:
    """Members of chips; `pixels_of` is added to a chip's number where its pixels are made."""
    members: dict[str, bytes | str] = {}
    for number in numbers:
        name = key.format(number)
        members[f"{name}.image.npy"] = npy(image(number + pixels_of))
        members[f"{name}.height.npy"] = npy(height(number + pixels_of))
    return members


def with_links(kind: str) -> dict[str, bytes | str]:
    """Chips 0 and 1; the height of 1 leads, over a second link, to that of 0."""
    folder = "" if kind == "symbolic" else "a/"
    members = {f"a/{name}": content for name, content in chips(0, 1).items()}
    return members | {
        "a/c1.height.npy": f"{kind}:{folder}c2.height.npy",
        "a/c2.height.npy": f"{kind}:{folder}c0.height.npy",
    }


@dataclass(frozen=True)
class Tars:
    """What `ingest tars` must do with some tars."""

    kind: str
    files: dict[str, bytes]
    says: str
    """Part of what the command says."""
    kept: dict[str, int]
    """Number whose image a kept key has; none: the command ends with code 2 and leaves nothing."""
    rejected: dict[str, str]
    """Part of reason and detail by key."""


FULL = tar_of(chips(0, 1, 2, 3))
OTHERS = tar_of(chips(4, 5))
FIRST = {f"c{number}": number for number in range(4)}
SIX = {f"c{number}": number for number in range(6)}
SAME = dict.fromkeys(FIRST, "duplicate key: is also in train/0.tar")
TARS = [
    Tars(
        "same keys with other pixels in two tars",
        {"train/0.tar": FULL, "train/1.tar": tar_of(chips(0, 1, 2, 3, pixels_of=50) | chips(4))},
        "4 duplicate key, first c0: is also in train/0.tar",
        FIRST | {"c4": 4},
        SAME,
    ),
    Tars(
        "same keys with other pixels in two splits",
        {"train/0.tar": FULL, "val/0.tar": tar_of(chips(0, 1, 2, 3, pixels_of=50))},
        "4 duplicate key",
        FIRST,
        SAME,
    ),
    Tars(
        "same keys with the same pixels in two splits",
        {"train/0.tar": FULL, "val/0.tar": FULL},
        "4 duplicate key",
        FIRST,
        SAME,
    ),
    Tars(
        "a key that is unusable in the first tar",
        {"0.tar": tar_of({"c0.image.npy": npy(image(0))} | chips(1)), "1.tar": tar_of(chips(0))},
        "1 missing partner",
        {"c0": 0, "c1": 1},
        {"c0": "no member c0.height.npy"},
    ),
    Tars(
        "compressed tars beside others",
        {
            "train/0.tar": FULL,
            "train/1.tar.gz": gzip.compress(OTHERS),
            "train/2.TGZ": b"?",
            "a.tar.zst": b"?",
        },
        "left out: 3 compressed tars (first a.tar.zst); unpack to take them",
        FIRST,
        {},
    ),
    Tars("compressed tars alone", {"0.tar.xz": b"?"}, "but 1 compressed tar (first 0.tar.xz)", {}, {}),
    Tars(
        "a gzipped file named tar",
        {"0.tar": FULL, "1.tar": gzip.compress(OTHERS)},
        "1.tar: is compressed (gzip), not a plain tar; unpack it",
        {},
        {},
    ),
    Tars("a tar named in capitals", {"0.tar": FULL, "1.TAR": OTHERS}, "none rejected", SIX, {}),
    Tars(
        "hard links",
        {"0.tar": tar_of(with_links("hard"))},
        "1 missing partner, first a/c2: no member a/c2.image.npy",
        {"a/c0": 0, "a/c1": 1},
        {"a/c2": "no member a/c2.image.npy"},
    ),
    Tars(
        "symbolic links",
        {"0.tar": tar_of(with_links("symbolic"))},
        "1 missing partner",
        {"a/c0": 0, "a/c1": 1},
        {"a/c2": "no member a/c2.image.npy"},
    ),
    Tars(
        "links to nowhere, to themselves and in a circle",
        {
            "0.tar": tar_of(
                chips(0)
                | chips(1, 2, 3)
                | {
                    "c1.height.npy": "hard:c9.height.npy",
                    "c2.height.npy": "symbolic:c2.height.npy",
                    "c3.height.npy": "symbolic:c4.height.npy",
                    "c4.height.npy": "symbolic:c3.height.npy",
                }
            )
        },
        "3 unreadable, first c1: c1.height.npy is a link to c9.height.npy, which is no file of this tar",
        {"c0": 0},
        {"c1": "is a link", "c2": "is a link", "c3": "is a link", "c4": "no member c4.image.npy"},
    ),
    Tars(
        "a dot in some keys",
        {"0.tar": tar_of(chips(0) | chips(1, 2, key="tile_{}.5m") | chips(0, key="c{}.new", pixels_of=9))},
        "3 dot in key, first c0.new: a key ends at its first dot",
        {"c0": 0},
        {"tile_1.5m": "belong to tile_1", "tile_2.5m": "belong to tile_2", "c0.new": "belong to c0"},
    ),
    Tars(
        "a dot in every key",
        {"0.tar": tar_of(chips(1, 2, key="tile_{}.5m"))},
        "tile_1.5m in 0.tar: a key ends at its first dot",
        {},
        {},
    ),
    Tars(
        "a further image of a key is no chip",
        {"0.tar": tar_of(chips(0, 1, 2, 3) | {"c0.small.image.npy": npy(image(9))})},
        "none rejected",
        FIRST,
        {},
    ),
    Tars("a tar without members", {"0.tar": FULL, "1.tar": tar_of({})}, "none rejected", FIRST, {}),
    Tars(
        "a tar without a usable chip",
        {"0.tar": FULL, "1.tar": tar_of({"c9.image.npy": b"?"})},
        "1 unreadable",
        FIRST,
        {"c9": "truncated"},
    ),
    Tars(
        "files of another system in a tar and beside it",
        {
            "0.tar": tar_of(
                {f"./._{name}": b"Mac" for name in chips(0, 1, 2, 3)} | {".DS_Store": b""} | chips(0, 1, 2, 3)
            ),
            "._0.tar": b"Mac",
        },
        "left out: 9 members whose name begins with a dot (first 0.tar: ./._c0.image.npy)",
        FIRST,
        {},
    ),
    Tars("tars joined by cat", {"0.tar": FULL + OTHERS}, "none rejected", SIX, {}),
    Tars(
        "tars joined by cat, the same keys",
        {"0.tar": FULL + tar_of(chips(0, pixels_of=50) | chips(4, 5))},
        "1 unreadable, first c0: c0.image.npy is there twice",
        {f"c{number}": number for number in range(1, 6)},
        {"c0": "is there twice"},
    ),
    Tars(
        "tars joined by cat, the second cut",
        {"0.tar": FULL + OTHERS[:3000]},
        "0.tar: cannot be read as a tar (unexpected end of data)",
        {},
        {},
    ),
    Tars(
        "a tar and a gzipped one joined by cat",
        {"0.tar": FULL + gzip.compress(OTHERS)},
        f"its tar ends before byte {len(FULL):,}, and what follows is no tar",
        {},
        {},
    ),
]


@pytest.mark.parametrize("case", TARS, ids=lambda case: case.kind.replace(" ", "-"))
def test_tars(case: Tars, tmp_path: Path) -> None:
    """What is kept has its own pixels, what is not is counted and named, and what was made verifies."""
    for name, content in case.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    done = treeline("ingest", "tars", str(tmp_path))
    assert case.says in done.stdout + done.stderr
    if not case.kept:
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
            name.rpartition("/")[2] for name in case.files
        }
        return
    assert done.returncode == 0
    dataset = open_dataset(str(tmp_path))
    assert_has(dataset, case.kept)
    found = {row["key"]: f"{row['reason']}: {row['detail']}" for row in dataset.rejected.to_pylist()}
    assert found.keys() == case.rejected.keys()
    for key, said in case.rejected.items():
        assert said in found[key]
    checked = treeline("verify", str(tmp_path))
    assert checked.returncode == 0, checked.stdout


def test_a_tar_with_brackets_in_its_name_is_held_out_by_it(tmp_path: Path) -> None:
    """A name that exists is no pattern."""
    for name, content in (("0.tar", FULL), ("v[1].tar", OTHERS)):
        (tmp_path / name).write_bytes(content)
    assert treeline("ingest", "tars", str(tmp_path), "--val", "v[1].tar").returncode == 0
    assert open_dataset(str(tmp_path)).manifest.samples("val") == 2


def assert_has(dataset: Dataset, numbers: dict[str, int]) -> None:
    """`dataset` has these keys alone, each with the pixels of its number."""
    keys = dataset.index["key"].to_pylist()
    assert sorted(keys) == sorted(numbers)
    batch = dataset.gather(dataset.chips("all"))
    for key, image_CHW in zip(keys, batch.image_BCHW, strict=True):
        np.testing.assert_array_equal(image_CHW, image(numbers[key]))


# --- files of chips of which only a part would be taken ---

PLACE = Affine(2, 0, 200_000, 0, -2, 1_700_000)


def tif(array: NDArray[Any], pages: int = 1, **profile: Any) -> bytes:
    """The bands (or one band) as a GeoTIFF of some equal pages."""
    bands_CHW = array[None] if array.ndim == 2 else array
    count, rows, columns = bands_CHW.shape
    made = {"driver": "GTiff", "dtype": bands_CHW.dtype, "crs": "EPSG:3338", "transform": PLACE}
    made |= {"count": count, "height": rows, "width": columns, **profile}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "chip.tif")
        for page in range(pages):
            with rasterio.open(path, "w", **made, APPEND_SUBDATASET="YES" if page else "NO") as raster:
                raster.write(bands_CHW)
        return path.read_bytes()


def npz(**arrays: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


PARTS: dict[str, tuple[str, bytes, bytes, str]] = {
    # Kind: ending, image, height, part of why the chip is rejected.
    "image of complex numbers": (".tif", tif(image(1).astype("c8")), tif(height(1)), "holds complex numbers"),
    "image of complex numbers with nodata": (
        *(".tif", tif(image(1).astype("c8"), nodata=float(image(1)[0, 0, 0])), tif(height(1))),
        "holds complex numbers",
    ),
    "height of complex numbers": (
        ".tif",
        tif(image(1)),
        tif(height(1).astype("c8")),
        "holds complex numbers",
    ),
    "height of complex whole numbers": (
        *(".tif", tif(image(1)), tif(height(1).astype("c8"), dtype="complex_int16")),
        "holds complex numbers",
    ),
    "height of two bands": (
        *(".tif", tif(image(1)), tif(np.stack([height(1), height(2)]))),
        "height is (2, 16, 16), not (16, 16)",
    ),
    "height of two pages": (".tif", tif(image(1)), tif(height(1), pages=2), "holds 2 images"),
    "image of a further band": (
        *(".tif", tif(np.concatenate([image(1), image(2)[:1]])), tif(height(1))),
        "image is (5, 16, 16)",
    ),
    "array of complex images": (".npy", npy(image(1).astype("c16")), npy(height(1)), "image is complex128"),
    "array of complex heights": (".npy", npy(image(1)), npy(height(1).astype("c8")), "height is complex64"),
    "array of heights with fields": (
        *(".npy", npy(image(1)), npy(np.zeros((SIZE, SIZE), [("m", "f4"), ("cm", "f4")]))),
        "height is [('m', '<f4'), ('cm', '<f4')], not a number",
    ),
    "two arrays in a file": (".npy", npy(image(1)), npy(height(1)) + npy(height(2)), "after its array"),
    "several arrays in an archive": (
        *(".npz", npz(a=image(1)), npz(a=height(1), mask=height(1) > 1)),
        "holds several arrays (a, mask)",
    ),
}


@pytest.mark.parametrize("kind", PARTS, ids=lambda kind: kind.replace(" ", "-"))
@pytest.mark.parametrize("by", ["folders", "table"])
def test_no_part_of_a_chip_is_taken_for_the_whole(kind: str, by: str, tmp_path: Path) -> None:
    """The chip is rejected with its reason, and the one beside it is kept."""
    ending, bad_image, bad_height, says = PARTS[kind]
    for folder, bad, good in (("images", bad_image, image(0)), ("heights", bad_height, height(0))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"bad{ending}").write_bytes(bad)
        (tmp_path / folder / "good.npy").write_bytes(npy(good))
    (tmp_path / "chips.csv").write_text(f"filename\nbad{ending}\ngood.npy\n")
    table = ["--table", "chips.csv"] if by == "table" else []
    done = treeline(
        *("ingest", "pairs", "--images", "images", "--heights", "heights", "--out", "out", *table),
        *("--chip-size", str(SIZE)),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    dataset = open_dataset(str(tmp_path / "out"))
    assert_has(dataset, {"good": 0})
    (rejected,) = dataset.rejected.to_pylist()
    assert rejected["key"] == "bad"
    assert says in f"{rejected['reason']}: {rejected['detail']}"


def test_compressed_chips_are_counted(tmp_path: Path) -> None:
    """They are not left out without a word, just as compressed tars are not."""
    for folder, array in (("images", image(0)), ("heights", height(0))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "good.npy").write_bytes(npy(array))
        (tmp_path / folder / f"{folder}.npy.gz").write_bytes(gzip.compress(npy(array)))
    done = treeline(
        *("ingest", "pairs", "--images", "images", "--heights", "heights", "--out", "out"),
        *("--chip-size", str(SIZE), "--shares", "1"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "2 compressed" in done.stdout
    dataset = open_dataset(str(tmp_path / "out"))
    assert_has(dataset, {"good": 0})
    assert [row["key"] for row in dataset.rejected.to_pylist()] == ["heights.npy.gz", "images.npy.gz"]


def test_chips_without_a_whole_pixel_are_a_dataset_with_a_note(tmp_path: Path) -> None:
    """Where every chip misses a band and --min-valid 0 keeps them, what was written is no mistake."""
    for name, array in (("images", image(0).astype(np.float32)), ("heights", height(0))):
        (tmp_path / name).mkdir()
        array[1] = np.nan
        np.save(tmp_path / name / "c0.npy", array)
    done = treeline(
        *("ingest", "pairs", "--images", "images", "--heights", "heights", "--out", "out", "--shares", "1"),
        *("--chip-size", str(SIZE), "--dtype", "float32", "--min-valid", "0"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "note: out: no statistics, since no chip is in the training split or none has valid" in done.stdout


@pytest.mark.parametrize(
    ("ending", "content", "says"),
    [
        ("image.npy", npy(image(1).astype("c8")), "image.npy is <c8"),
        ("height.npy", npy(height(1).astype("c8")), "height.npy is <c8"),
        ("height.npy", npy(np.zeros((SIZE, SIZE), [("m", "f4")])), "height.npy is |V4"),
        ("height.npy", npy(np.stack([height(1), height(2)])), "height is (2, 16, 16)"),
        ("height.npy", npy(height(1)) + npy(height(2)), "after its array"),
    ],
    ids=["complex-image", "complex-height", "fields", "two-bands", "two-arrays"],
)
def test_no_part_of_a_member_is_taken_for_the_whole(
    ending: str, content: bytes, says: str, tmp_path: Path
) -> None:
    """Members of tars are rejected as files are."""
    (tmp_path / "0.tar").write_bytes(tar_of(chips(0) | chips(1) | {f"c1.{ending}": content}))
    assert treeline("ingest", "tars", str(tmp_path)).returncode == 0
    dataset = open_dataset(str(tmp_path))
    assert_has(dataset, {"c0": 0})
    (rejected,) = dataset.rejected.to_pylist()
    assert rejected["key"] == "c1"
    assert says in rejected["detail"]


TRAIN = ("--recipe", "tiny", "--epochs", "1", "--batch-size", "4", "--device", "cpu")


# --- missing pixels ---


@pytest.mark.slow
@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf, -9999], ids=["nan", "inf", "-inf", "nodata"])
def test_a_band_that_misses_rows(missing: float, tmp_path: Path) -> None:
    """What is missing from one band of some float32 chips has no part in baselines and training."""
    for name in ("images", "heights"):
        (tmp_path / name).mkdir()
    known = np.ones((SIZE, SIZE), np.bool_)
    known[3:6] = False
    values, heights = [], []
    for number in range(12):
        image_CHW = image(number).astype(np.float32)
        values.append(image_CHW[:, known])
        heights.append(height(number)[known])
        image_CHW[1, ~known] = missing
        np.save(tmp_path / "images" / f"c{number}.npy", image_CHW)
        np.save(tmp_path / "heights" / f"c{number}.npy", height(number))
    done = treeline(
        *("ingest", "pairs", "--images", "images", "--heights", "heights", "--out", "out"),
        *("--chip-size", str(SIZE), "--dtype", "float32", "--min-valid", "0.5", "--shares", "1"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    bands = ("--bands", "blue", "green", "red", "nir")
    done = treeline("train", "--data", "out", "--out", "run", *TRAIN, *bands, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    baselines = load_checkpoint(str(tmp_path / "run")).baselines
    value_NC, height_N = np.concatenate(values, axis=1).T.astype(np.float64), np.concatenate(heights)
    exact = np.linalg.lstsq(np.column_stack([value_NC, np.ones(len(value_NC))]), height_N, rcond=None)[0]
    np.testing.assert_allclose(baselines.coefficients, exact, rtol=1e-6)
    np.testing.assert_allclose(baselines.mean_height, height_N.astype(np.float64).mean(), rtol=1e-9)
