"""`--split-by auto` chooses what the chips allow, and says it so that it can be given again.

- five scenes or more are held out whole; of fewer, blocks: at least 20, with a chip's side as buffer
- what is chosen meets every share, and is the same whatever the order of the chips
- too few chips for blocks are dealt by key, which is said
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from shards.write.places import Places
from shards.write.split_auto import FEWEST_BLOCKS, chosen
from shards.write.split_distance import smallest_distances
from shards.write.split_rule import SplitRule, assign, resolved

SIDE = 128.0
SCENES = ("s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7")


def grid(rows: int, columns: int, scenes: int, crs: tuple[str, ...] = ("EPSG:32606",)) -> Places:
    """Chips edge to edge, in scenes that follow each other."""
    row_N, column_N = (axis.ravel() for axis in np.mgrid[:rows, :columns])
    scene_N = row_N * scenes // rows
    return Places(
        [f"chip_{row}_{column}" for row, column in zip(row_N, column_N, strict=True)],
        [SCENES[scene] for scene in scene_N],
        500_000 + SIDE * column_N,
        7_000_000 + SIDE * row_N,
        [crs[scene % len(crs)] for scene in scene_N],
        SIDE,
    )


def auto(places: Places, *shares: float) -> tuple[SplitRule, str]:
    rule, said = chosen(SplitRule("auto", shares or (0.8, 0.2)), places)
    return resolved(rule, places), said


@pytest.mark.parametrize("scenes", [1, 2, 3, 4])
@pytest.mark.parametrize("side", [16, 24, 40])
@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.6, 0.2, 0.2)])
def test_few_scenes_are_split_by_blocks_with_a_chip_between(
    scenes: int, side: int, shares: tuple[float, ...]
) -> None:
    places = grid(side, side, scenes)
    rule, said = auto(places, *shares)
    assert (rule.by, rule.buffer) == ("blocks", SIDE)
    blocks_N2 = np.floor(np.stack([places.x_N, places.y_N], axis=1) / rule.block_size)
    blocks = len({tuple(block) for block in blocks_N2.tolist()})
    assert blocks >= FEWEST_BLOCKS
    assert f"by blocks, {blocks} of them" in said
    split_N = assign(rule, places)
    kept = int((split_N != "buffer").sum())
    for split, share in zip(("train", "val", "test"), shares, strict=False):
        assert (split_N == split).sum() >= share / 3 * kept
    assert min(smallest_distances(split_N.tolist(), places).values()) >= SIDE
    # What is said gives the same split.
    size, buffer = map(float, re.findall(r"--block-size (\S+) --buffer ([\d.]+)", said)[0])
    again = SplitRule("blocks", shares, block_size=size, buffer=buffer)
    assert resolved(again, places) == rule
    shuffled = np.random.default_rng(1).permutation(len(places.keys))
    assert (
        chosen(SplitRule("auto", shares), places.taken(shuffled))[0]
        == chosen(SplitRule("auto", shares), places)[0]
    )


@pytest.mark.parametrize(("side", "percent"), [(16, 40), (64, 14), (100, 5)])
def test_the_buffer_takes_what_the_page_on_splits_says(side: int, percent: int) -> None:
    places = grid(side, side, 1)
    assert round(100 * np.mean(assign(auto(places)[0], places) == "buffer")) == percent


def test_five_scenes_are_held_out_whole_unless_a_share_gets_none() -> None:
    eight = grid(40, 10, 8)
    rule, said = auto(eight, 0.5, 0.5)
    assert rule.by == "scene"
    assert "by scene; there are 8 scenes" in said
    split_of = {}
    for scene, split in zip(eight.scenes, assign(rule, eight).tolist(), strict=True):
        assert split_of.setdefault(scene, split) == split
    assert set(split_of.values()) == {"train", "val"}
    rule, said = auto(eight, 0.9999, 0.0001)
    assert rule.by != "scene"
    assert "by scene a share gets none" in said


def test_a_share_of_few_chips_is_named_with_a_way_to_more() -> None:
    """Followed, it leaves more of them; a scene that is large enough needs none."""
    small, large = grid(9, 9, 1), grid(24, 24, 1)
    small = replace(small, x_N=small.x_N + 32_000)  # so that one chip of the block lies outside the buffer
    rule, said = auto(small)
    few = re.findall(r"val has only (\d+) of (\d+) chips, .*--split-by key", said)
    split_N = assign(rule, small)
    assert few == [(str((split_N == "val").sum()), str((split_N != "buffer").sum()))]
    assert (assign(resolved(SplitRule("key", (0.8, 0.2)), small), small) == "val").sum() > int(few[0][0])
    assert "has only" not in auto(large)[1]


def test_chips_of_several_zones_are_split_in_that_of_most() -> None:
    rule, _ = auto(grid(30, 30, 3, ("EPSG:32606", "EPSG:32606", "EPSG:32605")))
    assert (rule.by, rule.crs) == ("blocks", "EPSG:32606")


@pytest.mark.parametrize("side", [1, 4, 8])
def test_too_few_chips_are_dealt_by_key_and_it_is_said(side: int) -> None:
    rule, said = auto(grid(side, side, 1))
    assert rule.by == "key"
    assert "neighbours of held-out chips are trained on" in said


def test_without_positions_or_with_nothing_to_hold_out_keys_decide() -> None:
    places = grid(20, 20, 2)
    unknown = Places(places.keys, places.scenes, places.x_N * np.nan, places.y_N, places.crs, SIDE)
    rule, said = auto(unknown)
    assert rule.by == "key"
    assert "no positions" in said
    assert auto(places, 1.0)[1] == "split (auto): nothing is held out"
    nothing = grid(0, 0, 1)
    assert auto(nothing)[0].by == "key"


def test_a_rule_that_was_asked_for_is_left_as_it_is() -> None:
    asked = SplitRule("scene")
    assert chosen(asked, grid(20, 20, 2)) == (asked, "")
