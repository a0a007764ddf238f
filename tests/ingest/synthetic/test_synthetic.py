"""Chips of the synthetic source: a function of (seed, i), all different, named and placed as real ones.

- any order, grouping, process and number of chips gives the same chip i; another seed gives others
- keys are unique, valid, and say what the field's keys say; scenes are squares side by side
- shares of incomplete chips and of those without heights are the first users'; all else is kept
- heights are where the image shows plants, however a chip is turned
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ingest.chips.check import INCOMPLETE, NO_HEIGHT, Rejected, Rules, checked
from ingest.chips.source import GROUP, Raw
from ingest.config import SyntheticConfig
from ingest.synthetic.landscape import BANDS, NODATA
from ingest.synthetic.synthetic_source import (
    CHIP_M,
    CHIPS_PER_SCENE,
    CHIPS_PER_WORLD,
    FIRST_YEAR_OF_WV03,
    INCOMPLETE_SHARE,
    MOST_CHIPS,
    NO_HEIGHT_SHARE,
    ROW_WORLDS,
    SOURCES,
    WORLD_SCENES,
    SyntheticSource,
)
from shards.errors import InputError
from shards.format.key import MAX_KEY, facts, is_valid
from shards.storage.checksum import chip_checksum

CHIPS = 20_000
ROOT = Path(__file__).parents[3]


def source(chips: int = CHIPS, seed: int = 0) -> SyntheticSource:
    return SyntheticSource(SyntheticConfig(out="", chips=chips, seed=seed))


def read(of: SyntheticSource, table: pa.Table) -> list[Raw]:
    raws = list(of.read(table))
    assert all(isinstance(raw, Raw) for raw in raws)
    return [raw for raw in raws if isinstance(raw, Raw)]


def checksum(raw: Raw) -> int:
    assert raw.height is not None
    return chip_checksum(raw.image, raw.height)


def checksums(of: SyntheticSource, table: pa.Table) -> list[int]:
    return [checksum(raw) for raw in of.read(table) if isinstance(raw, Raw)]


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return source().candidates().table


@pytest.fixture(scope="module")
def known(table: pa.Table) -> list[int]:
    """The checksum of each chip, read in order."""
    return checksums(source(), table)


def test_a_chip_is_as_the_schema_says(table: pa.Table) -> None:
    schema = source().schema
    assert (schema.bands, schema.dtype, schema.nodata) == (BANDS, "int16", NODATA)
    for raw in read(source(), table.slice(0, 200)):
        assert raw.height is not None
        assert raw.image.shape == schema.image_shape
        assert raw.height.shape == schema.label_shape
        assert raw.image.dtype == schema.dtype
        assert raw.height.dtype == np.float32
        for array in (raw.image, raw.height):
            assert array.flags.c_contiguous
            assert array.flags.owndata  # a chip that is kept does not keep its world


def test_a_chip_is_the_same_in_any_order_and_grouping(table: pa.Table, known: list[int]) -> None:
    rng = np.random.default_rng(0)
    # By turns from few worlds, and backwards: a world is drawn again after it was forgotten.
    rows = np.concatenate([rng.integers(0, CHIPS, 12), np.arange(CHIPS_PER_WORLD + 40, 0, -8)])
    assert checksums(source(), table.take(rows)) == [known[row] for row in rows]
    one_by_one = [checksums(source(), table.slice(row, 1)) for row in (4095, 4096, 19_999)]
    assert one_by_one == [[known[4095]], [known[4096]], [known[19_999]]]
    assert list(source().read(table.slice(0, 0))) == []


def test_reading_leaves_the_world_as_it_is(table: pa.Table, known: list[int]) -> None:
    for raw in read(source(), table.slice(0, 300)):
        raw.image[:] = 0
        assert raw.height is not None
        raw.height[:] = 0
    assert checksums(source(), table.slice(0, 300)) == known[:300]


def test_a_source_that_was_sent_to_another_process_reads_the_same(known: list[int]) -> None:
    rows = [7, 5000, 6]
    sent = pickle.dumps((source(), source().candidates().table.take(rows)))
    code = (
        "import pickle, sys; from shards.storage.checksum import chip_checksum;"
        "of, table = pickle.load(sys.stdin.buffer);"
        "print(*[chip_checksum(raw.image, raw.height) for raw in of.read(table)])"
    )
    told = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True, cwd=ROOT)
    assert [int(word) for word in told.stdout.split()] == [known[row] for row in rows]
    assert pickle.loads(pickle.dumps(source())) == source()


@pytest.mark.parametrize("chips", [1, 255, 256, CHIPS_PER_WORLD, CHIPS_PER_WORLD + 1])
def test_more_chips_begin_with_the_fewer(chips: int, table: pa.Table, known: list[int]) -> None:
    fewer = source(chips)
    found = fewer.candidates()
    assert found.table.equals(table.slice(0, chips))
    assert not found.refused
    last = found.table.slice(chips - 1)
    assert checksums(fewer, last) == known[chips - 1 : chips]


def test_no_two_chips_are_alike(table: pa.Table, known: list[int]) -> None:
    assert len(set(known)) == CHIPS
    # Their images alone, too: chips without heights have the same ones.
    images = {raw.image.tobytes() for raw in read(source(), table.slice(0, CHIPS_PER_WORLD))}
    assert len(images) == CHIPS_PER_WORLD


def test_another_seed_gives_other_chips_and_scenes(table: pa.Table, known: list[int]) -> None:
    other = source(CHIPS_PER_WORLD, seed=1)
    others = other.candidates().table
    assert not set(checksums(other, others)) & set(known)
    assert not set(others["key"].to_pylist()) & set(table["key"].to_pylist())


def test_keys_are_unique_valid_and_say_what_those_of_the_field_say(table: pa.Table) -> None:
    keys = table["key"].to_pylist()
    assert len(set(keys)) == CHIPS
    assert all(map(is_valid, keys))
    assert max(map(len, keys)) + len(str(MOST_CHIPS - 1)) - 7 <= MAX_KEY
    assert MOST_CHIPS // CHIPS_PER_SCENE < 16**5
    told = [facts(key) for key in keys]
    assert [fact.number for fact in told] == list(range(CHIPS))
    assert {fact.sensor for fact in told} == {"WV02", "WV03"}
    assert {fact.source for fact in told} == {name.removesuffix("_CHM") for name in SOURCES}
    for fact in told[::CHIPS_PER_SCENE]:
        assert fact.acquired is not None
        year, month, _ = map(int, fact.acquired.split("-"))
        assert year in range(FIRST_YEAR_OF_WV03 if fact.sensor == "WV03" else 2012, 2023)
        assert month in (6, 7, 8)
    assert len({fact.acquired for fact in told}) > 50


def test_a_scene_is_a_square_of_chips_and_has_one_image(table: pa.Table) -> None:
    scenes = [facts(key).scene for key in table["key"].to_pylist()]
    assert len(set(scenes)) == -(-CHIPS // CHIPS_PER_SCENE)
    side_m = CHIP_M * CHIPS_PER_SCENE**0.5
    for first in range(0, CHIPS - CHIPS_PER_SCENE, CHIPS_PER_SCENE):
        assert len(set(scenes[first : first + CHIPS_PER_SCENE])) == 1
        of_scene = table.slice(first, CHIPS_PER_SCENE)
        for axis in ("x", "y"):
            assert np.ptp(of_scene[axis].to_numpy()) + CHIP_M == side_m


@pytest.mark.parametrize("chips", [CHIPS, 2 * ROW_WORLDS * CHIPS_PER_WORLD])
def test_chips_lie_side_by_side_and_do_not_overlap(chips: int) -> None:
    places = source(chips).candidates().table
    corners = np.c_[places["x"].to_numpy(), places["y"].to_numpy()] / CHIP_M - 0.5
    # Whole numbers of chips apart, so those at different places have no ground in common.
    assert np.array_equal(corners - corners[0], np.rint(corners - corners[0]))
    assert len(np.unique(corners, axis=0)) == chips
    assert places["crs"].unique().to_pylist() == ["EPSG:3338"]
    if chips > CHIPS:  # two full rows of worlds are a rectangle without holes
        side = WORLD_SCENES * CHIPS_PER_SCENE**0.5
        assert tuple(np.ptp(corners, axis=0) + 1) == (ROW_WORLDS * side, 2 * side)


def test_a_group_is_a_world_and_not_larger_than_a_task(table: pa.Table) -> None:
    group = table[GROUP].to_numpy()
    assert (np.diff(group) >= 0).all()
    assert np.bincount(group).max() == CHIPS_PER_WORLD <= 4096


def test_as_many_chips_are_refused_as_of_the_first_users(table: pa.Table) -> None:
    of, found = source(), Counter[str]()
    for raw in read(of, table):
        try:
            image_CHW, height_HW = checked(raw.image, raw.height, of.schema, Rules())
        except Rejected as rejected:
            found[rejected.reason] += 1
        else:
            found["kept"] += 1
            assert image_CHW.min() > 0
            assert 0 < height_HW.max() < 30
    assert set(found) == {"kept", INCOMPLETE, NO_HEIGHT}
    for reason, share in ((INCOMPLETE, INCOMPLETE_SHARE), (NO_HEIGHT, NO_HEIGHT_SHARE)):
        assert found[reason] / CHIPS == pytest.approx(share, abs=0.006)  # three standard deviations


def test_an_incomplete_chip_misses_some_pixels_in_all_bands(table: pa.Table) -> None:
    incomplete = 0
    for raw in read(source(), table.slice(0, CHIPS_PER_WORLD)):
        is_missing_CHW = raw.image == NODATA
        assert (is_missing_CHW == is_missing_CHW[0]).all()
        incomplete += is_missing_CHW.any()
        assert not is_missing_CHW.all()
    assert incomplete > 100


def test_heights_are_where_the_image_shows_plants_in_every_turn(table: pa.Table) -> None:
    """Crowns are darker in red than the ground around them; heights of another turn would not know where."""
    gaps: list[float] = []
    turned_gaps: list[float] = []
    for raw in read(source(), table.slice(0, 400)):
        assert raw.height is not None
        red_HW, tall_HW = raw.image[2], raw.height > 3
        if (raw.image == NODATA).any() or not 0.05 < tall_HW.mean() < 0.5:
            continue
        for found, at_HW in ((gaps, tall_HW), (turned_gaps, np.rot90(tall_HW))):
            found.append(red_HW[~at_HW].mean() / red_HW[at_HW].mean())
    assert len(gaps) > 100
    assert np.mean(np.array(gaps) > 1.1) > 0.9
    assert np.median(gaps) > 1.3 * np.median(turned_gaps)


@pytest.mark.parametrize(
    ("chips", "seed", "named"),
    [(0, 0, "--chips 0"), (-5, 0, "--chips -5"), (MOST_CHIPS + 1, 0, "--chips"), (1, -1, "--seed -1")],
)
def test_impossible_options_are_named_in_one_line(chips: int, seed: int, named: str) -> None:
    with pytest.raises(InputError, match=f"^{named}.*: give") as caught:
        source(chips, seed).candidates()
    assert "\n" not in str(caught.value)
