"""A block of ground is a band of a region: one split alone has its tiles."""

from collections import defaultdict
from pathlib import Path

import numpy as np
from in_process import treeline

from shards.read.dataset import open_dataset
from shards.read.selection import matching
from trainer.matrix.regions import blocks_of, is_one_of, regions_of

TILES = ["ingest", "synthetic", "--sar", "seasonal", "--regions", "2", "--chips", "160", "--chip-size", "32"]
BANDS = ["--split-by", "bands", "--split-bands", "10", "--split-angle", "15", "--shares", "0.6", "0.2", "0.2"]


def test_blocks_are_the_bands_that_split_the_regions(tmp_path: Path) -> None:
    done = treeline(*TILES, "--out", "tiles", *BANDS, "--region-column", "region", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    dataset = open_dataset(str(tmp_path / "tiles"))
    every = dataset.chips("all")
    index = dataset.index.to_pylist()
    splits, regions = defaultdict(set), defaultdict(set)
    for tile, block in zip(every, blocks_of(dataset, every), strict=True):
        splits[block].add(index[tile]["split"])
        regions[index[tile]["region"]].add(block)
    assert all(len(found) == 1 for found in splits.values())
    turn = ["train", "train", "train", "test", "val"] * 2
    for region, blocks in regions.items():
        assert blocks == {f"{region} {band}" for band in range(10)}
        assert sorted(splits[f"{region} {band}"].copy().pop() for band in range(10)) == sorted(turn)
    few = every[::7]
    assert blocks_of(dataset, few) == [blocks_of(dataset, every)[place] for place in range(0, every.size, 7)]
    conus, europe = regions_of([dataset], "region")
    tested = np.concatenate([region.tiles(dataset, "test") for region in (conus, europe)])
    assert sorted(tested) == dataset.chips("test").tolist()


def test_without_bands_there_is_one_block(tmp_path: Path) -> None:
    done = treeline(*TILES, "--out", "tiles", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    dataset = open_dataset(str(tmp_path / "tiles"))
    assert set(blocks_of(dataset, dataset.chips("all"))) == {""}


def test_regions_may_have_any_name() -> None:
    import pyarrow as pa

    for column, values in (("the `state`", ["it's", 'a "b"', "c"]), ("class", [1, 2, 30])):
        table = pa.table({column: values})
        assert matching(table, is_one_of(column, values[:2])).tolist() == [True, True, False]
        assert matching(table, is_one_of(column, values[2:])).tolist() == [False, False, True]
