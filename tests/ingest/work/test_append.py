"""`--append`: new chips become new shards, and everything that was there stays as it was.

- old shards keep their bytes, old chips their split, their place in the index and their numbers
- statistics are those of all training chips; refused chips are tried again, and listed once
- the old dataset is whole until the moment in which the new one is
- whatever stops it, the same command goes on, and the same bytes come out
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ingest.files.table
import ingest.work.run
import shards.format.file_names
import shards.write.assembly
from ingest.chips.attributes import former_name
from ingest.config import PairsConfig
from ingest.files.pairs_source import PairsSource
from ingest.work.run import Ingested
from shards.commands.convert import ConvertConfig, convert
from shards.commands.resplit import SplitConfig, resplit
from shards.commands.verify import VerifyConfig, verify
from shards.errors import InputError
from shards.format.sealed import SEAL
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import find_files, join, read_bytes

FIRST, ALL = 20, 34


def folder_of(chip_folders: Callable[..., Any], name: str, keys: slice) -> Any:
    """The pairs `keys` of ALL pairs, in a folder of their own."""
    folders = chip_folders(ALL, name)
    for key in set(folders.chips) - set(list(folders.chips)[keys]):
        for folder in (folders.images, folders.heights):
            (folder / f"{key}.npy").unlink()
    return folders


def run(folders: Any, out: Path | str, **options: Any) -> Ingested:
    config = PairsConfig(
        images=str(folders.images), heights=str(folders.heights), out=str(out), shard_chips=5, **options
    )
    return ingest.work.run.ingest(PairsSource(config), config)


def contents(url: Path | str) -> dict[str, bytes]:
    return {name: read_bytes(join(str(url), name)) for name in find_files(str(url))}


def rows_by_key(dataset: Dataset) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in dataset.index.to_pylist()}


def test_old_chips_stay_and_new_ones_come(
    chip_folders: Callable[..., Any], storage: str, tmp_path: Path
) -> None:
    first = folder_of(chip_folders, "first", slice(FIRST))
    everything = folder_of(chip_folders, "all", slice(ALL))
    out = f"{storage}/out"
    run(first, out)
    old, old_files = open_dataset(out), contents(out)
    old_rows, old_table = rows_by_key(old), old.index
    said = run(everything, out, append=True).summary
    assert f"{FIRST} were in the dataset before" in " ".join(said.split())
    new, new_files = open_dataset(out), contents(out)
    for shard in old.manifest.shards:
        assert new_files[shard.name] == old_files[shard.name]
    assert new.manifest.shards[: len(old.manifest.shards)] == old.manifest.shards
    assert new.index.slice(0, FIRST).equals(old_table)
    assert rows_by_key(new).keys() == everything.chips.keys()
    assert {key: row["split"] for key, row in rows_by_key(new).items() if key in old_rows} == {
        key: row["split"] for key, row in old_rows.items()
    }
    batch = new.gather(new.chips("all"))
    for key, image_CHW in zip(new.index["key"].to_pylist(), batch.image_BCHW, strict=True):
        np.testing.assert_array_equal(image_CHW, everything.chips[key].image_CHW)
    # Statistics and counts are those of a dataset that was made at once.
    run(everything, tmp_path / "at-once")
    at_once = open_dataset(str(tmp_path / "at-once"))
    assert new.statistics == at_once.statistics
    assert new.manifest.splits == at_once.manifest.splits
    assert verify(VerifyConfig(out)) == []
    assert new_files["index.parquet"] == new_files["index.1.parquet"]


def test_splits_by_place_do_not_move(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    folders = [folder_of(chip_folders, name, keys) for name, keys in (("a", slice(FIRST)), ("b", slice(ALL)))]
    keys = list(folders[1].chips)
    generator = np.random.default_rng(0)
    for name, listed in (("a", keys[:FIRST]), ("b", keys)):
        lines = ["filename,x,y", *(f"{key}.npy,{generator.uniform(0, 9e4)},{hash_y(key)}" for key in listed)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    options: dict[str, Any] = {"split_by": "strips", "shares": (0.6, 0.2, 0.2)}
    run(folders[0], tmp_path / "out", table=str(tmp_path / "a.csv"), **options)
    old = rows_by_key(open_dataset(str(tmp_path / "out")))
    edges = open_dataset(str(tmp_path / "out")).manifest.split_rule["edges"]
    run(folders[1], tmp_path / "out", table=str(tmp_path / "b.csv"), append=True, **options)
    new = rows_by_key(open_dataset(str(tmp_path / "out")))
    assert all(new[key]["split"] == row["split"] for key, row in old.items())
    for row in new.values():
        side = 64.0  # half of a chip of 64 pixels of 2 m
        near = any(abs(row["y"] - edge) < side for edge in edges)
        expected = ("train", "val", "test")[sum(row["y"] > edge for edge in edges)]
        assert row["split"] == ("buffer" if near else expected)


BANDS: dict[str, Any] = {"split_by": "bands", "split_bands": 5, "region_column": "region"}


def listed(tmp_path: Path, name: str, keys: list[str], second: slice) -> str:
    """A table of chips side by side in two regions, as far apart as the continents; of these, `second`."""
    lines = ["filename,x,y,region"]
    for number, key in enumerate(keys):
        is_second = number in range(*second.indices(len(keys)))
        region, start = ("europe", 4e6) if is_second else ("conus", 0.0)
        lines.append(f"{key}.npy,{start + 200 * (number % 4)},{start + 200 * (number // 4)},{region}")
    (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return str(tmp_path / f"{name}.csv")


@pytest.mark.parametrize(
    "options",
    [
        {"split_by": "blocks", "block_size": 300.0},
        {"split_by": "strips", "split_axis": "x"},
        {"split_by": "bands", "split_bands": 4, "split_angle": (30.0,), "region_column": "region"},
    ],
    ids=lambda options: options["split_by"],
)
def test_added_chips_follow_a_split_whose_options_are_left_out(
    chip_folders: Callable[..., Any], tmp_path: Path, options: dict[str, Any]
) -> None:
    folders = [folder_of(chip_folders, name, keys) for name, keys in (("a", slice(FIRST)), ("b", slice(ALL)))]
    keys = list(folders[1].chips)
    tables = [listed(tmp_path, name, keys[:count], slice(0)) for name, count in (("a", FIRST), ("b", ALL))]
    run(folders[0], tmp_path / "out", table=tables[0], **options)
    rule = open_dataset(str(tmp_path / "out")).manifest.split_rule
    run(folders[1], tmp_path / "out", table=tables[1], append=True)
    dataset = open_dataset(str(tmp_path / "out"))
    assert dataset.manifest.split_rule == rule
    assert dataset.index.num_rows == ALL
    assert verify(VerifyConfig(dataset.url)) == []


@pytest.mark.parametrize("angles", [((15.0,),) * 2, (("conus=15",), ("conus=15", "europe=-40"))], ids=str)
def test_a_region_that_is_added_gets_bands_of_its_own(
    chip_folders: Callable[..., Any], tmp_path: Path, angles: tuple[tuple[Any, ...], tuple[Any, ...]]
) -> None:
    folders = [folder_of(chip_folders, name, keys) for name, keys in (("a", slice(FIRST)), ("b", slice(ALL)))]
    keys = list(folders[1].chips)
    tables = [
        listed(tmp_path, "a", keys[:FIRST], slice(0)),
        listed(tmp_path, "b", keys, slice(FIRST, None)),
    ]
    out = tmp_path / "out"
    run(folders[0], out, table=tables[0], split_angle=angles[0], **BANDS)
    old = open_dataset(str(out))
    old_index = old.index
    if angles[0] != angles[1]:
        before = contents(out)
        for options in ({}, BANDS | {"split_angle": angles[0]}):
            with pytest.raises(InputError, match="none for region europe; add europe=DEGREES") as refused:
                run(folders[1], out, table=tables[1], append=True, **options)
            assert "\n" not in str(refused.value)
        with pytest.raises(InputError, match="leave out the split options"):
            run(folders[1], out, table=tables[1], append=True, split_angle=("conus=1", "europe=2"), **BANDS)
        assert contents(out) == before
    run(folders[1], out, table=tables[1], append=True, split_angle=angles[1], **BANDS)
    new = open_dataset(str(out))
    rule, grown = old.manifest.split_rule, new.manifest.split_rule
    assert [grid["region"] for grid in grown["grids"]] == ["conus", "europe"]
    assert grown["grids"][:1] == rule["grids"]
    assert grown["grids"][1]["angle"] == (15.0 if angles[0] == angles[1] else -40.0)
    assert new.index.slice(0, FIRST).equals(old_index)
    assert verify(VerifyConfig(str(out))) == []
    # The same command, and a split of all chips at once, come to the same.
    assert (
        "is complete already"
        in run(folders[1], out, table=tables[1], append=True, split_angle=angles[1], **BANDS).summary
    )
    splits = new.index["split"].to_pylist()
    resplit(SplitConfig(data=str(out), split_angle=angles[1], **BANDS))
    assert open_dataset(str(out)).index["split"].to_pylist() == splits


def hash_y(key: str) -> float:
    """A place that is the key's own."""
    return float(sum(map(ord, key)) * 7919 % 100_003)


def with_table(tmp_path: Path, folders: Any, name: str, **columns: list[Any]) -> str:
    """A table of the chips in `folders`, with these columns."""
    listed = [f"{path.stem}.npy" for path in sorted(folders.images.iterdir())]
    table = pa.table(
        {"filename": listed, **{name: values[: len(listed)] for name, values in columns.items()}}
    )
    pq.write_table(table, tmp_path / f"{name}.parquet")
    return str(tmp_path / f"{name}.parquet")


FORMER = {"class": "table_class", "land cover": "land_cover"}
"""Names of columns, and those that attributes had before expressions took any name."""


def test_names_of_before_are_kept_by_what_has_them(
    chip_folders: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dataset keeps its columns, and an unfinished ingest ends as it began; new ones name as tables do."""
    first, everything = (
        folder_of(chip_folders, name, keys) for name, keys in (("a", slice(FIRST)), ("b", slice(ALL)))
    )
    columns = {name: list(range(ALL)) for name in FORMER}
    table = with_table(tmp_path, first, "first", **columns)
    more = with_table(tmp_path, everything, "more", slope=list(range(ALL)), **columns)
    run(first, tmp_path / "new", table=table)
    assert list(open_dataset(str(tmp_path / "new")).manifest.attributes) == [*FORMER]

    class Stopped(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Stopped

    plan = tmp_path / "half" / ingest.work.run.PLAN
    with monkeypatch.context() as then:
        then.setattr(ingest.files.table, "attribute_name", former_name)
        run(first, tmp_path / "old", table=table)
        then.setattr(ingest.work.run, "_assemble", stop)
        with suppress(Stopped):
            run(first, tmp_path / "half", table=table)
    begun = json.loads(plan.read_text())
    assert begun.pop("attributes") == dict.fromkeys(FORMER.values(), "int64")
    del begun[SEAL]
    plan.write_text(json.dumps(begun))  # as it was written then
    run(first, tmp_path / "half", table=table)
    old, half = (contents(tmp_path / name) for name in ("old", "half"))
    assert half == old
    assert "is complete already" in run(first, tmp_path / "old", table=table).summary
    # What is added finds its columns, also after a stop; what is new has its own name.
    with monkeypatch.context() as then:
        then.setattr(ingest.work.run, "_assemble", stop)
        with suppress(Stopped):
            run(everything, tmp_path / "old", table=more, append=True)
    run(everything, tmp_path / "old", table=more, append=True)
    dataset = open_dataset(str(tmp_path / "old"))
    assert list(dataset.manifest.attributes) == [*FORMER.values(), "slope"]
    assert dataset.index["table_class"].null_count == 0
    assert dataset.chips("all", where="table_class == 3 and land_cover == 3").size > 0
    assert verify(VerifyConfig(dataset.url)) == []


def test_what_was_refused_is_tried_again_and_listed_once(
    chip_folders: Callable[..., Any], tmp_path: Path
) -> None:
    folders = folder_of(chip_folders, "chips", slice(FIRST))
    bad, worse = list(folders.chips)[2:4]
    good = (folders.images / f"{bad}.npy").read_bytes()
    for key in (bad, worse):
        (folders.images / f"{key}.npy").write_bytes(good[:100])
    run(folders, tmp_path / "out")
    assert open_dataset(str(tmp_path / "out")).manifest.rejected == {"unreadable": 2}
    (folders.images / f"{bad}.npy").write_bytes(good)
    # The names are the same, so the same was asked for and done; --restart says to look again.
    assert "is complete already" in run(folders, tmp_path / "out", append=False).summary
    run(folders, tmp_path / "out", append=True, restart=True)
    dataset = open_dataset(str(tmp_path / "out"))
    assert dataset.rejected["key"].to_pylist() == [worse]
    assert bad in dataset.index["key"].to_pylist()
    assert verify(VerifyConfig(str(tmp_path / "out"))) == []


def test_appending_the_same_again_changes_nothing(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    first, everything = (
        folder_of(chip_folders, name, keys) for name, keys in (("a", slice(FIRST)), ("b", slice(ALL)))
    )
    (everything.images / f"{list(everything.chips)[-1]}.npy").write_bytes(b"")
    run(first, tmp_path / "out")
    run(everything, tmp_path / "out", append=True)
    before = contents(tmp_path / "out")
    assert "is complete already" in run(everything, tmp_path / "out", append=True).summary
    assert contents(tmp_path / "out") == before


def test_stopped_before_any_publication(
    chip_folders: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, everything = (
        folder_of(chip_folders, name, keys) for name, keys in (("a", slice(FIRST)), ("b", slice(ALL)))
    )
    run(first, tmp_path / "base")
    old = open_dataset(str(tmp_path / "base")).manifest
    shutil.copytree(tmp_path / "base", tmp_path / "expected")
    run(everything, tmp_path / "expected", append=True)
    expected = contents(tmp_path / "expected")
    new = open_dataset(str(tmp_path / "expected")).manifest

    class Stopped(Exception):
        pass

    states = []
    for stop_at in range(12):
        out = tmp_path / f"stop-{stop_at}"
        shutil.copytree(tmp_path / "base", out)
        left = [stop_at]

        def step(*arguments: Any, do: Callable[..., Any], left: list[int]) -> Any:
            if left[0] == 0:
                raise Stopped
            left[0] -= 1
            return do(*arguments)

        with monkeypatch.context() as patch:
            for module, name in (
                (shards.write.assembly, "publish"),
                (shards.format.file_names, "remove_file"),
            ):
                do = getattr(module, name)
                patch.setattr(module, name, lambda *a, do=do, left=left: step(*a, do=do, left=left))
            with suppress(Stopped):
                run(everything, out, append=True)
        found = open_dataset(str(out))
        states.append(found.manifest.generation)
        # Old or new, and whole: every file of it is there and is what the manifest says.
        assert found.manifest in (old, new)
        assert len(found.gather(found.chips("all")).chips) in (FIRST, ALL)
        assert found.statistics
        run(everything, out, append=True)
        assert contents(out) == expected
    assert set(states) == {0, 1}


def test_appending_after_a_new_split_follows_it(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    first, everything = (
        folder_of(chip_folders, name, keys) for name, keys in (("a", slice(FIRST)), ("b", slice(ALL)))
    )
    out = str(tmp_path / "out")
    run(first, out)
    resplit(SplitConfig(data=out, split_by="scene", shares=(0.5, 0.5)))
    run(everything, out, append=True)
    dataset = open_dataset(out)
    by_scene: dict[str, set[str]] = {}
    for row in dataset.index.to_pylist():
        by_scene.setdefault(row["scene"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in by_scene.values())
    assert verify(VerifyConfig(out)) == []
    assert dataset.chips("train").size == dataset.manifest.samples("train")


CUT = 4 * 52_736
"""Bytes of four chips: fewer than a shard holds by their number."""


def sizes(out: Path | str) -> list[int]:
    return [shard.samples for shard in open_dataset(str(out)).manifest.shards]


def test_shards_are_cut_by_bytes_too_and_a_zarr_of_them_is_even(
    chip_folders: Callable[..., Any], tmp_path: Path
) -> None:
    folders = folder_of(chip_folders, "a", slice(FIRST))
    out, zarr = str(tmp_path / "out"), str(tmp_path / "zarr")
    run(folders, out, shard_bytes=CUT, shares=(1.0,))
    assert sizes(out) == [4] * 5
    assert all(shard.nbytes < CUT + 1024 + 1 for shard in open_dataset(out).manifest.shards)
    assert open_dataset(out).manifest.shard_chips == 4
    convert(ConvertConfig(out, "zarr", zarr))
    assert sizes(zarr) == [4] * 5
    assert verify(VerifyConfig(zarr)) == []
    assert open_dataset(zarr).manifest.fingerprint == open_dataset(out).manifest.fingerprint
    with pytest.raises(InputError, match=r"made with other options \(--shard-bytes\)"):
        run(folders, out, shard_bytes=CUT + 10**6, shares=(1.0,))


def test_what_is_added_is_cut_as_what_is_there(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    """Unless --shard-bytes is given: what was not cut by bytes, or by others, stays so."""
    first, everything = (
        folder_of(chip_folders, name, keys) for name, keys in (("a", slice(FIRST)), ("b", slice(ALL)))
    )
    for name in ("old", "expected"):
        run(first, tmp_path / name, shard_bytes=0)
    run(everything, tmp_path / "expected", shard_bytes=0, append=True)
    run(first, tmp_path / "cut", shard_bytes=CUT, shares=(1.0,))

    before = contents(tmp_path / "old")
    assert "is complete already" in run(first, tmp_path / "old").summary
    assert contents(tmp_path / "old") == before
    run(everything, tmp_path / "old", append=True)
    assert contents(tmp_path / "old") == contents(tmp_path / "expected")
    assert "is complete already" in run(everything, tmp_path / "old", append=True).summary
    run(everything, tmp_path / "cut", append=True)
    assert sizes(tmp_path / "cut") == [4] * 5 + [4, 4, 3, 3]
    run(first, tmp_path / "new", shares=(1.0,), shard_bytes=CUT - 52_736)
    assert max(sizes(tmp_path / "new")) == 3


def test_what_cannot_be_added_to_is_said(chip_folders: Callable[..., Any], tmp_path: Path) -> None:
    folders = folder_of(chip_folders, "a", slice(FIRST))
    with pytest.raises(InputError, match="no dataset here to add to"):
        run(folders, tmp_path / "out", append=True)
    assert not (tmp_path / "out").exists()
    run(folders, tmp_path / "out")
    with pytest.raises(InputError, match="its chips are"):
        run(folders, tmp_path / "out", append=True, bands=("a", "b", "c", "d"))
    convert(ConvertConfig(str(tmp_path / "out"), "zarr", str(tmp_path / "zarr")))
    with pytest.raises(InputError, match=r"holds zarr shards.*convert it to tar"):
        run(folders, tmp_path / "zarr", append=True)
