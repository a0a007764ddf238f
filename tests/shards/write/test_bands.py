"""Bands at an angle: dealt in the ratio of the shares, a buffer apart, and fixed for all chips to come.

- turns of any shares: the paper's 3 : 1 : 1, and shares to within one band
- the band and the buffer of a chip as found in a plane that is turned back by the angle
- pictures of which way an angle turns
- each region has its own bands, angle and CRS; a chip added later moves none
- rules written before there were bands are read, and are written as they were
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from rasterio.warp import transform

from shards.errors import InputError
from shards.format.schema import Schema
from shards.write.places import Places, places_of
from shards.write.split_bands import BandGrid
from shards.write.split_distance import smallest_distances
from shards.write.split_rule import SPLITS, SplitRule, assign, continued, resolved
from shards.write.split_turn import turn_of

PAPER = (0.6, 0.2, 0.2)
SHARES = [PAPER, (0.8, 0.2), (0.7, 0.2, 0.1), (0.85, 0.1, 0.05), (0.605, 0.2, 0.195), (0.5, 0.0, 0.5)]
LETTERS = {"train": "T", "val": "v", "test": "e", "buffer": "."}


def grid(
    columns: int, rows: int, side: float = 100.0, corner: tuple[float, float] = (5e5, 7.2e6), **more: Any
) -> Places:
    """Chips side by side, row by row from the south."""
    x_N, y_N = (
        start + side * at.ravel()
        for start, at in zip(corner, np.meshgrid(np.arange(columns), np.arange(rows)), strict=True)
    )
    n = columns * rows
    crs = more.pop("crs", "EPSG:32606")
    return Places([f"chip_{i}" for i in range(n)], [None] * n, x_N, y_N, [crs] * n, side, **more)


def bands(shares: tuple[float, ...] = PAPER, count: int = 60, angle: Any = 0.0, **more: Any) -> SplitRule:
    angles = angle if isinstance(angle, tuple) else (angle,)
    return SplitRule("bands", shares, band_count=count, angle=angles, **more)


def picture(rule: SplitRule, of: Places, columns: int) -> list[str]:
    """A letter for each chip, rows from the north."""
    letters = [LETTERS[split] for split in assign(resolved(rule, of), of)]
    return ["".join(letters[at : at + columns]) for at in range(0, len(letters), columns)][::-1]


def turned_back(of: Places, angle: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Positions across bands of centres (N,) and of corners (N, 4), by complex numbers."""
    corners_4 = of.side / 2 * np.array([1 + 1j, 1 - 1j, -1 + 1j, -1 - 1j])
    back = np.exp(-1j * np.radians(angle))
    centre_N = of.x_N + 1j * of.y_N
    return (centre_N * back).imag, ((centre_N[:, None] + corners_4) * back).imag


def rows_of_page() -> list[list[str]]:
    """Rows of the table in docs/splits.md on what a buffer costs."""
    text = (Path(__file__).parents[3] / "docs" / "splits.md").read_text()
    table = text.partition("| tiles of 4.48 km |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]


@pytest.mark.parametrize("row", rows_of_page(), ids=lambda row: row[0])
def test_a_buffer_costs_what_the_page_says(row: list[str]) -> None:
    columns, rows = map(int, row[0].split(" x "))
    chips, shares = grid(columns, rows, side=4480.0), []
    for buffer in (0.0, 1.0, 1000.0, 5000.0):
        try:
            rule = resolved(bands(count=int(row[1]), angle=15.0, buffer=buffer), chips)
        except InputError:
            shares.append("refused")
        else:
            shares.append(f"{100 * np.mean(assign(rule, chips) == 'buffer'):.1f}".removesuffix(".0") + " %")
    assert shares == row[3:]
    low, high = np.sin(np.radians(15)) * columns, np.cos(np.radians(15)) * rows
    assert f"{4.48 * (low + high) / int(row[1]):.1f} km" == row[2]


def test_sixty_bands_are_dealt_three_one_one_in_turn() -> None:
    turn = [SPLITS[split] for split in turn_of(PAPER, 60)]
    assert turn == ["train", "train", "train", "test", "val"] * 12
    assert turn_of((0.8, 0.2), 60) == (0, 0, 0, 0, 1) * 12
    assert turn_of((0.7, 0.2, 0.1), 60) == (0, 0, 0, 0, 0, 0, 0, 2, 1, 1) * 6
    # No short turn has these shares; the shortest that meets them in the end is the paper's.
    assert turn_of((0.605, 0.2, 0.195), 60) == turn_of(PAPER, 60)


def test_shares_are_met_to_within_one_band_by_short_turns() -> None:
    dealt = 0
    for shares, count in product([*SHARES, (0.72, 0.14, 0.14), (1.0,), (0.34, 0.33, 0.33)], range(2, 131)):
        try:
            turn = turn_of(shares, count)
        except InputError:
            assert count * min(share for share in shares if share) < 1, "each share could have its band"
            continue
        dealt += 1
        assert len(turn) == count
        for split, share in enumerate(shares):
            at = [place for place, dealt_to in enumerate(turn) if dealt_to == split]
            assert abs(len(at) - share * count) <= 1 + 1e-9
            assert bool(at) == (share > 0)
            # Dealt in turn: nowhere is a split missing for three times what its share would have.
            gaps = np.diff([-1, *at, count])
            assert share == 0 or gaps.max() <= max(3 / share, 4)
    assert dealt > 1000


@pytest.mark.parametrize("angle", [0.0, 15.0, 45.0, 90.0, 137.5, -30.0, 195.0])
def test_a_chip_is_in_the_band_of_its_centre_and_a_buffer_from_other_splits(angle: float) -> None:
    """For a grid of band numbers, shares and buffers."""
    chips = grid(32, 30)
    at_N, corner_N4 = turned_back(chips, angle)
    low, high = corner_N4.min(), corner_N4.max()
    for count, shares, buffer in product((5, 7, 9), (PAPER, (0.8, 0.2), (0.5, 0.0, 0.5)), (0.0, 1.0, 40.0)):
        rule = resolved(bands(shares, count, angle, buffer=buffer), chips)
        splits = assign(rule, chips)
        width = (high - low) / count
        assert rule.grids[0].width == pytest.approx(width)
        band_B = np.arange(-1, count + 1)  # also those beyond the chips, into which buffers reach
        turn_B = np.array(turn_of(shares, count))[band_B % count]
        own_N = turn_B[1 + np.floor((at_N - low) / width + 1e-9).astype(int)]
        begin_N, end_N = (corner_N4.min(1) - buffer / 2 - low), (corner_N4.max(1) + buffer / 2 - low)
        reaches_NB = begin_N[:, None] < (band_B + 1) * width - 1e-6
        reaches_NB &= end_N[:, None] > band_B * width + 1e-6
        is_near_N = (reaches_NB & (turn_B != own_N[:, None])).any(axis=1) & (buffer > 0)
        expected = np.where(is_near_N, "buffer", np.array(SPLITS)[own_N])
        assert splits.tolist() == expected.tolist(), (count, shares, buffer)
        distances = smallest_distances(splits.tolist(), chips)
        assert len(distances) == {2: 1, 3: 3}[len(shares)] - 2 * (0.0 in shares)
        assert all(distance >= buffer - 1e-6 for distance in distances.values())
        assert ("buffer" in splits) == (buffer > 0)


def test_pictures_of_angles() -> None:
    """North is up, east is right. Nine bands are dealt T T T e v T T e v, from the south at 0."""
    assert picture(bands(count=9), grid(3, 9), 3) == ["vvv", "eee", "TTT", "TTT", "vvv", "eee"] + ["TTT"] * 3
    # At 90 bands run to the north, and follow each other from the east.
    assert picture(bands(count=9, angle=90), grid(9, 2), 9) == ["veTTveTTT"] * 2
    # At 45 they run to the north-east, and follow each other from the south-east; at -45 from the south-west.
    north_east = ["veTTv", "eTTve", "TTveT", "TveTT", "veTTT"]
    assert picture(bands(count=9, angle=45), grid(5, 5), 5) == north_east
    assert picture(bands(count=9, angle=-45), grid(5, 5), 5) == [row[::-1] for row in north_east]
    # Half a turn more, and they follow each other the other way.
    assert picture(bands(count=9, angle=225), grid(5, 5), 5) == [row[::-1] for row in north_east[::-1]]
    # At 15 the bands of the east are further north than those of the west.
    sloping = resolved(bands(count=20, angle=15), wide := grid(40, 20))
    (band,) = sloping.grids
    turn = np.array(list("TTTev" * 4))
    assert set(assign(sloping, wide)) == {"train", "val", "test"}
    for split, letter in (("val", "v"), ("test", "e")):
        assert (turn == letter).sum() == 4
        chips = np.flatnonzero(assign(sloping, wide) == split)
        first = chips[turned_back(wide, 15)[0][chips] < band.origin + 5 * band.width]
        slope = np.polyfit(wide.x_N[first] - wide.x_N[0], wide.y_N[first] - wide.y_N[0], 1)[0]
        assert slope == pytest.approx(np.tan(np.radians(15)), rel=0.15)


def test_rounding_takes_no_row_of_a_grid_apart() -> None:
    """Also where its centres lie on a border, as the middle row of three between two bands."""
    rng = np.random.default_rng(0)
    for rows, count in ((3, 2), (60, 60), (61, 7), (60, 40)):
        chips = grid(50, rows)
        rounded = replace(chips, y_N=chips.y_N + rng.uniform(-1e-9, 1e-9, chips.y_N.size))
        splits = assign(resolved(bands((0.5, 0.5), count), rounded), rounded).reshape(rows, 50)
        assert (splits == splits[:, :1]).all()
        if rows == count:
            np.testing.assert_array_equal(splits[:, 0], np.tile(["train", "val"], rows // 2))


def test_chips_to_come_follow_the_turn_on_both_sides() -> None:
    chips = grid(10, 20)
    rule = resolved(bands(count=10, angle=15, buffer=5), chips)
    splits = assign(rule, chips)
    (band,) = rule.grids
    for times in (-3, -1, 1, 2):
        # All bands once more, beyond the first ones: across the bands is to the left of their direction.
        far = times * 10 * band.width
        moved = replace(
            chips,
            x_N=chips.x_N - far * np.sin(np.radians(15)),
            y_N=chips.y_N + far * np.cos(np.radians(15)),
        )
        np.testing.assert_array_equal(assign(rule, moved), splits)
        assert continued(rule, moved) == rule == resolved(rule, moved)


CONUS, EUROPE = "EPSG:5070", "EPSG:3035"


def two_regions() -> tuple[Places, NDArray[np.bool_]]:
    """Chips of conus and europe, mixed, each in the CRS of its region; and which are of europe."""
    one = grid(20, 15, 1000.0, (0.0, 2e6), crs=CONUS)
    other = grid(12, 25, 1000.0, (4.2e6, 3e6), crs=EUROPE)
    order = np.random.default_rng(1).permutation(600)
    x_N, y_N = (np.append(*pair)[order] for pair in ((one.x_N, other.x_N), (one.y_N, other.y_N)))
    is_europe_N = order >= 300
    crs = [EUROPE if is_one else CONUS for is_one in is_europe_N]
    regions = ["europe" if is_one else "conus" for is_one in is_europe_N]
    return Places([f"chip_{i}" for i in order], [None] * 600, x_N, y_N, crs, 1000.0, regions), is_europe_N


def test_each_region_has_bands_as_if_it_were_alone() -> None:
    chips, is_europe_N = two_regions()
    for angle, buffer in (
        (("europe=9", "conus=15"), 0.0),
        (("conus=-20", "europe=70"), 300.0),
        ((15.0,), 0.0),
    ):
        rule = resolved(bands(count=10, angle=angle, region_column="region", buffer=buffer), chips)
        splits = assign(rule, chips)
        assert [(one.region, one.crs) for one in rule.grids] == [("conus", CONUS), ("europe", EUROPE)]
        for region, is_here_N in (("europe", is_europe_N), ("conus", ~is_europe_N)):
            here = replace(chips.taken(np.flatnonzero(is_here_N)), regions=())
            alone = bands(count=10, angle=rule.angles.get(region, rule.angles.get("")), buffer=buffer)
            np.testing.assert_array_equal(splits[is_here_N], assign(resolved(alone, here), here))
        shuffled = chips.taken(np.random.default_rng(2).permutation(600))
        assert resolved(replace(rule, grids=()), shuffled) == rule
        assert SplitRule.from_json(json.loads(json.dumps(rule.to_json(), allow_nan=False))) == rule


def test_regions_can_share_another_crs() -> None:
    chips, is_europe_N = two_regions()
    moved = np.empty((2, 600))
    for crs, is_here_N in ((EUROPE, is_europe_N), (CONUS, ~is_europe_N)):
        moved[:, is_here_N] = transform(crs, "EPSG:8857", chips.x_N[is_here_N], chips.y_N[is_here_N])
    rule = resolved(bands(count=10, angle=15.0, region_column="region", crs="EPSG:8857"), chips)
    assert [one.crs for one in rule.grids] == ["EPSG:8857"] * 2
    for region, is_here_N in (("europe", is_europe_N), ("conus", ~is_europe_N)):
        (band,) = (one for one in rule.grids if one.region == region)
        back = (moved[0] + 1j * moved[1]) * np.exp(-1j * np.radians(15))
        number_N = np.floor((back.imag[is_here_N] - band.origin) / band.width).astype(int)
        assert (number_N.min(), number_N.max()) == (0, 9)
        expected = np.array(SPLITS)[np.array(turn_of(PAPER, 10))[number_N]]
        np.testing.assert_array_equal(assign(rule, chips)[is_here_N], expected)


def test_a_region_that_comes_later_gets_bands_and_moves_no_chip() -> None:
    chips, is_europe_N = two_regions()
    first = chips.taken(np.flatnonzero(~is_europe_N))
    rule = resolved(bands(count=10, angle=15.0, region_column="region"), first)
    more = continued(rule, chips)
    assert [one.region for one in more.grids] == ["conus", "europe"]
    assert more.grids[0] == rule.grids[0]
    np.testing.assert_array_equal(assign(more, chips)[~is_europe_N], assign(rule, first))
    named = resolved(bands(count=10, angle=("conus=15",), region_column="region"), first)
    with pytest.raises(InputError, match="--split-angle: has conus, and none for region europe; add europe="):
        continued(named, chips)
    both = continued(replace(named, angle=("conus=15", "europe=9")), chips)
    assert [one.angle for one in both.grids] == [15, 9]
    with pytest.raises(InputError, match="region europe have no bands, but those of conus"):
        assign(rule, chips)


def test_borders_separate_neighbouring_bands() -> None:
    low_2, high_2 = np.array([5e5, 7.2e6]), np.array([5.1e5, 7.204e6])
    corner_42 = np.array([(x, y) for x in (low_2[0], high_2[0]) for y in (low_2[1], high_2[1])])
    for angle in (0.0, 15.0, 90.0, -40.0, 250.0):
        left = 1j * np.exp(1j * np.radians(angle))
        back = np.exp(-1j * np.radians(angle))
        across_4 = ((corner_42[:, 0] + 1j * corner_42[:, 1]) * back).imag
        width = np.ptp(across_4) / 8.5
        band = BandGrid("", "", angle, float(across_4.min()) - 0.25 * width, width)
        borders_K22 = band.borders(low_2, high_2)
        assert len(borders_K22) == 8
        assert (borders_K22 >= low_2 - 1e-3).all()
        assert (borders_K22 <= high_2 + 1e-3).all()
        for number, ends_22 in enumerate(borders_K22, 1):
            ends = ends_22[:, 0] + 1j * ends_22[:, 1]
            assert abs(ends[1] - ends[0]) > 1
            for side in (-1, 1):
                beside = (ends + side * 0.01 * width * left) * back
                found = np.floor((beside.imag - band.origin) / width)
                np.testing.assert_array_equal(found, number - (side < 0))


BEFORE = {
    "key": '{"by": "key", "shares": [0.8, 0.2], "block_size": 5000.0, "axis": "y", "buffer": 0.0, "crs": "", '
    '"edges": []}',
    "strips": '{"by": "strips", "shares": [0.6, 0.2, 0.2], "block_size": 5000.0, "axis": "x", "buffer": 500.0'
    ', "crs": "EPSG:3338", "edges": [1.5, 2.5]}',
}
"""Rules as manifests had them before there were bands."""


@pytest.mark.parametrize("stored", BEFORE.values(), ids=BEFORE)
def test_rules_of_before_are_read_and_written_as_they_were(stored: str) -> None:
    rule = SplitRule.from_json(json.loads(stored))
    assert json.dumps(rule.to_json()) == stored


def nothing() -> Places:
    """No chips: what is wrong is the rule."""
    return grid(0, 0)


EVERY = two_regions()[0]
NOWHERE = replace(EVERY, x_N=np.where(np.arange(600) == 7, np.nan, EVERY.x_N))
UNNAMED = replace(EVERY, regions=[None if i % 200 == 5 else name for i, name in enumerate(EVERY.regions)])
REGIONAL: dict[str, Any] = {"region_column": "region"}


@pytest.mark.parametrize(
    ("values", "chips", "message"),
    [
        ({"count": 0}, None, "--split-bands 0: give 2 or more"),
        ({"count": 1}, None, "--split-bands 1: give 2 or more"),
        ({"count": 2}, None, "--split-bands 2: too few for --shares 0.6 0.2 0.2; give 3 or more"),
        ({"shares": (0.98, 0.01, 0.01), "count": 20}, None, "--split-bands 20: too few .* give 50 or more"),
        ({"angle": float("nan")}, None, "--split-angle nan: nan is no number of degrees"),
        ({"angle": float("inf")}, None, "--split-angle inf: inf is no number"),
        ({"angle": "north"}, None, "--split-angle north: north is no number"),
        ({"angle": "=9"}, None, "--split-angle =9: =9 is no number"),
        ({"angle": "europe=nan"}, None, "--split-angle europe=nan: europe=nan is no number"),
        ({"angle": ()}, None, "--split-angle: give one number for all regions"),
        ({"angle": (9.0, 15.0)}, None, "--split-angle 9 15: there are several numbers; give one"),
        ({"angle": ("a=9", "a=15")}, None, "a is named twice"),
        ({"angle": (3.0, "a=15")}, None, "--split-angle 3 a=15: give one number for all regions, or one"),
        ({"angle": "europe=9"}, None, "--split-angle europe=9: needs --region-column"),
        (
            {"angle": "europe=9", **REGIONAL},
            EVERY,
            "has europe, and none for region conus; add conus=DEGREES",
        ),
        (
            {"angle": ("europe=9", "conus=5", "china=7"), **REGIONAL},
            EVERY,
            "no chip is in region china; there are conus, europe",
        ),
        (REGIONAL, UNNAMED, "--region-column: 3 of 600 chips have no value in it, chip_[0-9]+ first"),
        (REGIONAL, NOWHERE, "--split-by bands: needs positions, and 1 of 600 chips have none"),
        ({}, replace(EVERY, regions=()), "the chips have 2 CRSs .*; give --split-crs"),
        (
            REGIONAL,
            replace(EVERY, regions=["a"] * 600),
            "--split-by bands: the chips of region a have 2 CRSs .*; give --split-crs",
        ),
        (
            {"buffer": 1e6, **REGIONAL},
            EVERY,
            "leaves no chip of region conus in train and val and test; .* less",
        ),
        ({"buffer": 300.0, "count": 10}, grid(30, 30), "no chip in val and test; .* less --buffer than 300"),
        ({"count": 900}, grid(5, 4), "--split-by bands: leaves no chip in .*; give fewer --split-bands$"),
        ({"crs": "EPSG:99999999"}, grid(5, 5), "--split-crs: 'EPSG:99999999' is no known CRS"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bands_that_make_no_sense_are_refused(
    values: dict[str, Any], chips: Places | None, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        resolved(bands(**values), chips or nothing())
    assert "\n" not in str(caught.value)


def test_regions_are_the_texts_of_a_column() -> None:
    columns: dict[str, Any] = {
        "key": ["a", "b", "c", "d"],
        "source": ["x", None, "", "x"],
        "zone": [1, 2, 1, None],
    }
    columns |= {"share": [0.5, float("nan"), None, 2.0], "_file": ["f"] * 4, "split": ["train"] * 4}
    table, schema = pa.table(columns), Schema(("vv",))
    expected = {
        "source": ["x", None, None, "x"],
        "zone": ["1", "2", "1", None],
        "share": ["0.5", None, None, "2"],
    }
    for name, regions in expected.items():
        assert list(places_of(table, schema, name).regions) == regions
    assert list(places_of(table, schema, "zone").taken(np.array([3, 1])).regions) == [None, "2"]
    assert len(places_of(table, schema).regions) == 0
    for name in ("_file", "split", "key", "nothing"):
        with pytest.raises(
            InputError, match=f"{name}: chips .* no such column; choose one of source, zone, share"
        ):
            places_of(table, schema, name)


def test_a_column_of_regions_is_for_bands() -> None:
    with pytest.raises(InputError, match="--region-column region: needs --split-by bands, not strips"):
        SplitRule("strips", region_column="region")
    with pytest.raises(ValueError, match="resolve the rule first"):
        assign(bands(), grid(2, 2))


def test_chips_of_several_crs_are_split_in_the_one_that_is_named() -> None:
    one, other = (grid(12, 12, 2e4, crs=f"EPSG:3260{zone}") for zone in (6, 7))
    chips = Places(
        [*one.keys, *(f"other_{key}" for key in other.keys)],
        [None] * 288,
        np.concatenate([one.x_N, other.x_N]),
        np.concatenate([one.y_N, other.y_N]),
        [*one.crs, *other.crs],
        one.side,
    )
    with pytest.raises(InputError, match="the chips have 2 CRSs"):
        resolved(bands(count=10), chips)
    rule = resolved(bands(count=10, angle=90.0, crs="EPSG:3338"), chips)
    assert [known.crs for known in rule.grids] == ["EPSG:3338"]
    assert {*assign(rule, chips)} == {"train", "val", "test"}
