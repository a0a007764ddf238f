"""After `treeline split`, the folder of a split holds that split's chips alone, for any reader.

- WebDataset and Hugging Face datasets, on disk and on S3, on the tars in train: no chip of another split;
  with --rewrite every training chip, once
- stopped before any write, or killed at ten moments: a dataset that reads, no foreign chip in any folder
- who opened the dataset before ends with a line, and leaves no shard out for it; a disk cache stays of use
- tars of other people stay where they are
"""

from __future__ import annotations

import gc
import io
import itertools
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from botocore.config import Config
from in_process import treeline
from servers import S3Server, environment_of, proxy
from stopping_steps import stopped_before

import shards.format.file_names
import shards.write.assembly
import shards.write.rewriting
import shards.write.shard_places
from ingest.config import TarsConfig
from ingest.files.tars import ingest_tars
from shards.commands.convert import convert
from shards.commands.inspect import describe
from shards.commands.resplit import resplit
from shards.commands.verify import verify
from shards.config import ConvertConfig, SplitConfig, VerifyConfig
from shards.errors import DatasetChangedError, InputError
from shards.format.manifest import INDEX, JOURNAL, SPLITS
from shards.read.chip_reader import ChipReader
from shards.read.dataset import Dataset, open_dataset
from shards.read.read_options import ReadOptions
from shards.storage.objects import (
    find_files,
    join,
    publish,
    publish_folder,
    read_bytes,
    remove_file,
    remove_folder,
)

CHIPS = 30
IN_THREE: dict[str, Any] = {"shares": (0.65, 0.25, 0.1)}
"""A split after which some shards of train stay as they are."""
BY_SCENE: dict[str, Any] = {"split_by": "scene", "shares": (0.4, 0.6)}
"""A split after which no shard stays as it is."""
ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "support" / "splitting.py"
IN_PLACE_OR_NOT = pytest.mark.parametrize("rewrite", [False, True], ids=["in place", "rewrite"])


@pytest.fixture
def make(write_dataset: Callable[..., Any], new_chip: Callable[..., Any]) -> Callable[..., Dataset]:
    """make(url, count, ...): a dataset of chips in shards of four, a quarter of them in val."""

    def written(url: Path | str, count: int = CHIPS, **options: Any) -> Dataset:
        chips = [new_chip(number) for number in range(count)]
        dataset: Dataset = write_dataset(url, chips, **{"shard_chips": 4, **options}).open()
        return dataset

    return written


def split_again(url: Path | str, **options: Any) -> Dataset:
    resplit(SplitConfig(data=str(url), **options))
    return open_dataset(str(url))


def split_of_keys(url: Path | str) -> dict[str, str]:
    index = open_dataset(str(url)).index
    return dict(zip(index["key"].to_pylist(), index["split"].to_pylist(), strict=True))


def keys_in(tar: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return [name.partition(".")[0] for name in archive.getnames() if name.endswith(".json")]


def tars_in(url: Path | str, split: str) -> list[str]:
    """What `SPLIT/*.tar` finds."""
    names = [name for name in find_files(str(url)) if name.endswith(".tar")]
    return [name for name in names if name.rpartition("/")[0] == split]


def keys_in_folder(url: Path | str, split: str) -> list[str]:
    return [key for name in tars_in(url, split) for key in keys_in(read_bytes(join(str(url), name)))]


def assert_no_foreign_chip(url: Path | str) -> None:
    """Whatever lies in the folder of a split is of that split, by the present index, and there once."""
    expected = split_of_keys(url)
    for split in SPLITS:
        keys = keys_in_folder(url, split)
        assert {expected[key] for key in keys} <= {split}
        assert len(set(keys)) == len(keys)


def of_split(url: Path | str, split: str) -> list[str]:
    return sorted(key for key, own in split_of_keys(url).items() if own == split)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hugging Face datasets that asks nobody."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets  # noqa: F401

    for module in ("huggingface_hub.constants", "datasets.config"):  # in case an earlier test imported them
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)


def read_by_webdataset(sources: list[str]) -> list[str]:
    pipes = [f"pipe:curl -sf '{source}'" if "://" in source else source for source in sources]
    found = webdataset.WebDataset(pipes, shardshuffle=False, empty_check=False)
    with warnings.catch_warnings():  # it leaves the tars open
        warnings.simplefilter("ignore", ResourceWarning)
        keys = [sample["__key__"] for sample in found]
        gc.collect()
    return keys


def read_by_hugging_face(sources: list[str]) -> list[str]:
    import datasets

    found = datasets.load_dataset("webdataset", data_files=sources, split="train", streaming=True)
    return [sample["__key__"] for sample in found]


READERS = {"webdataset": read_by_webdataset, "datasets": read_by_hugging_face}


@contextmanager
def place_and_sources(
    server: S3Server | None, folder: Path
) -> Iterator[tuple[str, Callable[[list[str]], list[str]]]]:
    """A place for a dataset, and what makes addresses that others can read of the names in it."""
    if server is None:
        yield str(folder), lambda names: [str(folder / name) for name in names]
        return
    prefix = f"split-folders/{folder.name}-{time.monotonic_ns()}"

    def signed(names: list[str]) -> list[str]:
        client = boto3.client("s3", config=Config(signature_version="s3v4"))
        keys = [{"Bucket": "bucket", "Key": f"{prefix}/{name}"} for name in names]
        return [client.generate_presigned_url("get_object", key) for key in keys]

    with environment_of(server):
        yield f"s3://bucket/{prefix}", signed


@IN_PLACE_OR_NOT
@pytest.mark.parametrize("server", [None, pytest.param("moto", marks=pytest.mark.slow)])
def test_other_readers_find_no_chip_of_another_split_in_train(
    make: Callable[..., Dataset],
    offline: None,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    server: str | None,
    rewrite: bool,
) -> None:
    where = request.getfixturevalue(server) if server else None
    with place_and_sources(where, tmp_path / "chips") as (url, sources):
        make(url)
        split_again(url, **IN_THREE, rewrite=rewrite)
        train = of_split(url, "train")
        assert len(tars_in(url, "train")) >= 1
        for read in READERS.values():
            keys = read(sources(tars_in(url, "train")))
            assert set(keys) <= set(train)
            assert len(set(keys)) == len(keys)
            if rewrite:
                assert sorted(keys) == train
        assert_no_foreign_chip(url)
        assert verify(VerifyConfig(url)) == []
        assert pq.read_table(io.BytesIO(read_bytes(join(url, INDEX)))).equals(open_dataset(url).index)


@IN_PLACE_OR_NOT
def test_chips_keep_pixels_facts_and_statistics(
    make: Callable[..., Dataset], tmp_path: Path, rewrite: bool
) -> None:
    old = make(tmp_path / "chips")
    old_index, old_pixels = old.index, old.gather(old.chips("all"))
    new = split_again(tmp_path / "chips", **IN_THREE, rewrite=rewrite)
    facts = [name for name in old_index.column_names if name not in ("split", "shard", "row")]
    by_key = [("key", "ascending")]
    assert new.index.select(facts).sort_by(by_key).equals(old_index.select(facts).sort_by(by_key))
    row_of = {key: number for number, key in enumerate(old_index["key"].to_pylist())}
    rows = [row_of[key] for key in new.index["key"].to_pylist()]
    pixels = new.gather(new.chips("all"))
    np.testing.assert_array_equal(pixels.image_BCHW, old_pixels.image_BCHW[rows])
    np.testing.assert_array_equal(pixels.height_BHW, old_pixels.height_BHW[rows])
    for name, row, shard in zip(
        *(new.index[name].to_pylist() for name in ("key", "row", "shard")), strict=True
    ):
        assert keys_in((tmp_path / "chips" / shard).read_bytes())[row] == name
    make(tmp_path / "beside")
    assert new.statistics == split_again(tmp_path / "beside", **IN_THREE, rewrite=not rewrite).statistics


def test_rewritten_again_and_again_each_folder_has_its_split(
    make: Callable[..., Dataset], tmp_path: Path
) -> None:
    url = str(tmp_path / "chips")
    make(url)
    for number in range(3):
        dataset = split_again(url, **(IN_THREE if number % 2 else BY_SCENE), rewrite=True)
        assert not [name for name in find_files(url) if name.startswith("mixed")]
        for split in SPLITS:
            assert sorted(keys_in_folder(url, split)) == of_split(url, split)
        assert dataset.manifest.split_column == ""
        assert verify(VerifyConfig(url)) == []


def test_rewrite_alone_keeps_the_split(make: Callable[..., Dataset], tmp_path: Path) -> None:
    url = str(tmp_path / "chips")
    make(url)
    before = split_of_keys(split_again(url, **IN_THREE).url)
    done = treeline("split", url, "--rewrite")
    assert done.returncode == 0
    assert split_of_keys(url) == before
    assert sorted(keys_in_folder(url, "train")) == of_split(url, "train")
    assert "note" not in done.stdout


def test_a_split_in_place_says_where_chips_lie(make: Callable[..., Dataset], tmp_path: Path) -> None:
    url = str(tmp_path / "chips")
    make(url)
    done = treeline("split", url, "--split-by", "scene")
    assert f"lie in {url}/mixed, with" in done.stdout
    assert "--rewrite" in done.stdout


def test_what_an_older_version_split_in_place_is_read_and_mended(
    make: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It left shards where they were."""
    url = str(tmp_path / "chips")
    make(url)
    with monkeypatch.context() as patch:
        everywhere = [True] * 100
        for module in (shards.write.shard_places, sys.modules["shards.commands.resplit"]):
            patch.setattr(module, "are_home", lambda manifest, _: everywhere[: len(manifest.shards)])
        split_again(url, **IN_THREE)
    remove_file(join(url, INDEX))  # that version had none
    with pytest.raises(AssertionError):
        assert_no_foreign_chip(url)
    assert verify(VerifyConfig(url)) == []
    old = open_dataset(url)
    assert "with chips of other splits than their folder says" in describe(old)
    pixels = old.gather(old.chips("train")).image_BCHW
    new = split_again(url, **IN_THREE)
    assert new.manifest.fingerprint == old.manifest.fingerprint
    np.testing.assert_array_equal(new.gather(new.chips("train")).image_BCHW, pixels)
    assert_no_foreign_chip(url)
    assert "of them in mixed, with chips of several splits" in describe(new)


def steps_of(url: str, monkeypatch: pytest.MonkeyPatch, stop_at: int | None, **options: Any) -> list[str]:
    """Split, and stop before the step of that number: whatever is written, copied or removed is a step."""
    functions = (
        (shards.write.assembly, "publish"),
        (shards.write.assembly, "copy_object"),
        (shards.write.rewriting, "publish"),
        (shards.write.shard_places, "copy_object"),
        (shards.write.shard_places, "remove_file"),
        (shards.format.file_names, "remove_file"),
    )
    with stopped_before(stop_at, functions, monkeypatch) as steps:
        split_again(url, **options)
    return steps


def assert_reads(url: str) -> None:
    """Only what no manifest lists is amiss: a name that is not needed, or an index yet to be renewed."""
    for problem in verify(VerifyConfig(url)):
        assert "is not listed" in problem or f"{INDEX}: is not the current index" in problem


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "rewrite"),
    [("tar", False), ("tar", True), ("zarr", False)],
    ids=["tar", "rewritten tar", "zarr"],
)
def test_stopped_before_any_write(
    make: Callable[..., Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    rewrite: bool,
) -> None:
    options = {**IN_THREE, "rewrite": rewrite}
    make(tmp_path / "base", 14, shard_format=form)
    split_again(tmp_path / "base", **BY_SCENE)
    shutil.copytree(tmp_path / "base", tmp_path / "whole")
    steps = steps_of(str(tmp_path / "whole"), monkeypatch, None, **options)
    expected = open_dataset(str(tmp_path / "whole")).manifest
    old = open_dataset(str(tmp_path / "base")).manifest
    assert len(steps) > 10
    for stop_at in range(0, len(steps), 1 if form == "tar" else 2):
        url = str(tmp_path / f"stop-{stop_at}")
        shutil.copytree(tmp_path / "base", url)
        assert len(steps_of(url, monkeypatch, stop_at, **options)) == stop_at
        found = open_dataset(url).manifest
        assert found.fingerprint in (old.fingerprint, expected.fingerprint)
        assert_no_foreign_chip(url)
        assert_reads(url)
        again = split_again(url, **options)
        assert split_of_keys(url) == split_of_keys(tmp_path / "whole")
        assert again.manifest.splits == expected.splits
        assert_no_foreign_chip(url)
        assert verify(VerifyConfig(url)) == []
        if form == "tar" and not rewrite:
            assert again.manifest.shards == expected.shards
        shutil.rmtree(url)


@contextmanager
def splitting() -> Iterator[Callable[[str, float | None], bool]]:
    """split(options, seconds): split in a process, killed that long after it began; whether it had ended."""
    with subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said, asked = process.stdout, process.stdin
        assert said.readline() == "ready\n"

        def split(options: str, seconds: float | None) -> bool:
            asked.write(f"{options}\n")
            asked.flush()
            forked = int(said.readline())
            has_ended = bool(select.select([said], [], [], seconds)[0])
            if not has_ended:
                with suppress(ProcessLookupError):
                    os.kill(forked, signal.SIGKILL)
            assert said.readline() == "ended\n"
            return has_ended

        yield split
        asked.write("\n")


@pytest.mark.slow
@IN_PLACE_OR_NOT
@pytest.mark.parametrize("storage", ["local", pytest.param("rclone", marks=pytest.mark.long)], indirect=True)
def test_killed_at_ten_moments(
    make: Callable[..., Dataset], offline: None, storage: str, tmp_path: Path, rewrite: bool
) -> None:
    """Whoever is killed, and runs once more, leaves what others read as they should."""
    url, rng = f"{storage}/chips", random.Random(4)
    options = f"{url} --shares {' '.join(map(str, IN_THREE['shares']))}{' --rewrite' if rewrite else ''}"
    make(tmp_path / "base")
    before = open_dataset(str(tmp_path / "base")).manifest
    states = Counter[str]()
    with splitting() as split:

        def seconds_of(moment: float | None) -> float:
            remove_folder(url)
            publish_folder(url, str(tmp_path / "base"))
            start = time.monotonic()
            states["ended"] += split(options, moment)
            return time.monotonic() - start

        seconds_of(None)
        whole = seconds_of(None)
        for moment in range(10):
            # It reads first: a kill before its first write shows little.
            seconds_of(whole * (0.3 + 0.8 * (moment + rng.random()) / 10))
            has_begun = open_dataset(url).manifest != before or any("mixed" in n for n in find_files(url))
            states["begun" if has_begun else "nothing"] += 1
            assert_no_foreign_chip(url)
            assert_reads(url)
            split(options, None)
            assert verify(VerifyConfig(url)) == []
            assert_no_foreign_chip(url)
            shutil.rmtree(tmp_path / "train", ignore_errors=True)
            for name in tars_in(url, "train"):
                publish(str(tmp_path / name), read_bytes(join(url, name)))
            names = [str(tmp_path / name) for name in tars_in(url, "train")]
            for read in READERS.values():
                keys = read(names)
                assert set(keys) <= set(of_split(url, "train"))
                assert not rewrite or sorted(keys) == of_split(url, "train")
    assert states["begun"], f"no kill fell into the work ({states})"


@pytest.mark.parametrize("storage", ["local", "rclone"], indirect=True)
@pytest.mark.parametrize("on_bad_shard", ["fail", "skip"])
def test_who_opened_it_before_ends_with_a_line(
    make: Callable[..., Dataset], storage: str, on_bad_shard: str
) -> None:
    url = f"{storage}/chips"
    make(url)
    options = ReadOptions(on_bad_shard=on_bad_shard, shards_ahead=1)  # type: ignore[arg-type]
    before = open_dataset(url, options)
    reader = ChipReader(before, before.chips("train"), batch_size=2, seed=3)
    late = open_dataset(url, options)
    batches = reader.epoch()
    next(batches)
    split_again(url, **BY_SCENE)
    said = f"{url}: was changed by another command .* start this one again"
    with pytest.raises(DatasetChangedError, match=said):
        list(itertools.chain(batches, reader.epoch()))
    assert before.bad_shards == {}
    for read in (lambda: late.index, lambda: late.statistics):
        with pytest.raises(DatasetChangedError):
            read()


def test_a_disk_cache_is_of_use_after_a_split(
    make: Callable[..., Dataset], rclone: S3Server, tmp_path: Path
) -> None:
    with proxy(rclone) as between, environment_of(between.server):
        url = "s3://bucket/split-folders/cached"
        make(url)
        options = ReadOptions(cache=str(tmp_path / "cache"))
        dataset = open_dataset(url, options)
        pixels = dataset.gather(dataset.chips("all")).image_BCHW
        split_again(url, **BY_SCENE)
        between.forget()
        again = open_dataset(url, options)
        np.testing.assert_array_equal(again.gather(again.chips("all")).image_BCHW, pixels)
        assert not [path for _, path, _ in between.requests if path.endswith(".tar")]


def test_later_additions_go_beside_shards_that_moved(tmp_path: Path) -> None:
    """Numbers of shards are of those that were written, wherever these lie."""
    url = str(tmp_path / "chips")
    make_it = ("ingest", "synthetic", "--shard-chips", "4", "--out", url)
    done = treeline(*make_it, "--chips", "20")
    assert done.returncode == 0
    split_again(url, shares=(0.5, 0.5))
    done = treeline(*make_it, "--chips", "40", "--append")
    assert done.returncode == 0, done.stderr
    assert len(split_of_keys(url)) > 30
    assert verify(VerifyConfig(url)) == []
    assert_no_foreign_chip(url)
    split_again(url, shares=(0.5, 0.5), rewrite=True)
    assert sorted(keys_in_folder(url, "val")) == of_split(url, "val")
    assert verify(VerifyConfig(url)) == []


def test_a_zarr_moves_as_a_whole_and_back(make: Callable[..., Dataset], tmp_path: Path) -> None:
    url = tmp_path / "chips"
    old = make(url, shard_format="zarr")
    old_index, before = old.index, split_of_keys(url)
    split_again(url, **IN_THREE)
    assert not (url / "train.zarr").exists()
    assert (url / "mixed" / "from-train.zarr" / "zarr.json").exists()
    assert verify(VerifyConfig(str(url))) == []
    convert(ConvertConfig(str(url), "tar", str(tmp_path / "sorted")))
    assert sorted(keys_in_folder(tmp_path / "sorted", "train")) == of_split(url, "train")
    with pytest.raises(InputError, match=r"--rewrite: .* are zarr; treeline convert .* --to tar"):
        split_again(url, rewrite=True)
    back = split_again(url, shares=(0.75, 0.25))
    assert split_of_keys(url) == before
    assert (url / "train.zarr" / "zarr.json").exists()
    assert not (url / "mixed").exists()
    assert back.index.equals(old_index)
    assert verify(VerifyConfig(str(url))) == []


def test_tars_of_others_stay_where_they_are(make: Callable[..., Dataset], tmp_path: Path) -> None:
    make(tmp_path / "chips")
    theirs = tmp_path / "theirs"
    for split in ("train", "val"):
        shutil.copytree(tmp_path / "chips" / split, theirs / split)
    ingest_tars(TarsConfig(str(theirs)))
    before = {path: path.stat() for path in theirs.rglob("*.tar")}
    done = treeline("split", str(theirs), "--shares", "0.5", "0.5")
    assert done.returncode == 0
    assert "They are your files, and stay where they are" in done.stdout
    assert f"treeline convert {theirs} --to tar" in done.stdout
    assert {path: path.stat() for path in theirs.rglob("*.tar")} == before
    assert verify(VerifyConfig(str(theirs))) == []
    refused = treeline("split", str(theirs), "--rewrite")
    assert refused.returncode == 2
    assert "your own files" in refused.stderr


def test_an_unfinished_ingest_is_not_split(make: Callable[..., Dataset], tmp_path: Path) -> None:
    """Its shards are listed nowhere yet, and would be taken for leftovers."""
    url = str(tmp_path / "chips")
    make(url)
    publish(join(url, JOURNAL, "plan.json"), b"{}")
    before = {name: read_bytes(join(url, name)) for name in find_files(url)}
    done = treeline("split", url, "--split-by", "scene")
    assert done.returncode == 2
    assert "an ingest into it is unfinished" in done.stderr
    assert {name: read_bytes(join(url, name)) for name in find_files(url)} == before


def test_without_hard_links_shards_are_copied(
    make: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    url = str(tmp_path / "chips")
    make(url)
    monkeypatch.setattr("os.link", refuse)
    split_again(url, **BY_SCENE)
    assert verify(VerifyConfig(url)) == []
    assert_no_foreign_chip(url)
    assert not [name for name in find_files(url) if ".treeline-" in name]


def test_a_shard_behind_a_link_may_move(make: Callable[..., Dataset], tmp_path: Path) -> None:
    url = tmp_path / "chips"
    make(url)
    (tmp_path / "elsewhere").mkdir()
    for path in sorted((url / "train").iterdir()):
        shutil.move(path, tmp_path / "elsewhere" / path.name)
        path.symlink_to(Path("../../elsewhere") / path.name)
    split_again(url, **BY_SCENE)
    assert verify(VerifyConfig(str(url))) == []
    assert len(list((tmp_path / "elsewhere").iterdir())) > 2
