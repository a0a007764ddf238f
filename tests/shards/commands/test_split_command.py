"""`treeline split`: other chips are held out, and no byte of any shard changes, wherever it then lies.

- index, counts, statistics and reading are those of a dataset that was split so at once, on disk and on S3
- states of readers and fingerprints are of one split, and the same again when the split is
- a copy deals chips to the folders of the new split
- a mistake is one line, and changes nothing
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import treeline

from ingest.config import PairsConfig
from ingest.files.pairs_source import PairsSource
from ingest.work.run import ingest
from shards.commands.convert import convert
from shards.commands.resplit import resplit
from shards.commands.verify import verify
from shards.config import ConvertConfig, SplitConfig, VerifyConfig
from shards.errors import InputError
from shards.format.file_names import home_name
from shards.format.manifest import COUNTS, FILES, INDEX, MANIFEST, SPLITS
from shards.format.statistics import Counts
from shards.read.chip_reader import ChipReader
from shards.read.dataset import Dataset, open_dataset
from shards.read.order import Part
from shards.storage.objects import find_files, join, read_bytes
from shards.write.places import places_of
from shards.write.split_rule import SplitRule, assign

CHIPS = 30
RULES: dict[str, dict[str, Any]] = {
    "key": {"shares": (0.5, 0.3, 0.2)},
    "scene": {"split_by": "scene", "shares": (0.4, 0.6)},
    "blocks": {"split_by": "blocks", "shares": (0.6, 0.4), "block_size": 1000.0, "buffer": 300.0},
    "strips": {"split_by": "strips", "shares": (0.5, 0.3, 0.2), "split_axis": "x", "buffer": 500.0},
    "bands": {"split_by": "bands", "split_bands": 7, "split_angle": (15.0,), "buffer": 100.0}
    | {"shares": (0.6, 0.2, 0.2)},
    "bands of regions": {"split_by": "bands", "split_bands": 5, "shares": (0.6, 0.4)}
    | {"region_column": "sensor", "split_angle": ("WV02=9.0", "WV03=-40.0")},
}
"""Options by a name; those of place leave some chips to the buffer."""

Ingest = Callable[..., Dataset]


@pytest.fixture
def placed(chip_folders: Callable[..., Any], tmp_path: Path) -> Ingest:
    """placed(url, ...): CHIPS chips with places in shards of four, as a dataset."""
    folders = chip_folders(CHIPS)
    rng = np.random.default_rng(2)
    places = [f"{key}.npy,{x:.0f},{y:.0f}" for key, (x, y) in zip(folders.chips, points(rng), strict=True)]
    (tmp_path / "chips.csv").write_text("\n".join(["filename,x,y", *places]) + "\n")
    table: dict[str, Any] = {"table": str(tmp_path / "chips.csv"), "table_crs": "EPSG:3338"}

    def make(url: Path | str, *, with_places: bool = True, **options: Any) -> Dataset:
        config = PairsConfig(
            images=str(folders.images),
            heights=str(folders.heights),
            out=str(url),
            shard_chips=4,
            **(table if with_places else {}),
            **options,
        )
        ingest(PairsSource(config), config)
        return open_dataset(str(url))

    return make


def points(rng: np.random.Generator) -> Any:
    return rng.uniform(0, 8000, (CHIPS, 2))


def split_again(url: Path | str, **options: Any) -> Dataset:
    resplit(SplitConfig(data=str(url), **options))
    return open_dataset(str(url))


def contents(url: Path | str) -> dict[str, bytes]:
    return {name: read_bytes(join(str(url), name)) for name in find_files(str(url))}


def shards_and_times(url: Path) -> dict[str, tuple[bytes, int, int]]:
    """Bytes, time of change and inode of all shards, by the names they were written under."""
    return {
        home_name(str(path.relative_to(url))): (
            path.read_bytes(),
            path.stat().st_mtime_ns,
            path.stat().st_ino,
        )
        for path in url.rglob("*.tar")
    }


def split_of_keys(dataset: Dataset) -> dict[str, str]:
    index = dataset.index
    return dict(zip(index["key"].to_pylist(), index["split"].to_pylist(), strict=True))


def counts_of(dataset: Dataset) -> Counts:
    return Counts.from_bytes(read_bytes(dataset.manifest.url_of(dataset.url, COUNTS)))


def assert_is_split_by(dataset: Dataset, options: dict[str, Any]) -> None:
    """Index, manifest and `chips` agree with the rule, worked out from the index's places."""
    rule = SplitRule.from_json(dataset.manifest.split_rule)
    asked = SplitRule.of(SplitConfig(data="", **options))
    assert (rule.by, rule.shares, rule.buffer) == (asked.by, asked.shares, asked.buffer)
    assert (rule.band_count, rule.angle) == (asked.band_count, asked.angle)
    expected = assign(rule, places_of(dataset.index, dataset.schema, rule.region_column))
    assert dataset.index["split"].to_pylist() == expected.tolist()
    for split in SPLITS:
        chips = dataset.chips(split)
        np.testing.assert_array_equal(chips, np.flatnonzero(expected == split))
        assert dataset.manifest.samples(split) == chips.size
    np.testing.assert_array_equal(dataset.chips("all"), np.arange(CHIPS))


@pytest.mark.parametrize("name", RULES)
def test_it_is_as_if_it_had_been_split_so_at_once(placed: Ingest, tmp_path: Path, name: str) -> None:
    url, options = tmp_path / "dataset", RULES[name]
    old = placed(url)
    old_index, old_rejected, before = old.index, old.rejected, shards_and_times(url)
    new = split_again(url, **options)
    assert shards_and_times(url) == before
    assert [shard.content for shard in new.manifest.shards] == [s.content for s in old.manifest.shards]
    assert_is_split_by(new, options)
    assert set(new.index["split"].to_pylist()) > {"train", "val"} or name in ("scene", "bands of regions")
    at_once = placed(tmp_path / "at-once", **options)
    assert new.manifest.splits == at_once.manifest.splits
    assert new.manifest.split_rule == at_once.manifest.split_rule
    assert split_of_keys(new) == split_of_keys(at_once)
    assert new.statistics == at_once.statistics
    assert counts_of(new) == counts_of(at_once)
    moved = ["split", "shard"]
    assert new.index.drop_columns(moved).equals(old_index.drop_columns(moved))
    assert [home_name(name) for name in new.index["shard"].to_pylist()] == old_index["shard"].to_pylist()
    assert new.rejected.equals(old_rejected)
    assert verify(VerifyConfig(str(url))) == []


@pytest.mark.parametrize("storage", ["moto", "rclone"], indirect=True)
def test_it_is_the_same_on_s3(placed: Ingest, storage: str, tmp_path: Path) -> None:
    placed(tmp_path / "dataset")
    placed(f"{storage}/dataset")
    for name in ("strips", "scene"):
        split_again(tmp_path / "dataset", **RULES[name])
        remote = split_again(f"{storage}/dataset", **RULES[name])
        assert contents(remote.url) == contents(tmp_path / "dataset")
        assert_is_split_by(remote, RULES[name])
    assert verify(VerifyConfig(remote.url)) == []


def test_each_split_leaves_no_old_file_and_counts(placed: Ingest, tmp_path: Path) -> None:
    url = tmp_path / "dataset"
    assert placed(url).manifest.generation == 0
    generation = 0
    for name in ("scene", "blocks", "bands"):
        dataset = split_again(url, **RULES[name])
        # Shards that move are a change of their own.
        assert generation < dataset.manifest.generation <= generation + 3
        generation = dataset.manifest.generation
        beside = {name for name in contents(url) if not name.endswith(".tar")}
        assert beside == {MANIFEST, INDEX, *(stored.name for stored in dataset.manifest.files.values())}
        # The list of refused chips is no other for another split.
        assert dataset.manifest.files["rejected.parquet"].name == "rejected.parquet"
        assert set(dataset.manifest.files) == set(FILES)


def test_a_state_is_of_one_split_and_good_again_when_that_is_back(placed: Ingest, tmp_path: Path) -> None:
    url = tmp_path / "dataset"
    first = placed(url, shares=(0.7, 0.3))
    old_index, old_statistics = first.index, first.statistics

    def reader(dataset: Dataset) -> ChipReader:
        return ChipReader(dataset, dataset.chips("train"), batch_size=4, seed=5)

    started = reader(first)
    batches = started.epoch()
    next(batches)
    state, left = started.state, [batch.chips.tolist() for batch in batches]
    other = split_again(url, split_by="scene", shares=(0.7, 0.3))
    assert other.manifest.fingerprint != first.manifest.fingerprint
    with pytest.raises(InputError, match="stopped on other chips"):
        reader(other).restore(state)
    back = split_again(url, shares=(0.7, 0.3))
    assert back.manifest.shards == first.manifest.shards
    assert back.manifest.fingerprint == first.manifest.fingerprint
    assert back.statistics == old_statistics
    assert back.index.equals(old_index)
    going_on = reader(back)
    going_on.restore(state)
    assert [batch.chips.tolist() for batch in going_on.epoch()] == left


def test_the_fingerprint_follows_the_split_alone(placed: Ingest, tmp_path: Path) -> None:
    url = tmp_path / "dataset"
    placed(url)
    fingerprints = [split_again(url, **RULES[name]).manifest.fingerprint for name in (*RULES, *RULES)]
    assert fingerprints[: len(RULES)] == fingerprints[len(RULES) :]
    assert len(set(fingerprints)) == len(RULES)


@pytest.mark.parametrize("name", RULES)
def test_ranks_read_the_new_training_chips_once(placed: Ingest, tmp_path: Path, name: str) -> None:
    placed(tmp_path / "dataset")
    dataset = split_again(tmp_path / "dataset", **RULES[name])
    chips = dataset.chips("train")
    pixels = dataset.gather(dataset.chips("all")).image_BCHW
    alone = ChipReader(dataset, chips, batch_size=4, seed=1)
    ranks = [ChipReader(dataset, chips, batch_size=4, seed=1, part=Part(rank, 2)) for rank in range(2)]
    met: list[int] = []
    for whole, *parts in zip(alone.epoch(), *(rank.epoch() for rank in ranks), strict=True):
        together = [chip for part in parts for chip in part.chips.tolist()]
        assert sorted(together) == sorted(whole.chips.tolist())
        for part in parts:
            np.testing.assert_array_equal(part.image_BCHW, pixels[part.chips])
        met += together
    assert sorted(met) == chips.tolist()


@pytest.mark.parametrize("name", ["scene", "strips"])
def test_a_copy_has_the_chips_of_the_new_split_in_its_folders(
    placed: Ingest, tmp_path: Path, name: str
) -> None:
    placed(tmp_path / "dataset")
    dataset = split_again(tmp_path / "dataset", **RULES[name])
    convert(ConvertConfig(dataset.url, "zarr", str(tmp_path / "zarr")))
    convert(ConvertConfig(str(tmp_path / "zarr"), "tar", str(tmp_path / "tar")))
    expected = split_of_keys(dataset)
    for form in ("zarr", "tar"):
        copy = open_dataset(str(tmp_path / form))
        assert split_of_keys(copy) == expected
        assert copy.statistics == dataset.statistics
        assert copy.manifest.splits == dataset.manifest.splits
        assert copy.manifest.split_rule == dataset.manifest.split_rule
        assert copy.manifest.split_column == ""
        for row in copy.index.to_pylist():
            assert row["shard"].startswith((f"{row['split']}/", f"{row['split']}.zarr/"))
        assert verify(VerifyConfig(copy.url)) == []
    # The order within a split is that of the chips before.
    copy = open_dataset(str(tmp_path / "tar"))
    for split in SPLITS:
        keys = [of.index["key"].take(of.chips(split)).to_pylist() for of in (dataset, copy)]
        assert keys[0] == keys[1]


def test_a_zarr_can_be_split_too(placed: Ingest, tmp_path: Path) -> None:
    placed(tmp_path / "tar")
    convert(ConvertConfig(str(tmp_path / "tar"), "zarr", str(tmp_path / "zarr")))
    found = [split_again(tmp_path / form, **RULES["strips"]) for form in ("tar", "zarr")]
    assert split_of_keys(found[0]) == split_of_keys(found[1])
    assert found[0].statistics == found[1].statistics
    assert verify(VerifyConfig(found[1].url)) == []


def test_without_places_blocks_are_refused_in_one_line(placed: Ingest, tmp_path: Path) -> None:
    url = tmp_path / "dataset"
    placed(url, with_places=False)
    before = contents(url)
    for by in ("blocks", "strips"):
        with pytest.raises(InputError) as refused:
            split_again(url, split_by=by)
        said = str(refused.value)
        assert "\n" not in said
        assert f"--split-by {by}: needs positions" in said
    with pytest.raises(InputError, match=r"--shares .* sum to 1"):
        split_again(url, shares=(0.5, 0.6))
    with pytest.raises(InputError, match="no dataset here"):
        split_again(tmp_path / "nothing")
    assert contents(url) == before


BANDS = ("--split-by", "bands", "--shares", "0.6", "0.2", "0.2")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--split-bands", "0"), "--split-bands 0: give 2 or more"),
        (("--split-bands", "2"), "--split-bands 2: too few for --shares 0.6 0.2 0.2; give 3 or more"),
        (("--split-angle", "nan"), "--split-angle nan: nan is no number of degrees"),
        (("--split-angle", "WV02=9"), "--split-angle WV02=9: needs --region-column"),
        (("--split-angle", "WV02=9", "--region-column", "sensor"), "none for region WV03; add WV03=DEGREES"),
        (
            ("--split-angle", "WV02=9", "WV03=5", "WV01=15", "--region-column", "sensor"),
            "--split-angle: no chip is in region WV01; there are WV02, WV03",
        ),
        (
            ("--region-column", "country"),
            "--region-column country: chips have no such column; choose one of source, sensor",
        ),
        (("--split-bands", "5", "--buffer", "5000"), "; give fewer --split-bands or less --buffer than 5000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bands_that_cannot_be_are_one_line_and_change_nothing(
    placed: Ingest, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    placed(tmp_path / "dataset")
    before = contents(tmp_path / "dataset")
    done = treeline("split", str(tmp_path / "dataset"), *BANDS, *options)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert contents(tmp_path / "dataset") == before


def test_nothing_may_be_left_to_train_on(placed: Ingest, tmp_path: Path) -> None:
    placed(tmp_path / "dataset")
    dataset = split_again(tmp_path / "dataset", shares=(0.0, 1.0))
    assert dataset.manifest.splits == {"train": 0, "val": CHIPS, "test": 0, "buffer": 0}
    assert verify(VerifyConfig(dataset.url)) == []
    with pytest.raises(InputError, match="no chip is in the training split"):
        assert dataset.statistics


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--split-by", "scene", "--shares", "0.999", "0.001"),
            "split by blocks or strips, or give it a larger share",
        ),
        (
            ("--shares", "0.9999", "0.0001"),
            "split by key, no chip is in val (30 chips); give it a larger share",
        ),
        (
            ("--split-by", "blocks", "--block-size", "20000", "--shares", "0.5", "0.5"),
            "give a smaller --block-size, or it a larger share",
        ),
        (("--split-by", "strips", "--buffer", "7000"), "in the buffer); give less --buffer than 7000"),
    ],
    ids=["scene", "key", "blocks", "strips"],
)
def test_a_share_without_chips_is_refused_with_the_cure(
    placed: Ingest, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    placed(tmp_path / "dataset")
    before = contents(tmp_path / "dataset")
    done = treeline("split", str(tmp_path / "dataset"), *options)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert "or hold out nothing with --shares 1" in done.stderr
    assert contents(tmp_path / "dataset") == before
    assert treeline("split", str(tmp_path / "dataset"), "--shares", "1").returncode == 0


@pytest.mark.parametrize("kind", ["scene", "blocks", "strips", "bands"])
def test_without_a_way_to_split_the_recorded_one_stays(kind: str, placed: Ingest, tmp_path: Path) -> None:
    """Nothing changes without options; other shares are dealt in the recorded way."""
    rule = RULES[kind]
    for name in ("chips", "other"):
        placed(tmp_path / name, **rule)
    before = open_dataset(str(tmp_path / "chips"))
    done = treeline("split", "chips", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"split by {rule['split_by']}" in done.stdout
    assert "as before; --split-by or --shares split the chips in another way" in done.stdout
    after = open_dataset(str(tmp_path / "chips"))
    assert after.manifest.split_rule == before.manifest.split_rule
    assert after.index.equals(before.index)
    assert after.manifest.fingerprint == before.manifest.fingerprint
    shares = (0.5, 0.5)
    done = treeline("split", "chips", "--shares", *map(str, shares), folder=tmp_path)
    assert "as before; --split-by chooses another way" in done.stdout
    resplit(SplitConfig(data=str(tmp_path / "other"), **{**rule, "shares": shares}))
    ours, theirs = (open_dataset(str(tmp_path / name)).index["split"] for name in ("chips", "other"))
    assert ours.equals(theirs)
    done = treeline("split", "chips", "--split-by", "key", folder=tmp_path)
    assert open_dataset(str(tmp_path / "chips")).manifest.split_rule["by"] == "key"
    assert "as before" not in done.stdout
