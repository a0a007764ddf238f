"""Pairs of .npy -> a dataset: every pair is kept as it is, or counted under its reason and listed.

- kept pixels are the pixels of the files, whichever axis of the image the bands are on
- each kind of bad chip has a reason; it is counted, listed, and never stops the good ones
- nothing is ever unpickled
- the same folders give the same bytes; scenes are split whole when asked to
- a mistake of the user's leaves nothing behind
"""

from __future__ import annotations

import pickle
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.config import PairsConfig
from ingest.files.pairs_source import PairsSource
from ingest.work.run import Ingested
from ingest.work.run import ingest as ingest_source
from shards.errors import InputError
from shards.format.key import facts, is_valid, split_of
from shards.format.manifest import SPLITS
from shards.read.dataset import Dataset, open_dataset

VICTIM = 3
"""The chip that is spoilt."""


def run(images: Path | str, heights: Path | str, out: Path | str, **options: Any) -> Ingested:
    config = PairsConfig(images=str(images), heights=str(heights), out=str(out), **options)
    return ingest_source(PairsSource(config), config)


def ingest(folders: Any, out: Path, **options: Any) -> Dataset:
    run(folders.images, folders.heights, out, **options)
    return open_dataset(str(out))


def arrays_by_key(dataset: Dataset) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    batch = dataset.gather(dataset.chips("all"))
    keys = dataset.index["key"].to_pylist()
    return {
        key: (image, height)
        for key, image, height in zip(keys, batch.image_BCHW, batch.height_BHW, strict=True)
    }


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def npy_bytes(header: bytes, data: bytes = b"") -> bytes:
    """An .npy file of version 1.0 with any text as its header."""
    padded = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + data


class Trap:
    """Leaves a file behind if anybody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_kept_chips_are_the_files_and_the_index_says_what_their_names_say(
    chip_folders: Callable[..., Any], tmp_path: Path
) -> None:
    folders = chip_folders(12)
    dataset = ingest(folders, tmp_path / "out")
    stored = arrays_by_key(dataset)
    assert stored.keys() == folders.chips.keys()
    for key, chip in folders.chips.items():
        np.testing.assert_array_equal(stored[key][0], chip.image_CHW)
        np.testing.assert_array_equal(stored[key][1], chip.height_HW)
    for row in dataset.index.to_pylist():
        chip = folders.chips[row["key"]]
        for name in ("source", "sensor", "acquired", "scene"):
            assert row[name] == getattr(chip, name)
        assert row["split"] == split_of(row["key"], 0.2)
        assert row["height_mean"] == pytest.approx(chip.height_HW.mean(), rel=1e-5)
        assert row["height_max"] == chip.height_HW.max()
        assert row["height_p95"] == pytest.approx(np.percentile(chip.height_HW, 95), rel=1e-5)
        assert row["valid_fraction"] == 1
    assert dataset.manifest.rejected == {}
    assert dataset.rejected.num_rows == 0


@pytest.mark.parametrize("image_last", [False, True])
@pytest.mark.parametrize("height_first", [False, True])
@pytest.mark.parametrize("height_dtype", ["float32", "float64", "int16"])
def test_other_axes_and_height_types_give_the_same_arrays(
    chip_folders: Callable[..., Any],
    tmp_path: Path,
    image_last: bool,
    height_first: bool,
    height_dtype: str,
) -> None:
    folders = chip_folders(2)
    for key, chip in folders.chips.items():
        image = chip.image_CHW.transpose(1, 2, 0) if image_last else chip.image_CHW
        height = np.rint(chip.height_HW).astype(height_dtype)
        np.save(folders.images / f"{key}.npy", image)
        np.save(folders.heights / f"{key}.npy", height[None] if height_first else height)
    stored = arrays_by_key(ingest(folders, tmp_path / "out"))
    assert len(stored) == 2
    for key, chip in folders.chips.items():
        np.testing.assert_array_equal(stored[key][0], chip.image_CHW)
        np.testing.assert_array_equal(stored[key][1], np.rint(chip.height_HW))


def _no_image(images: Path, heights: Path) -> None:
    images.unlink()


def _no_height(images: Path, heights: Path) -> None:
    heights.unlink()


def _image(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Path], None]:
    return lambda images, heights: np.save(images, change(np.load(images)))


def _height(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Path], None]:
    return lambda images, heights: np.save(heights, change(np.load(heights)))


def _one(value: float, place: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[place] = value
        return array

    return change


def _truncated(size: int) -> Callable[[Path, Path], None]:
    return lambda images, heights: images.write_bytes(images.read_bytes()[:size]) and None


def _bytes(data: bytes) -> Callable[[Path, Path], None]:
    return lambda images, heights: images.write_bytes(data) and None


BAD = {
    "image missing": (_no_image, "missing partner"),
    "height missing": (_no_height, "missing partner"),
    "image of 63 rows": (_image(lambda a: a[:, 1:]), "wrong shape"),
    "image of 3 bands": (_image(lambda a: a[:3]), "wrong shape"),
    "image without bands": (_image(lambda a: a[0]), "wrong shape"),
    "height of 2 layers": (_height(lambda a: np.stack([a, a])), "wrong shape"),
    "height of 32 x 32": (_height(lambda a: a[::2, ::2]), "wrong shape"),
    "image in float32": (_image(lambda a: a.astype(np.float32)), "wrong dtype"),
    "image in uint16": (_image(lambda a: a.astype(np.uint16)), "wrong dtype"),
    "height in complex": (_height(lambda a: a.astype(complex)), "wrong dtype"),
    "height in bool": (_height(lambda a: a > 0), "wrong dtype"),
    "data cut": (_truncated(20_000), "unreadable"),
    "header cut": (_truncated(40), "unreadable"),
    "empty file": (_truncated(0), "unreadable"),
    "no npy": (_bytes(b"not an array" * 100), "unreadable"),
    "header of rubbish": (_bytes(npy_bytes(b"rubbish")), "unreadable"),
    "header with an open bracket": (_bytes(npy_bytes(b"{'descr': '<i2', 'shape': (4,")), "unreadable"),
    "header of an impossible size": (
        _bytes(npy_bytes(b"{'descr': '<i2', 'fortran_order': False, 'shape': (1152921504606846976,), }")),
        "unreadable",
    ),
    "a pixel of nodata": (_image(_one(-9999, (2, 5, 7))), "incomplete"),
    "a height of NaN": (_height(_one(np.nan, (5, 7))), "incomplete"),
    "a height of infinity": (_height(_one(np.inf, (0, 0))), "incomplete"),
    "a height of -9999": (_height(_one(-9999, (63, 63))), "incomplete"),
    "all heights 0": (_height(np.zeros_like), "no positive height"),
    "heights below 0": (_height(lambda a: -np.abs(a)), "no positive height"),
}


@pytest.mark.parametrize(("spoil", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_chip_is_counted_and_listed_and_the_others_are_kept(
    chip_folders: Callable[..., Any],
    tmp_path: Path,
    spoil: Callable[[Path, Path], None],
    reason: str,
) -> None:
    folders = chip_folders(5)
    victim = list(folders.chips)[VICTIM]
    spoil(folders.images / f"{victim}.npy", folders.heights / f"{victim}.npy")
    dataset = ingest(folders, tmp_path / "out")
    assert dataset.manifest.rejected == {reason: 1}
    (row,) = dataset.rejected.to_pylist()
    assert (row["key"], row["reason"]) == (victim, reason)
    stored = arrays_by_key(dataset)
    assert stored.keys() == folders.chips.keys() - {victim}
    for key, (image_CHW, _) in stored.items():
        np.testing.assert_array_equal(image_CHW, folders.chips[key].image_CHW)


def test_the_nodata_of_the_configuration_is_missing_in_heights_too(
    chip_folders: Callable[..., Any], tmp_path: Path
) -> None:
    folders = chip_folders(3)
    victim = folders.heights / f"{list(folders.chips)[1]}.npy"
    _height(_one(-32767, (9, 9)))(victim, victim)
    dataset = ingest(folders, tmp_path / "out", nodata=-32767)
    assert dataset.manifest.rejected == {"incomplete": 1}


def test_a_pickled_object_is_never_loaded(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    folders, sprung = chip_folders(5), tmp_path / "sprung"
    as_array, as_pickle = list(folders.chips)[:2]
    np.save(folders.images / f"{as_array}.npy", np.array([Trap(sprung)], object), allow_pickle=True)
    (folders.heights / f"{as_pickle}.npy").write_bytes(pickle.dumps(Trap(sprung)))
    dataset = ingest(folders, tmp_path / "out")
    assert not sprung.exists()
    assert dataset.manifest.rejected == {"unreadable": 2}
    details = {row["key"]: row["detail"] for row in dataset.rejected.to_pylist()}
    assert details.keys() == {as_array, as_pickle}
    assert "never loaded" in details[as_array]


@pytest.mark.parametrize("name", ["chip.7", "chip 7", "chip_é", "c" * 90])
def test_a_name_that_cannot_be_a_key_is_refused(
    chip_folders: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    folders = chip_folders(3)
    first = next(iter(folders.chips))
    for folder in (folders.images, folders.heights):
        (folder / f"{first}.npy").rename(folder / f"{name}.npy")
    dataset = ingest(folders, tmp_path / "out")
    assert not is_valid(name)
    assert dataset.manifest.rejected == {"unusable key": 1}
    assert dataset.rejected["key"].to_pylist() == [name]


def test_reasons_add_up(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    cases = [case for name, case in BAD.items() if not name.startswith("header")]
    folders = chip_folders(len(cases) + 4)
    for key, (spoil, _) in zip(list(folders.chips)[4:], cases, strict=True):
        spoil(folders.images / f"{key}.npy", folders.heights / f"{key}.npy")
    manifest, said = vars(run(folders.images, folders.heights, tmp_path / "out")).values()
    table = open_dataset(str(tmp_path / "out")).rejected
    kept = sum(manifest.samples(split) for split in SPLITS)
    assert (kept, table.num_rows) == (4, len(cases))
    listed = table["reason"].to_pylist()
    assert manifest.rejected == {reason: listed.count(reason) for reason in listed}
    words = [" ".join(line.split()) for line in said.splitlines()]
    assert f"{len(cases) + 4} read" in words
    assert "4 kept" in words
    for reason, count in manifest.rejected.items():
        told = re.compile(rf"{count} {re.escape(reason)}( \(--[a-z-]+\))? first ")  # with what decides
        assert any(told.match(line) for line in words)


def test_two_ingests_give_the_same_bytes(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    folders = chip_folders(9)
    (folders.heights / f"{list(folders.chips)[VICTIM]}.npy").unlink()
    first, second = tmp_path / "first", tmp_path / "elsewhere" / "second"
    ingest(folders, first)
    ingest(folders, second)
    assert files_below(first) == files_below(second)
    assert {"dataset.json", "index.parquet", "rejected.parquet", "statistics.json", "counts.npz"} < set(
        files_below(first)
    )


def test_scenes_are_split_whole_when_asked_to(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    folders = chip_folders(30)
    splits_of_scene = defaultdict(set)
    dataset = ingest(folders, tmp_path / "by-scene", split_by="scene", shares=(0.5, 0.5))
    for row in dataset.index.to_pylist():
        splits_of_scene[row["scene"]].add(row["split"])
        assert row["scene"] == facts(row["key"]).scene
    assert all(len(splits) == 1 for splits in splits_of_scene.values())
    assert set.union(*splits_of_scene.values()) == {"train", "val"}
    by_key = ingest(folders, tmp_path / "by-key", shares=(0.5, 0.5)).index
    assert len(set(zip(by_key["scene"].to_pylist(), by_key["split"].to_pylist(), strict=True))) > len(
        splits_of_scene
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_nothing_or_everything_is_meant(
    chip_folders: Callable[..., Any], tmp_path: Path, share: float
) -> None:
    dataset = ingest(chip_folders(6), tmp_path / "out", shares=(1 - share, share))
    assert [dataset.manifest.samples(split) for split in ("train", "val")] == [6 * (1 - share), 6 * share]


def test_all_rejected_is_an_error_that_says_why_and_leaves_nothing(
    chip_folders: Callable[..., Any], tmp_path: Path
) -> None:
    folders = chip_folders(3)
    for key in folders.chips:
        _height(np.zeros_like)(folders.heights, folders.heights / f"{key}.npy")
    with pytest.raises(InputError, match="3 no positive height"):
        ingest(folders, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["image missing", "data cut", "a height of NaN"])
def test_strict_stops_at_a_bad_chip_names_it_and_leaves_nothing(
    chip_folders: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    folders = chip_folders(5)
    victim = list(folders.chips)[VICTIM]
    spoil, reason = BAD[name]
    spoil(folders.images / f"{victim}.npy", folders.heights / f"{victim}.npy")
    with pytest.raises(InputError, match=f"{victim}.*{reason}"):
        ingest(folders, tmp_path / "new" / "out", strict=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("missing", ["images", "heights"])
@pytest.mark.parametrize("state", ["absent", "empty"])
def test_a_folder_without_chips_is_named(
    chip_folders: Callable[..., Any], tmp_path: Path, missing: str, state: str
) -> None:
    folders = chip_folders(2)
    other = tmp_path / "nothing-here"
    if state == "empty":
        other.mkdir()
    paths = {"images": str(folders.images), "heights": str(folders.heights), missing: str(other)}
    with pytest.raises(InputError, match="nothing-here"):
        run(**paths, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dataset_is_never_overwritten(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    folders = chip_folders(2)
    ingest(folders, tmp_path / "out")
    before = files_below(tmp_path / "out")
    with pytest.raises(InputError, match="already holds a dataset"):
        ingest(folders, tmp_path / "out", shares=(0.5, 0.5))
    np.save(folders.images / "chip_more.npy", np.zeros(1))
    with pytest.raises(InputError, match="already holds a dataset"):
        ingest(folders, tmp_path / "out")
    assert files_below(tmp_path / "out") == before


def test_the_same_again_is_done_already(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    folders = chip_folders(3)
    ingest(folders, tmp_path / "out")
    before = files_below(tmp_path / "out")
    again = run(folders.images, folders.heights, tmp_path / "out")
    assert "is complete already" in again.summary
    assert files_below(tmp_path / "out") == before


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_share_held_out_is_about_right(share: float) -> None:
    names = [f"chip_WV02_20150802_M1BS_1030010047ADDD00_CHM_AK_IFSAR_CHM_{n:05d}_v1" for n in range(5000)]
    held_out = sum(split_of(name, share) == "val" for name in names)
    # Four standard deviations of 5000 independent draws.
    assert abs(held_out - 5000 * share) < 4 * np.sqrt(5000 * share * (1 - share))


def test_a_larger_share_holds_out_the_same_names_and_more() -> None:
    names = [f"chip_{number}" for number in range(500)]
    held_out = [{name for name in names if split_of(name, share) == "val"} for share in (0.1, 0.2, 0.6)]
    assert held_out[0] < held_out[1] < held_out[2]


def test_the_split_of_a_name_never_changes() -> None:
    # SHA-256 of the name: a dataset made again, years later and elsewhere, holds out the same chips.
    held_out = [number for number in range(20) if split_of(f"chip_{number}", 0.2) == "val"]
    assert held_out == [6, 9, 12, 18]


def test_chips_are_stored_in_the_order_of_their_names(
    chip_folders: Callable[..., Any], tmp_path: Path
) -> None:
    # Python orders a set of names anew in each process: the same bytes need an order of their own.
    rows = ingest(chip_folders(20), tmp_path / "out").index.to_pylist()
    for split in SPLITS:
        keys = [row["key"] for row in rows if row["split"] == split]
        assert keys == sorted(keys)
