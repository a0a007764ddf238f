"""A chip's split follows from the chip alone, and chips of different splits are as far apart as was asked.

- shares come out about right; val is that of `split_of`; a test share takes from train only
- any part of the chips, in any order, gets the splits that all of them get; chips added later move none
- buffers hold and are no wider than they must be, by plain loops over all blocks and all pairs
- the same in another CRS; grids that fit the blocks lose nothing to "buffer"
- distances and shared scenes as plain loops find them; every mistake is one line that names it
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from rasterio.warp import transform

from shards.errors import InputError
from shards.format.key import split_of
from shards.write.places import Places, footprints
from shards.write.split_distance import shared_scenes, smallest_distances
from shards.write.split_rule import SPLITS, SplitRule, assign, resolved

NAMES = [f"chip_WV02_20150802_M1BS_1030010047ADDD00_CHM_AK_IFSAR_CHM_{n:05d}_v1" for n in range(20_000)]
THREE = (0.6, 0.2, 0.2)


def places(
    n: int, side: float = 100.0, span: float = 6000.0, seed: int = 0, crs: str | None = None
) -> Places:
    """Chips at random places around (0, 0), many of which overlap; every tenth has no known scene."""
    rng = np.random.default_rng(seed)
    x_N, y_N = rng.uniform(-span / 2, span / 2, (2, n))
    scenes = [None if i % 10 == 0 else f"scene_{rng.integers(max(n // 20, 1))}" for i in range(n)]
    return Places([f"chip_{seed}_{i}" for i in range(n)], scenes, x_N, y_N, [crs] * n, side)


def named(names: list[str]) -> Places:
    """Chips of which the name is all that is known."""
    nowhere = np.full(len(names), np.nan)
    return Places(names, [None] * len(names), nowhere, nowhere, [None] * len(names), 100.0)


def taken(of: Places, chips: NDArray[np.int64]) -> Places:
    keys, scenes, crs = ([column[i] for i in chips] for column in (of.keys, of.scenes, of.crs))
    return Places(keys, scenes, of.x_N[chips], of.y_N[chips], crs, of.side)


def joined(one: Places, other: Places) -> Places:
    keys, scenes, crs = ([*getattr(one, name), *getattr(other, name)] for name in ("keys", "scenes", "crs"))
    return Places(keys, scenes, np.append(one.x_N, other.x_N), np.append(one.y_N, other.y_N), crs, one.side)


def in_alaska(n: int, crs: str | None = None) -> Places:
    """Chips within 20 km, in the zone of UTM that is named, or by turns in two of them."""
    rng = np.random.default_rng(2)
    crs_N = [crs or ("EPSG:32606", "EPSG:32607")[i % 2] for i in range(n)]
    at = [
        transform("EPSG:4326", name, [lon], [lat])
        for name, lon, lat in zip(
            crs_N, rng.uniform(-144.2, -143.8, n), rng.uniform(66, 66.2, n), strict=True
        )
    ]
    x_N, y_N = np.array(at)[:, :, 0].T
    return Places([f"chip_{i}" for i in range(n)], [None] * n, x_N, y_N, crs_N, 300.0)


def smallest_by_loops(split_N: NDArray[Any], shape_N: NDArray[Any]) -> dict[tuple[str, str], float]:
    """Between all pairs of footprints of two splits."""
    shapes = {split: shape_N[split_N == split] for split in SPLITS[:3] if (split_N == split).any()}
    return {
        (one, other): float(shapely.distance(shapes[one][:, None], shapes[other]).min())
        for one, other in combinations(shapes, 2)
    }


def squares(of: Places, grown: float = 0.0) -> NDArray[Any]:
    half = of.side / 2 + grown
    return np.asarray(shapely.box(of.x_N - half, of.y_N - half, of.x_N + half, of.y_N + half))


@pytest.mark.parametrize("shares", [(0.8, 0.2), THREE, (0.5, 0.0, 0.5), (0.0, 1.0), (1.0,)], ids=str)
def test_shares_of_names_are_about_right(shares: tuple[float, ...]) -> None:
    splits = assign(SplitRule(shares=shares), named(NAMES)).tolist()
    for split, share in zip(SPLITS, (*shares, 0, 0, 0), strict=False):
        # Four standard deviations of independent draws; shares of 0 and 1 are exact.
        assert abs(splits.count(split) - share * len(NAMES)) <= 4 * np.sqrt(len(NAMES) * share * (1 - share))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 1 / 3, 1.0])
def test_two_shares_hold_out_what_a_hash_of_the_name_holds_out(share: float) -> None:
    splits = assign(SplitRule(shares=(1 - share, share)), named(NAMES[:5000])).tolist()
    assert splits == [split_of(name, share) for name in NAMES[:5000]]


def test_a_test_share_and_a_larger_val_share_take_from_train_only() -> None:
    two, three, more = (
        assign(SplitRule(shares=shares), named(NAMES)) for shares in [(0.8, 0.2), THREE, (0.7, 0.3)]
    )
    np.testing.assert_array_equal(two == "val", three == "val")
    assert set(two[three == "test"]) == {"train"}
    assert set(more[two == "val"]) == {"val"}


def test_chips_of_a_scene_are_together_and_those_of_none_go_by_their_key() -> None:
    chips = places(2000)
    splits = assign(SplitRule("scene"), chips)
    of_name = {
        scene or key: split_of(scene or key, 0.2) for key, scene in zip(chips.keys, chips.scenes, strict=True)
    }
    assert splits.tolist() == [of_name[s or k] for k, s in zip(chips.keys, chips.scenes, strict=True)]
    assert shared_scenes(splits.tolist(), chips.scenes) == {"val": 0, "test": 0}


RULES = [
    SplitRule(),
    SplitRule("scene", THREE),
    SplitRule("blocks", THREE, block_size=700, buffer=120),
    SplitRule("strips", THREE, axis="x", buffer=120),
    SplitRule("bands", THREE, band_count=8, angle=(15.0,), buffer=120),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.by)
def test_a_split_follows_from_the_chip_alone(rule: SplitRule) -> None:
    chips, rng = places(800), np.random.default_rng(3)
    fixed = resolved(rule, chips)
    splits = assign(fixed, chips)
    assert set(splits) <= set(SPLITS)
    assert len(set(splits)) >= 2
    for size in (0, 1, 17, 800):
        some = rng.permutation(800)[:size]
        np.testing.assert_array_equal(assign(fixed, taken(chips, some)), splits[some])
    assert resolved(fixed, places(50, span=1e6, seed=1)) == fixed
    for values in (fixed.to_json(), asdict(fixed)):
        assert SplitRule.from_json(json.loads(json.dumps(values, allow_nan=False))) == fixed


SPATIAL = [
    *(SplitRule("blocks", THREE, block_size=size) for size in (100, 333.3, 2000)),
    *(SplitRule("strips", THREE, axis=axis) for axis in ("x", "y")),
]


@pytest.mark.parametrize("side", [20.0, 150.0])
@pytest.mark.parametrize("buffer", [0.0, 90.0])
@pytest.mark.parametrize("rule", SPATIAL, ids=lambda rule: f"{rule.by} {rule.block_size:g} {rule.axis}")
def test_chips_of_different_splits_are_a_buffer_apart(rule: SplitRule, buffer: float, side: float) -> None:
    chips = places(400, side)
    rule = resolved(replace(rule, buffer=buffer), chips)
    splits = assign(rule, chips)
    distances = smallest_by_loops(splits, squares(chips))
    assert all(distance >= buffer - 1e-6 for distance in distances.values())
    if rule.block_size > 200:
        assert len(distances) == 3


@pytest.mark.parametrize("buffer", [0.0, 50.0, 400.0])
@pytest.mark.parametrize("size", [150.0, 512.0])
def test_a_chip_is_buffer_if_and_only_if_it_reaches_into_another_split(size: float, buffer: float) -> None:
    chips = places(250, span=2500)
    splits = assign(SplitRule("blocks", block_size=size, buffer=buffer), chips)
    cells = {
        (i, j): shapely.box(i * size, j * size, (i + 1) * size, (j + 1) * size)
        for i, j in product(range(-15, 15), repeat=2)
    }
    split_of_cell = np.array([split_of(f"block {i} {j}", 0.2) for i, j in cells])
    grown = squares(chips, buffer / 2)
    reaches = shapely.relate_pattern(grown[:, None], np.array(list(cells.values())), "2********")
    expected = [found.pop() if len(found := set(split_of_cell[row])) == 1 else "buffer" for row in reaches]
    assert splits.tolist() == expected
    assert "train" in expected
    assert "buffer" in expected


@pytest.mark.parametrize(
    ("side", "scale"), [(256.0, 1.0), (153.6, 0.3), (0.003, 0.003 / 256)], ids=["2 m", "0.3 m", "degrees"]
)
def test_a_grid_that_fits_the_blocks_loses_nothing(side: float, scale: float) -> None:
    at = (np.arange(60) - 17.5) * side
    x_N, y_N = (axis.ravel() + 1e6 * scale // side * side for axis in np.meshgrid(at, at))
    grid = Places([f"chip_{i}" for i in range(3600)], [None] * 3600, x_N, y_N, [None] * 3600, side)
    blocks = assign(SplitRule("blocks", block_size=5 * side), grid)
    assert set(blocks) == {"train", "val"}
    # These shares would cut rows apart, of which rounding makes centres of slightly different y.
    rounded = replace(grid, y_N=y_N + np.random.default_rng(4).uniform(-1e-10, 1e-10, 3600) * side)
    splits = assign(resolved(SplitRule("strips", (0.605, 0.2, 0.195)), rounded), rounded).tolist()
    assert [splits.count(split) for split in SPLITS] == [2160, 720, 720, 0]
    for found in (blocks, np.array(splits)):
        assert smallest_distances(found.tolist(), grid)["train", "val"] == pytest.approx(0, abs=1e-6 * side)


@pytest.mark.parametrize("axis", ["x", "y"])
def test_strips_have_their_shares_in_the_order_of_the_coordinate(axis: Any) -> None:
    chips = replace(places(1000), side=0.0)  # points, of which no strip loses any
    splits = assign(resolved(SplitRule("strips", THREE, axis=axis), chips), chips)
    at = chips.x_N if axis == "x" else chips.y_N
    expected = np.repeat(SPLITS[:3], [600, 200, 200])
    np.testing.assert_array_equal(splits[np.argsort(at)], expected)


def test_few_chips_reach_every_split_and_a_share_of_nothing_gets_none() -> None:
    def splits(shares: tuple[float, ...], y: list[float]) -> list[str]:
        n = len(y)
        chips = Places([str(i) for i in range(n)], [None] * n, np.zeros(n), np.array(y), [None] * n, 10.0)
        rule = resolved(SplitRule("strips", shares), chips)
        far = replace(chips, x_N=np.zeros(n), y_N=np.array(y) * 1e9)
        assert set(assign(rule, far)) <= {
            split for split, share in zip(SPLITS, shares, strict=False) if share
        }
        return [str(split) for split in assign(rule, chips)]

    assert splits((0.98, 0.01, 0.01), [30, 10, 20]) == ["test", "train", "val"]
    assert splits((0.01, 0.01, 0.98), [30, 10, 20]) == ["test", "train", "val"]
    assert splits((0.9, 0.1), [0, 0, 0, 0, 50]) == ["train"] * 4 + ["val"]
    assert splits((0.0, 1.0), [-5, 5]) == ["val"] * 2
    assert splits((0.5, 0.0, 0.5), [-5, 5]) == ["train", "test"]
    assert splits((1.0, 0.0, 0.0), [-5, 5]) == ["train"] * 2
    assert splits((1.0,), [-5, -5]) == ["train"] * 2


def test_chips_added_later_move_no_edge_and_no_crs() -> None:
    first, later = in_alaska(50, "EPSG:32606"), in_alaska(80, "EPSG:32607")
    for by in ("blocks", "strips"):
        rule = resolved(SplitRule(by, block_size=2000, buffer=100), first)
        assert rule.crs == "EPSG:32606"
        assert resolved(rule, later) == rule
        both = joined(first, later)
        np.testing.assert_array_equal(assign(rule, both)[:50], assign(rule, first))
        np.testing.assert_array_equal(assign(rule, both)[50:], assign(rule, later))


@pytest.mark.parametrize("crs", ["EPSG:32606", None], ids=["one zone", "two zones"])
@pytest.mark.parametrize("by", ["blocks", "strips"])
def test_buffers_hold_in_another_crs(by: Any, crs: str | None) -> None:
    chips = in_alaska(300, crs)
    rule = resolved(SplitRule(by, (0.6, 0.4), block_size=3000, buffer=200, crs="EPSG:3338"), chips)
    splits = assign(rule, chips)
    shapes = []
    for x, y, name in zip(chips.x_N, chips.y_N, chips.crs, strict=True):
        corners = np.array([(x - 150, y - 150), (x + 150, y - 150), (x + 150, y + 150), (x - 150, y + 150)])
        shapes.append(shapely.Polygon(np.transpose(transform(name, "EPSG:3338", *corners.T))))
    distances = smallest_by_loops(splits, np.array(shapes))
    assert distances["train", "val"] >= 200 - 1e-6
    # Boxes are at least as large as what they hold, which has turned by a few degrees.
    assert smallest_distances(splits.tolist(), chips, "EPSG:3338")["train", "val"] >= 200 - 1e-6
    seen = footprints(chips, "EPSG:3338")
    for shape, low, high in zip(shapes, seen.low_N2, seen.high_N2, strict=True):
        np.testing.assert_allclose(shape.bounds, [*low, *high], rtol=0, atol=1e-6)


def test_distances_are_those_of_all_pairs() -> None:
    for seed, (side, span) in enumerate([(10.0, 9e3), (10.0, 9e5), (100.0, 3e3)]):
        chips = places(300, side, span, seed)
        splits = np.random.default_rng(seed).choice(SPLITS, 300)
        found = smallest_distances(splits.tolist(), chips)
        assert found == pytest.approx(smallest_by_loops(splits, squares(chips)), abs=1e-9)
        assert list(found) == [("train", "val"), ("train", "test"), ("val", "test")]


@pytest.mark.parametrize("nearest", [0, 1, 2, 1001, 2999])
def test_no_chip_of_many_is_too_far_back_to_be_the_nearest(nearest: int) -> None:
    n = 3000
    x_N, y_N = np.tile(np.arange(n) * 10.0, 2), np.repeat([0.0, 100.0], n)
    y_N[nearest] = 50.0
    chips = Places([f"chip_{i}" for i in range(2 * n)], [None] * 2 * n, x_N, y_N, [None] * 2 * n, 1.0)
    for names in (("train", "val"), ("val", "train")):
        assert smallest_distances(np.repeat(names, n).tolist(), chips) == {("train", "val"): 49.0}


def test_distances_leave_out_chips_without_a_place_or_split() -> None:
    x_N = np.array([0.0, 100.0, 11.0, np.nan, 12.0, 13.0])
    crs: list[str | None] = ["EPSG:3338"] * 5
    chips = Places(list("abcdef"), [None] * 6, x_N, np.zeros(6), [*crs, None], 10.0)
    splits = ["train", "val", "buffer", "val", None, "val"]
    assert smallest_distances(splits, chips) == {("train", "val"): 90.0}
    assert smallest_distances(["train", "buffer", "train", "val", None, "val"], chips) == {}


def test_distances_between_zones_are_in_the_crs_of_the_first_chip() -> None:
    chips = in_alaska(60)
    splits = [SPLITS[i % 2] for i in range(60)]
    assert smallest_distances(splits, chips) == smallest_distances(splits, chips, "EPSG:32606")
    for crs in ("EPSG:32607", "EPSG:3338"):
        one, other = (smallest_distances(splits, chips, name)["train", "val"] for name in ("", crs))
        assert one == pytest.approx(other, rel=0.01, abs=30)  # boxes around squares that have turned


def test_shared_scenes_are_counted_by_chip() -> None:
    splits = ["train", "val", "val", "test", "val", "train", "buffer", "test"]
    scenes = ["a", "a", "b", "b", None, None, "a", "a"]
    assert shared_scenes(splits, scenes) == {"val": 1, "test": 1}
    assert shared_scenes([], []) == {"val": 0, "test": 0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shares": (0.8, 0.3)}, "--shares 0.8 0.3: sum to 1.1"),
        ({"shares": ()}, "--shares: has 0 numbers"),
        ({"shares": (0.4, 0.2, 0.2, 0.2)}, "has 4 numbers; give one to three"),
        ({"shares": (1.2, -0.2)}, "--shares 1.2 -0.2: each must be"),
        ({"shares": (float("nan"), 0.2)}, "--shares nan 0.2: each must be"),
        ({"by": "place"}, "--split-by place: choose one of key"),
        ({"axis": "z"}, "--split-axis z"),
        ({"block_size": 0.0}, "--block-size 0: give a size above 0"),
        ({"block_size": float("nan")}, "--block-size nan"),
        ({"by": "blocks", "buffer": -1.0}, "--buffer -1: give a distance of 0 or more"),
        ({"by": "strips", "buffer": float("inf")}, "--buffer inf"),
        ({"buffer": 10.0}, "--buffer 10: needs --split-by blocks, strips or bands, not key"),
        ({"by": "scene", "buffer": 10.0}, "--buffer 10: .* not scene"),
        ({"crs": "EPSG:3338"}, "--split-crs EPSG:3338: needs --split-by blocks"),
        ({"by": "blocks", "edges": (1.0,)}, "edges of strips 1: need --split-by strips"),
        ({"by": "strips", "edges": (1.0, 2.0)}, "2 --shares need 1 of them"),
        ({"by": "strips", "shares": THREE, "edges": (2.0, 1.0)}, "edges of strips 2 1: must be numbers"),
        ({"by": "strips", "edges": (float("nan"),)}, "must be numbers that ascend"),
    ],
    ids=str,
)
def test_a_rule_that_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        SplitRule(**values)
    assert "\n" not in str(caught.value)


UTM = in_alaska(6)
ONE = in_alaska(6, "EPSG:32606")
LOST = replace(places(12), x_N=np.where(np.arange(12) % 3 == 1, np.nan, 1.0))
HALF = replace(ONE, crs=[None, *ONE.crs[1:]])
ODD = replace(ONE, crs=["nonsense"] * 6)
SOUTH = replace(places(5), y_N=np.full(5, -95.0), crs=["EPSG:4326"] * 5)
ROW = replace(places(5), y_N=np.ones(5))


@pytest.mark.parametrize(
    ("rule", "chips", "message"),
    [
        (
            SplitRule("blocks"),
            LOST,
            "by blocks: needs positions, and 4 of 12 chips have none, chip_0_1 first",
        ),
        (SplitRule("strips"), named(NAMES), "by strips: .* 20,000 of 20,000 .* GeoTIFF chips or scenes"),
        (SplitRule("blocks"), HALF, "1 of 6 chips have none, chip_0 first"),
        (SplitRule("blocks", crs="EPSG:3338"), places(5), "5 of 5 chips have none"),
        (SplitRule("strips"), UTM, r"have 2 CRSs \(EPSG:32606, EPSG:32607\); give --split-crs"),
        (SplitRule("blocks", crs="EPSG:99999999"), UTM, "--split-crs: 'EPSG:99999999' is no known CRS"),
        (SplitRule("blocks", crs="EPSG:3338"), ODD, "--split-crs: 'nonsense' is no known CRS"),
        (SplitRule("blocks", crs="EPSG:3413"), SOUTH, "--split-crs EPSG:3413: .* no place in it.*; name"),
        (SplitRule("blocks", block_size=1.0), ONE, "--block-size 1: .* over 30[01] blocks .*; give 300 or"),
        (SplitRule("strips"), ROW, "have 1 different y, fewer than --shares"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_chips_that_a_rule_cannot_deal_are_named(rule: SplitRule, chips: Places, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        assign(resolved(rule, chips), chips)
    assert "\n" not in str(caught.value)


def test_strips_must_be_cut_before_they_are_dealt() -> None:
    with pytest.raises(ValueError, match="resolve the rule first"):
        assign(SplitRule("strips"), places(5))
    assert assign(SplitRule("strips"), named([])).tolist() == []
    assert resolved(SplitRule("strips"), named([])) == SplitRule("strips")
