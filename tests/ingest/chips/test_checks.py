"""What is kept is fit to learn from by the rules that were given; what is refused is counted and said.

- shares of missing pixels, exactly to the pixel; one mark for all that is missing
- least heights, or none
- the summary's numbers add up; keys tell what they say, and those that say nothing are counted
- chips with the pixels of another are told, in one dataset and across what is added to it
- heights that lie off their image are told by how far
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.chips.check import Rejected, Rules, checked
from ingest.config import PairsConfig
from ingest.files.pairs_source import PairsSource
from ingest.synthetic.landscape import NODATA, make_landscape
from ingest.work.run import Ingested, ingest
from shards.commands.verify import verify
from shards.config import VerifyConfig
from shards.errors import InputError
from shards.format.schema import Schema
from shards.read.dataset import Dataset, open_dataset

SMALL = Schema(("a", "b"), chip_size=10)
FLOAT = Schema(("vv", "vh"), "float32", -32768, 10)


def run(folders: Any, out: Path, **options: Any) -> Ingested:
    config = PairsConfig(images=str(folders.images), heights=str(folders.heights), out=str(out), **options)
    return ingest(PairsSource(config), config)


def ingested(folders: Any, out: Path, **options: Any) -> Dataset:
    run(folders, out, **options)
    return open_dataset(str(out))


def rows_by_key(dataset: Dataset) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in dataset.index.to_pylist()}


def arrays_by_key(dataset: Dataset) -> dict[str, tuple[NDArray[Any], NDArray[np.float32]]]:
    batch, keys = dataset.gather(dataset.chips("all")), dataset.index["key"].to_pylist()
    arrays = zip(batch.image_BCHW, batch.height_BHW, strict=True)
    return dict(zip(keys, arrays, strict=True))


def counts_in(summary: str) -> dict[str, int]:
    """The summary's numbers by what they are of."""
    lines = [line for line in summary.splitlines() if re.match(r" *[\d,]+ ", line)]
    found = {}
    for line in lines:
        count, what = line.split(maxsplit=1)
        found[re.split(r" {2,}| \(--|first ", what)[0].strip()] = int(count.replace(",", ""))
    return found


def reason_of(image: NDArray[Any], height: NDArray[Any], schema: Schema, **rules: Any) -> tuple[str, str]:
    with pytest.raises(Rejected) as refused:
        checked(image, height, schema, Rules(**rules))
    return refused.value.reason, refused.value.detail


def plain(schema: Schema) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """An image and heights that lack nothing."""
    rng = np.random.default_rng(3)
    image_CHW = rng.integers(1, 9000, schema.image_shape).astype(schema.dtype)
    return image_CHW, rng.uniform(0.5, 9, schema.label_shape).astype(np.float32)


# --- what is missing ---


def test_a_chip_is_kept_with_just_as_many_pixels_as_must_be_there() -> None:
    image_CHW, height_HW = plain(SMALL)
    for valid in range(1, 101):
        missing = np.arange(100) >= valid
        less_HW = np.where(missing.reshape(10, 10), np.float32(np.nan), height_HW)
        less_CHW = np.where(missing.reshape(10, 10), np.int16(-9999), image_CHW)
        for image, height in ((image_CHW, less_HW), (less_CHW, height_HW), (less_CHW, less_HW)):
            rules = Rules(min_valid=valid / 100)
            kept_CHW, kept_HW = checked(image, height, SMALL, rules)
            np.testing.assert_array_equal(kept_CHW, image)
            np.testing.assert_array_equal(kept_HW, height)
            if valid < 100:
                more = float(np.nextafter(rules.min_valid, 1))
                assert reason_of(image, height, SMALL, min_valid=more)[0] == "incomplete"


def test_a_pixel_without_one_band_or_without_its_height_is_missing_once() -> None:
    image_CHW, height_HW = plain(SMALL)
    image_CHW[0, :3], image_CHW[1, 1:4], height_HW[2:6] = -9999, -9999, np.nan
    checked(image_CHW, height_HW, SMALL, Rules(min_valid=0.4))
    reason, detail = reason_of(image_CHW, height_HW, SMALL, min_valid=0.41)
    assert (reason, detail) == ("incomplete", "40.0% of image and 40.0% of height missing")


def test_three_missing_tenths_are_kept_as_they_are_when_half_may_be_missing(
    chip_folders: Callable[..., Any], tmp_path: Path
) -> None:
    folders = chip_folders(6)
    cloudy, unmeasured, both = list(folders.chips)[:3]
    images = {key: chip.image_CHW.copy() for key, chip in folders.chips.items()}
    heights = {key: chip.height_HW.copy() for key, chip in folders.chips.items()}
    images[cloudy][2, :19], heights[unmeasured][:19] = -9999, np.nan
    images[both][:, :19], heights[both][-19:] = -9999, -9999
    for key in (cloudy, unmeasured, both):
        np.save(folders.images / f"{key}.npy", images[key])
        np.save(folders.heights / f"{key}.npy", heights[key])
    heights[both][-19:] = np.nan
    all_of_it = ingested(folders, tmp_path / "all")
    details = {row["key"]: row["detail"] for row in all_of_it.rejected.to_pylist()}
    assert details == {
        cloudy: "29.7% of image missing",
        unmeasured: "29.7% of height missing",
        both: "29.7% of image and 29.7% of height missing",
    }
    assert all_of_it.manifest.rejected == {"incomplete": 3}
    half = ingested(folders, tmp_path / "half", min_valid=0.5)
    assert half.rejected["key"].to_pylist() == [both]
    stored, rows = arrays_by_key(half), rows_by_key(half)
    assert stored.keys() == folders.chips.keys() - {both}
    for key, (image_CHW, height_HW) in stored.items():
        np.testing.assert_array_equal(image_CHW, images[key])
        np.testing.assert_array_equal(height_HW, heights[key])
        valid = (images[key] != -9999).all(0) & np.isfinite(heights[key])
        assert rows[key]["valid_fraction"] == pytest.approx(valid.mean())
        assert rows[key]["height_max"] == np.nanmax(heights[key])
        assert rows[key]["height_mean"] == pytest.approx(np.nanmean(heights[key], dtype=np.float64))
        assert rows[key]["height_p95"] == pytest.approx(np.nanpercentile(heights[key], 95), rel=1e-5)
    assert verify(VerifyConfig(half.url)) == []


@pytest.mark.parametrize("mark", [np.nan, np.inf, -np.inf, -9999.0, -32768.0])
def test_all_that_is_missing_has_one_mark(mark: float) -> None:
    image_CHW, height_HW = plain(FLOAT)
    expected_CHW, expected_HW = image_CHW.copy(), height_HW.copy()
    height_HW[2, 3], expected_HW[2, 3] = mark, np.nan
    if mark != -9999:  # of an image, only what the schema says
        image_CHW[1, 4, 4], expected_CHW[1, 4, 4] = mark, np.nan
    for dtype in ("float32", "float64", ">f4"):
        kept_CHW, kept_HW = checked(image_CHW, height_HW.astype(dtype), FLOAT, Rules(min_valid=0.9))
        # Also as bits: the same chip gives the same checksum, whatever its files' marks.
        np.testing.assert_array_equal(kept_CHW.view(np.uint32), expected_CHW.view(np.uint32))
        np.testing.assert_array_equal(kept_HW.view(np.uint32), expected_HW.view(np.uint32))
    reason, detail = reason_of(image_CHW, height_HW, FLOAT)
    assert reason == "incomplete"
    assert "1.0% of height missing" in detail


def test_heights_beyond_float32_are_missing() -> None:
    image_CHW, height_HW = plain(SMALL)
    wide_HW = height_HW.astype(np.float64)
    wide_HW[0, 0] = -1.7976931348623157e308  # the nodata of many elevation models
    _, kept_HW = checked(image_CHW, wide_HW, SMALL, Rules(min_valid=0.9))
    assert np.isnan(kept_HW[0, 0])
    np.testing.assert_array_equal(kept_HW.ravel()[1:], height_HW.ravel()[1:])


def test_a_height_of_zero_is_a_height_where_zero_is_no_pixel() -> None:
    schema = replace(SMALL, dtype="uint8", nodata=0)
    image_CHW, height_HW = plain(schema)
    image_CHW[image_CHW == 0] = 1
    height_HW[:, :5] = 0
    np.testing.assert_array_equal(checked(image_CHW, height_HW, schema, Rules())[1], height_HW)
    image_CHW[0, 0, 0] = 0
    assert reason_of(image_CHW, height_HW, schema) == ("incomplete", "1.0% of image missing")


def test_without_nodata_every_whole_number_is_a_measurement() -> None:
    schema = replace(SMALL, nodata=None)
    image_CHW, height_HW = plain(schema)
    image_CHW[0, 0, 0] = -9999
    np.testing.assert_array_equal(checked(image_CHW, height_HW, schema, Rules())[0], image_CHW)


# --- least heights ---


def test_a_chip_needs_a_height_above_the_least() -> None:
    image_CHW, _ = plain(SMALL)
    for highest in (-1.0, 0.0, 0.25, 2.0, 2.5):
        height_HW = np.full(SMALL.label_shape, -5, np.float32)
        height_HW[4, 4] = highest
        checked(image_CHW, height_HW, SMALL, Rules(min_height=None))
        for least in (-2.0, 0.0, 0.25, 2.0):
            if highest > least:
                checked(image_CHW, height_HW, SMALL, Rules(min_height=least))
            else:
                said = ("too low", f"no height above {least:g} m") if least else ("no positive height", "")
                assert reason_of(image_CHW, height_HW, SMALL, min_height=least) == said


def test_a_height_that_is_missing_is_above_nothing() -> None:
    image_CHW, height_HW = plain(SMALL)
    height_HW[:] = np.nan
    for least in (-1e9, 0.0):
        reason, _ = reason_of(image_CHW, height_HW, SMALL, min_valid=0, min_height=least)
        assert reason == ("too low" if least else "no positive height")
    _, kept_HW = checked(image_CHW, height_HW, SMALL, Rules(0.0, None))
    assert np.isnan(kept_HW).all()


def test_least_heights_choose_chips_of_a_folder(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    folders = chip_folders(12)
    highest = {key: float(chip.height_HW.max()) for key, chip in folders.chips.items()}
    least = sorted(highest.values())[6]
    dataset = ingested(folders, tmp_path / "out", min_height=least)
    assert set(rows_by_key(dataset)) == {key for key, height in highest.items() if height > least}
    assert dataset.manifest.rejected == {"too low": 7}
    assert set(dataset.rejected["detail"].to_pylist()) == {f"no height above {least:g} m"}


@pytest.mark.parametrize(
    ("name", "value"), [("min_valid", 1.5), ("min_valid", -0.1), ("min_valid", np.nan), ("shard_chips", 0)]
)
def test_a_value_that_means_nothing_is_refused(
    chip_folders: Callable[..., Any], tmp_path: Path, name: str, value: float
) -> None:
    folders = chip_folders(2)
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} {value}: give"):
        run(folders, tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()


# --- the summary ---


def test_the_numbers_of_the_summary_add_up(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    folders = chip_folders(20)
    keys = list(folders.chips)
    (folders.heights / f"{keys[1]}.npy").unlink()
    (folders.images / f"{keys[2]}.npy").write_bytes(b"")
    np.save(folders.heights / f"{keys[3]}.npy", np.zeros((64, 64), np.float32))
    np.save(folders.heights / f"{keys[4]}.npy", np.full((64, 64), -9999, np.float32))
    np.save(folders.images / f"{keys[5]}.npy", np.zeros((4, 64, 64), np.float32))
    np.save(folders.images / f"{keys[6]}.npy", np.zeros((4, 32, 32), np.int16))
    for folder, name in ((folders.images, keys[7]), (folders.heights, keys[7])):
        (folder / f"{name}.npy").rename(folder / "a b.npy")
    made = run(folders, tmp_path / "out")
    dataset, counts = open_dataset(str(tmp_path / "out")), counts_in(made.summary)
    reasons = dataset.manifest.rejected
    expected = {"missing partner", "unreadable", "no positive height", "incomplete", "wrong dtype"}
    assert set(reasons) == expected | {"wrong shape", "unusable key"}
    assert {name: counts[name] for name in reasons} == reasons
    assert counts["read"] == len(keys) == counts["kept"] + sum(reasons.values())
    assert counts["kept"] == dataset.index.num_rows == sum(dataset.manifest.splits.values())
    assert {name: count for name, count in dataset.manifest.splits.items() if count} == {
        name: counts[name] for name in ("train", "val")
    }
    assert dataset.rejected.num_rows == sum(reasons.values())
    for row in dataset.rejected.to_pylist():  # the first of each reason is named
        assert row["key"] in made.summary
    assert not any(
        "duplicate" in line or "names no sensor, day or source" in line for line in made.summary.splitlines()
    )


# --- keys ---


def test_keys_tell_the_catalogue_number_and_the_rest(
    chip_folders: Callable[..., Any], tmp_path: Path
) -> None:
    dataset = ingested(chip_folders(8), tmp_path / "out")
    for row in dataset.index.to_pylist():
        # chip_WV02_20150802_M1BS_1030010047ADDD00_CHM_AK_IFSAR_CHM_00000_v20231006
        words = row["key"].split("_")
        day = words[2]
        assert row["sensor"] == words[1]
        assert row["acquired"] == f"{day[:4]}-{day[4:6]}-{day[6:]}"
        assert row["catalogue"] == words[4]
        assert row["scene"] == "_".join(words[1:5])
        assert row["source"] == "_".join(words[6:-2]).removesuffix("_CHM")
        assert row["number"] == int(words[-2])
    assert dataset.chips("all", where="number >= 3 and catalogue == '104001003234CE00'").size == 1


def renamed(folders: Any, names: dict[str, str]) -> None:
    for folder in (folders.images, folders.heights):
        for old, new in names.items():
            (folder / f"{old}.npy").rename(folder / f"{new}.npy")


def test_a_pattern_of_ones_own_tells_what_keys_say(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    folders = chip_folders(6)
    names = [f"S1A-20210{month}15-{month:03d}-site{month % 2}" for month in range(1, 6)]
    renamed(folders, dict(zip(folders.chips, [*names, "else"], strict=True)))
    pattern = r"^(?P<sensor>\w+)-(?P<acquired>\d{8})-(?P<number>\d+)-(?P<scene>site\d)$"
    made = run(folders, tmp_path / "out", key_pattern=pattern, split_by="scene", shares=(1.0,))
    dataset = open_dataset(str(tmp_path / "out"))
    rows = rows_by_key(dataset)
    for month, name in enumerate(names, 1):
        found = {fact: rows[name][fact] for fact in ("sensor", "acquired", "number", "scene")}
        day = f"2021-0{month}-15"
        assert found == {"sensor": "S1A", "acquired": day, "number": month, "scene": f"site{month % 2}"}
        assert rows[name]["source"] is rows[name]["catalogue"] is None
        assert rows[name]["split"] == rows[names[(month - 1) % 2]]["split"]
    assert rows["else"]["sensor"] is None
    (line,) = [line for line in made.summary.splitlines() if "names no sensor, day or source" in line]
    assert line.split()[0] == "1"
    for wrong in ("(", "no groups", "(?P<colour>.)"):
        with pytest.raises(InputError, match="--key-pattern"):
            run(folders, tmp_path / "other", key_pattern=wrong)
    assert not (tmp_path / "other").exists()


def test_keys_that_say_nothing_are_kept_and_counted(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    folders = chip_folders(6)
    names = {key: f"tile{number}" for number, key in enumerate(list(folders.chips)[:4])}
    renamed(folders, names)
    made = run(folders, tmp_path / "out")
    rows = rows_by_key(open_dataset(str(tmp_path / "out")))
    assert len(rows) == 6
    for name in names.values():
        facts = ("source", "sensor", "acquired", "scene", "catalogue", "number")
        assert [rows[name][fact] for fact in facts] == [None] * 6
    (line,) = [line for line in made.summary.splitlines() if "names no sensor, day or source" in line]
    assert line.split()[0] == "4"
    assert "--key-pattern" in line


# --- duplicates ---


def first_with_the_pixels(dataset: Dataset) -> list[str | None]:
    """By a loop over all pairs: for each chip, the first one in the index that has its pixels."""
    batch, keys = dataset.gather(dataset.chips("all")), dataset.index["key"].to_pylist()
    firsts: list[str | None] = []
    for number in range(len(keys)):
        for earlier in range(number):
            same_image = np.array_equal(batch.image_BCHW[number], batch.image_BCHW[earlier])
            if same_image and np.array_equal(batch.height_BHW[number], batch.height_BHW[earlier]):
                firsts.append(keys[earlier])
                break
        else:
            firsts.append(None)
    return firsts


def copied(folders: Any, key: str, other: str, *, heights: bool = True) -> None:
    """Give `other` the pixels of `key`."""
    for folder in (folders.images, folders.heights) if heights else (folders.images,):
        (folder / f"{other}.npy").write_bytes((folder / f"{key}.npy").read_bytes())


def duplicates_in(summary: str) -> int:
    found = [int(line.split()[0]) for line in summary.splitlines() if "duplicate_of" in line]
    return found[0] if found else 0


def test_chips_with_the_pixels_of_another_are_told_also_when_they_come_later(
    chip_folders: Callable[..., Any], tmp_path: Path
) -> None:
    folders = chip_folders(12)
    keys = list(folders.chips)
    for other in ("a_copy", "m_copy", "z_copy"):
        copied(folders, keys[4], other)
    copied(folders, keys[5], keys[6], heights=False)  # other heights: another chip
    options = {"shard_chips": 4, "shares": (0.5, 0.5)}
    made = run(folders, tmp_path / "out", **options)
    first = open_dataset(str(tmp_path / "out"))
    told = first.index["duplicate_of"].to_pylist()
    assert told == first_with_the_pixels(first)
    assert sum(other is not None for other in told) == 3 == duplicates_in(made.summary)
    assert first.chips("all", where="duplicate_of is None").size == 12
    for other in ("0_later", "later"):
        copied(folders, keys[4], other)
    copied(folders, keys[9], "of_nine")
    added = run(folders, tmp_path / "out", append=True, **options)
    second = open_dataset(str(tmp_path / "out"))
    told = second.index["duplicate_of"].to_pylist()
    assert told == first_with_the_pixels(second)
    assert told[: first.index.num_rows] == first.index["duplicate_of"].to_pylist()
    assert duplicates_in(added.summary) == sum(other is not None for other in told) == 6
    assert rows_by_key(second)["of_nine"]["duplicate_of"] == keys[9]
    assert verify(VerifyConfig(second.url)) == []


# --- heights that lie off their image ---


@dataclass(frozen=True)
class Moved:
    """Folders of chips whose heights were moved."""

    images: Path
    heights: Path
    shift_of: dict[str, tuple[int, int]]
    """Rows and columns, by key."""


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Moved:
    """Chips of the landscape."""
    made = Moved(tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("heights"), {})
    landscape = make_landscape(21, shape_px=(326, 326))
    rng = np.random.default_rng(8)
    for top in range(3, 259, 64):
        for left in range(3, 259, 64):
            image_CHW = landscape.image_CHW[:, top : top + 64, left : left + 64]
            row, column = (int(shift) for shift in rng.integers(-3, 4, 2))
            height_m_HW = landscape.height_m_HW[top - row :, left - column :][:64, :64]
            if (image_CHW == NODATA).any() or np.mean(height_m_HW > 2) < 0.1:
                continue
            key = f"chip_{top}_{left}"
            np.save(made.images / f"{key}.npy", image_CHW)
            np.save(made.heights / f"{key}.npy", height_m_HW)
            made.shift_of[key] = row, column
    # One without any texture: there is nothing to compare.
    np.save(made.images / "flat.npy", np.full((4, 64, 64), 500, np.int16))
    np.save(made.heights / "flat.npy", np.full((64, 64), 5, np.float32))
    return made


def test_the_index_tells_how_far_heights_lie_off(moved: Moved, tmp_path: Path) -> None:
    dataset = ingested(moved, tmp_path / "out", registration=True, shares=(1.0,))
    rows = rows_by_key(dataset)
    assert len(moved.shift_of) >= 5
    sure = {key for key in moved.shift_of if rows[key]["shift_score"] > 0.1}
    assert len(sure) >= 0.7 * len(moved.shift_of)
    for key in sure:
        row, column = moved.shift_of[key]
        assert abs(rows[key]["shift_row"] - row) <= 1
        assert abs(rows[key]["shift_column"] - column) <= 1
    exact = [(rows[key]["shift_row"], rows[key]["shift_column"]) == moved.shift_of[key] for key in sure]
    assert np.mean(exact) > 0.7
    assert all(rows[key]["shift_gain"] >= 0 for key in moved.shift_of)
    assert [rows["flat"][f"shift_{name}"] for name in ("row", "column", "score", "gain")] == [None] * 4
    keys = dataset.index["key"].to_pylist()
    chosen = dataset.chips("all", where="shift_score > 0.1 and -1 <= shift_row <= 1")
    assert {keys[chip] for chip in chosen} == {key for key in sure if -1 <= rows[key]["shift_row"] <= 1}
    assert 0 < chosen.size < len(sure)
    assert verify(VerifyConfig(dataset.url)) == []


def test_without_the_check_there_are_no_shifts(moved: Moved, tmp_path: Path) -> None:
    dataset = ingested(moved, tmp_path / "out", shares=(1.0,))
    assert not any(name.startswith("shift") for name in dataset.index.column_names)
    with pytest.raises(InputError, match="shift_score"):
        dataset.chips("all", where="shift_score > 0.1")


def test_without_heights_there_is_nothing_to_compare(moved: Moved, tmp_path: Path) -> None:
    config = PairsConfig(
        images=str(moved.images), out=str(tmp_path / "out"), registration=True, shares=(1.0,)
    )
    with pytest.raises(InputError, match="--registration: there are no heights"):
        ingest(PairsSource(config), config)
    assert not (tmp_path / "out").exists()
