"""Tiles of the synthetic SAR landscape: a function of (seed, region, place), with the trends of nature.

- any order, grouping and process gives the same tile; another seed is another world
- within each region backscatter rises and coherence falls with tree cover, and neither is all there is to it
- speckle and the estimates of coherence have the distributions that they should have
- regions are told apart by band means alone; neighbours are alike
- labels of tiles follow from what lies in their pixels
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from in_process import treeline
from numpy.typing import NDArray

from ingest.chips.source import Raw
from ingest.config import SyntheticConfig, request_of
from ingest.synthetic import sar_backscatter, sar_coherence, sar_regions
from ingest.synthetic.sar_landscape import Land, TilePlace, land_of
from ingest.synthetic.sar_source import SarSource, places_in_square
from shards import open_dataset
from shards.format.key import is_valid
from shards.storage.checksum import chip_checksum

Kind = Literal["seasonal", "coherence"]
KINDS: tuple[Kind, ...] = ("seasonal", "coherence")
SIZE_PX = 32
PER_REGION = 90
EVERY = 11
"""Tiles between two that are looked at, so that they lie all over a region."""
ROOT = Path(__file__).parents[3]
NAMES = ["conus", "europe", "china", "southamerica"]


def source(
    kind: Kind = "seasonal", chips: int = 4 * PER_REGION * EVERY, seed: int = 0, classes: bool = False
) -> SarSource:
    return SarSource(
        SyntheticConfig(out="", chips=chips, seed=seed, sar=kind, chip_size=SIZE_PX, pixel_classes=classes)
    )


def read(of: SarSource, table: pa.Table) -> list[Raw]:
    raws = [raw for raw in of.read(table) if isinstance(raw, Raw)]
    assert len(raws) == table.num_rows
    return raws


def checksums(of: SarSource, table: pa.Table) -> list[int]:
    return [chip_checksum(raw.image, np.zeros((0, 0), np.float32)) for raw in read(of, table)]


@pytest.fixture(scope="module", params=KINDS)
def means(request: pytest.FixtureRequest) -> tuple[Kind, NDArray[np.float64], NDArray[np.float64]]:
    """Band means (regions, tiles, bands) and tree cover in % (regions, tiles), all over each region."""
    of = source(request.param)
    table = of.candidates().table
    found, cover = [], []
    for region in range(4):
        raws = read(of, table.take(np.arange(PER_REGION) * 4 * EVERY + region))
        found.append([raw.image.mean((1, 2), np.float64) for raw in raws])
        cover.append([raw.attributes["tree_percent"] for raw in raws])
    return request.param, np.array(found), np.array(cover, np.float64)


def spearman(left_N: NDArray[np.float64], right_N: NDArray[np.float64]) -> float:
    ranks = [np.argsort(np.argsort(values_N)) for values_N in (left_N, right_N)]
    return float(np.corrcoef(*ranks)[0, 1])


def uniform(land: Land, class_number: int, cover: float) -> Land:
    """The same tile, flat, with one cover and one parcel."""
    flat_HW = np.zeros_like(land.cover_HW)
    return replace(
        land,
        cover_HW=flat_HW + np.float32(cover),
        class_HW=np.full_like(land.class_HW, class_number),
        parcel_HW=np.zeros_like(land.parcel_HW),
        slope_east_HW=flat_HW,
        slope_south_HW=flat_HW,
    )


def test_backscatter_rises_and_coherence_falls_with_tree_cover_in_each_region(
    means: tuple[Kind, NDArray[np.float64], NDArray[np.float64]],
) -> None:
    kind, mean_RNC, cover_RN = means
    for region in range(4):
        found = [spearman(mean_N, cover_RN[region]) for mean_N in mean_RNC[region].T]
        if kind == "seasonal":
            summer = [sar_backscatter.BANDS.index(band) for band in ("vv_summer", "vh_summer")]
            assert min(found[band] for band in summer) > 0.5, NAMES[region]
            assert min(found) > 0.2, NAMES[region]
        else:
            assert max(found) < -0.4, NAMES[region]
            assert np.mean(found) < -0.6, NAMES[region]


def test_one_band_does_not_tell_the_cover_exactly(
    means: tuple[Kind, NDArray[np.float64], NDArray[np.float64]],
) -> None:
    """Moisture, roughness, incidence and gain move a tile's level besides."""
    kind, mean_RNC, cover_RN = means
    for region in range(4):
        for mean_N in mean_RNC[region].T:
            line = np.polynomial.Polynomial.fit(cover_RN[region], mean_N, 2)
            left = mean_N - line(cover_RN[region])
            assert left.std() > (0.3 if kind == "seasonal" else 0.01), NAMES[region]


def test_regions_are_told_apart_by_band_means_alone(
    means: tuple[Kind, NDArray[np.float64], NDArray[np.float64]],
) -> None:
    """The nearest centroid, in deviations within a region, of every other tile tells the rest."""
    _, mean_RNC, _ = means
    known_RNC, asked_RNC = mean_RNC[:, ::2], mean_RNC[:, 1::2]
    within_CC = np.mean([np.cov(known_NC.T) for known_NC in known_RNC], axis=0)
    apart_RNKC = asked_RNC[:, :, None] - known_RNC.mean(1)
    distance_RNK = np.einsum("rnkc,cd,rnkd->rnk", apart_RNKC, np.linalg.inv(within_CC), apart_RNKC)
    assert np.mean(distance_RNK.argmin(2) == np.arange(4)[:, None]) > 0.9


@pytest.mark.parametrize("looks", [4.4, sar_backscatter.LOOKS])
def test_a_uniform_target_has_the_equivalent_number_of_looks_that_was_asked(looks: float) -> None:
    land = uniform(land_of(TilePlace(0, 1, 2, 3), 96), sar_regions.TREES, 0.7)
    power_CHW = 10 ** (sar_backscatter.backscatter_db(land, looks).astype(np.float64) / 10)
    found_C = power_CHW.mean((1, 2)) ** 2 / power_CHW.var((1, 2))
    # 9,216 pixels give it to 1.5 %.
    assert found_C == pytest.approx(looks, rel=0.07)
    correlations = np.corrcoef(power_CHW.reshape(8, -1))
    assert np.abs(correlations - np.eye(8)).max() < 0.05  # each band has a speckle of its own


@pytest.mark.parametrize(("true", "looks"), [(0.0, 5), (0.3, 5), (0.8, 12)])
def test_coherence_is_estimated_as_from_that_many_looks(true: float, looks: int) -> None:
    rng = np.random.default_rng(0)
    num = 20_000
    drawn_N = sar_coherence.estimated(np.full(num, true, np.float32), looks, rng)
    # The estimator itself, on looks of two images with that coherence.
    real, imaginary = rng.standard_normal((2, 2, num, looks))
    first, other = real + 1j * imaginary
    second = true * first + np.sqrt(1 - true**2) * other
    product_N = np.abs((first * second.conj()).sum(1))
    measured_N = product_N / np.sqrt((np.abs(first) ** 2).sum(1) * (np.abs(second) ** 2).sum(1))
    shares = [0.02, 0.25, 0.5, 0.75, 0.98]
    assert np.quantile(drawn_N, shares) == pytest.approx(np.quantile(measured_N, shares), abs=0.012)
    if true < 0.5:
        assert drawn_N.mean() > true + 0.05  # biased upwards


def test_estimates_are_less_biased_with_more_looks() -> None:
    rng = np.random.default_rng(0)
    means = [sar_coherence.estimated(np.zeros(5_000, np.float32), looks, rng).mean() for looks in (4, 16, 64)]
    # Touzi et al. 1999, without coherence: Gamma(L) Gamma(3/2) / Gamma(L + 1/2), nearly sqrt(pi / 4 L).
    assert means == pytest.approx([np.sqrt(np.pi / 4 / looks) for looks in (4, 16, 64)], rel=0.05)


def test_water_and_towns_have_the_coherence_of_their_kind() -> None:
    place = TilePlace(0, 0, 1, 1)
    land = land_of(place, SIZE_PX)
    town_CHW = sar_coherence.coherence(uniform(land, sar_regions.BUILT, 0), place)
    water_CHW = sar_coherence.coherence(uniform(land, sar_regions.WATER, 0), place)
    assert town_CHW.mean() == pytest.approx(0.85, abs=0.02)
    assert water_CHW.mean() == pytest.approx(np.sqrt(np.pi / 4 / sar_coherence.LOOKS), rel=0.15)


def test_coherence_has_true_pixels_of_93_m() -> None:
    raw = read(source("coherence"), source("coherence").candidates().table.slice(40, 1))[0]
    steps = np.abs(np.diff(raw.image, axis=2)).max((0, 1)) > 0
    assert np.count_nonzero(steps) in (3, 4)  # borders within 320 m
    assert set(np.diff(np.flatnonzero(steps))) <= {9, 10}


def test_slopes_that_face_the_radar_are_brighter() -> None:
    land = uniform(land_of(TilePlace(0, 2, 0, 0), SIZE_PX), sar_regions.TREES, 0.8)
    found = []
    for rise in (-0.3, 0.0, 0.3, 5.0):  # the radar stands in the west
        tilted = replace(land, slope_east_HW=np.full_like(land.cover_HW, rise))
        found.append(sar_backscatter.backscatter_db(tilted).mean())
    assert found[0] + 1 < found[1] < found[2] - 1
    assert found[3] < found[1] + 12  # ground that lies over ground is at most ten times as bright


def test_bare_soil_is_brighter_if_wet_rough_or_seen_from_above() -> None:
    dry, wet, rough = (
        np.ravel(
            sar_backscatter.soil_power(np.array([[moisture]], np.float32), np.array([roughness], np.float32))
        )
        for moisture, roughness in ((0.1, 0.5), (0.3, 0.5), (0.1, 1.0))
    )
    steep, flat = (
        np.ravel(sar_backscatter.soil_angles(np.array([[np.cos(np.radians(angle))]], np.float32)))
        for angle in (30, 45)
    )
    assert (wet > 1.5 * dry).all()
    assert (rough > 1.3 * dry).all()
    assert (steep > flat).all()
    # The range of bare fields in C-band, in decibels.
    assert -17 < 10 * np.log10(dry * steep)[0] < 10 * np.log10(wet * steep)[0] < -6


def test_a_tile_is_the_same_in_any_order_and_grouping_and_in_another_process() -> None:
    for kind in KINDS:
        of = source(kind, 40)
        table = of.candidates().table
        known = checksums(of, table)
        assert len(set(known)) == 40
        order = np.random.default_rng(0).permutation(40)
        assert checksums(of, table.take(order)) == [known[row] for row in order]
        assert [checksums(of, table.slice(row, 1))[0] for row in range(5)] == known[:5]
    sent = pickle.dumps((of, table.take([7, 30, 6])))
    code = (
        "import pickle, sys, numpy as np; from shards.storage.checksum import chip_checksum;"
        "of, table = pickle.load(sys.stdin.buffer);"
        "print(*[chip_checksum(raw.image, np.zeros((0, 0), np.float32)) for raw in of.read(table)])"
    )
    told = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True, cwd=ROOT)
    assert [int(word) for word in told.stdout.split()] == [known[row] for row in (7, 30, 6)]


def test_another_seed_is_another_world() -> None:
    one, other = (source(seed=seed) for seed in (0, 1))
    rows = np.arange(PER_REGION) * 4 * EVERY
    raws = [read(of, of.candidates().table.take(rows)) for of in (one, other)]
    assert not any(np.array_equal(a.image, b.image) for a, b in zip(*raws, strict=True))
    cover = [np.array([raw.attributes["tree_percent"] for raw in part], np.float64) for part in raws]
    assert abs(spearman(*cover)) < 0.4
    keys = [set(of.candidates().table["key"].to_pylist()) for of in (one, other)]
    assert not keys[0] & keys[1]


def test_both_kinds_show_the_same_land() -> None:
    seasonal, coherent = (source(kind, 24) for kind in KINDS)
    tables = [of.candidates().table for of in (seasonal, coherent)]
    assert tables[0].equals(tables[1])
    raws = zip(read(seasonal, tables[0]), read(coherent, tables[1]), strict=True)
    assert all(a.attributes == b.attributes for a, b in raws)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tile_is_as_the_schema_says_and_nothing_is_missing(kind: Kind) -> None:
    of = source(kind, 40)
    bands = {
        "seasonal": "vv_spring vh_spring vv_summer vh_summer vv_autumn vh_autumn vv_winter vh_winter",
        "coherence": "coh12_spring coh24_spring coh12_summer coh24_summer "
        "coh12_autumn coh24_autumn coh12_winter coh24_winter",
    }
    assert of.schema.bands == tuple(bands[kind].split())
    assert (of.schema.dtype, of.schema.nodata, of.schema.pixel_size, of.schema.label) == (
        "float32",
        None,
        10,
        "",
    )
    low, high = (-32, 10) if kind == "seasonal" else (0, 1)
    for raw in read(of, of.candidates().table):
        assert raw.image.shape == of.schema.image_shape
        assert raw.image.dtype == np.float32
        assert raw.image.flags.c_contiguous
        assert raw.height is None
        assert low <= raw.image.min() < raw.image.max() <= high  # false for NaN


def test_the_labels_of_a_tile_are_those_of_its_pixels() -> None:
    of = source("seasonal", 200, classes=True)
    assert (of.schema.label, of.schema.label_unit) == ("land_cover", "")
    table = of.candidates().table
    columns = [table[name].to_pylist() for name in ("_region", "_row", "_column")]
    covers, classes = [], set()
    for raw, place in zip(read(of, table), zip(*columns, strict=True), strict=True):
        land = land_of(TilePlace(0, *place), SIZE_PX)
        assert land.cover_HW.min() >= 0
        assert land.cover_HW.max() <= 1
        assert raw.attributes["tree_percent"] == pytest.approx(100 * land.cover_HW.mean(), abs=1e-3)
        covers.append(land.cover_HW.mean())
        assert raw.height is not None
        assert np.array_equal(raw.height, land.class_HW)
        assert np.array_equal(raw.height == 1, land.cover_HW >= 0.5)
        values, counts = np.unique(raw.height, return_counts=True)
        assert raw.attributes["land_cover"] == values[counts.argmax()]
        classes |= set(values.tolist())
    assert classes == set(sar_regions.LAND_COVER.values()) == {1, 2, 3, 4, 5}
    assert np.std(covers) > 0.1


def test_neighbours_are_more_alike_than_tiles_far_apart() -> None:
    side = 24
    cover_RC = np.array(
        [
            [land_of(TilePlace(3, 0, row, 3 * column), 16).tree_percent for column in range(side)]
            for row in range(side)
        ]
    )
    near = np.corrcoef(cover_RC[1:].ravel(), cover_RC[:-1].ravel())[0, 1]
    far = np.corrcoef(cover_RC[:, 8:].ravel(), cover_RC[:, :-8].ravel())[0, 1]
    assert near > 0.5
    assert near > far + 0.3


def test_tiles_lie_side_by_side_in_a_square_per_region() -> None:
    count = 4 * 50 + 2
    table = source(chips=count).candidates().table
    assert [table["region"].to_pylist().count(name) for name in NAMES] == [51, 51, 50, 50]
    crs = dict(zip(table["region"].to_pylist(), table["crs"].to_pylist(), strict=True))
    assert crs == dict(zip(NAMES, ["EPSG:5070", "EPSG:3035", "EPSG:32650", "EPSG:32722"], strict=True))
    for name in NAMES:
        of_region = table.filter(pc.equal(table["region"], name))
        corners = np.c_[of_region["x"].to_numpy(), of_region["y"].to_numpy()] / (10 * SIZE_PX)
        corners -= corners.min(0)
        assert np.array_equal(corners, np.rint(corners))
        assert len(np.unique(corners, axis=0)) == of_region.num_rows
        assert np.ptp(corners, axis=0).tolist() in ([7, 6], [7, 7], [6, 7])
    rows, columns = places_in_square(np.arange(49))
    assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == 49
    assert rows.max() == columns.max() == 6


def test_more_tiles_begin_with_the_fewer_and_keys_are_valid() -> None:
    more = source(chips=500).candidates().table
    assert source(chips=123).candidates().table.equals(more.slice(0, 123))
    keys = more["key"].to_pylist()
    assert len(set(keys)) == 500
    assert all(map(is_valid, keys))


def test_the_command_makes_a_dataset_whose_index_has_every_label(tmp_path: Path) -> None:
    arguments = ("ingest", "synthetic", "--sar", "seasonal", "--chips", "30", "--chip-size", "16")
    done = treeline(*arguments, "--pixel-classes", "--shard-chips", "7", "--out", "a", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--key-pattern" not in done.stdout
    again = treeline(*arguments, "--pixel-classes", "--shard-chips", "30", "--out", "b", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    tables = []
    for name in "ab":
        assert open_dataset(str(tmp_path / name)).manifest.schema.label == "land_cover"
        table = pq.read_table(tmp_path / name / "index.parquet").sort_by("key")
        assert table.num_rows == 30  # no class is too low
        for column in ("region", "tree_percent", "land_cover"):
            assert table[column].null_count == 0
        assert pc.min(table["tree_percent"]).as_py() >= 0
        assert pc.max(table["tree_percent"]).as_py() <= 100
        tables.append(table.select(["key", "xxh3", "region", "tree_percent", "land_cover"]))
    assert tables[0].equals(tables[1])
    assert treeline("verify", "a", folder=tmp_path).returncode == 0


def test_options_of_sar_do_not_change_what_began_before_them() -> None:
    asked = request_of(SyntheticConfig(out="", chips=5))["config"]
    assert not asked.keys() & {"sar", "regions", "chip_size", "pixel_classes"}
    assert request_of(SyntheticConfig(out="", chips=5, sar="coherence"))["config"]["sar"] == "coherence"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--sar seasonal --regions 0", "--regions 0: give a number from 1 to 4"),
        ("--sar seasonal --regions 5", "--regions 5: give a number from 1 to 4"),
        ("--sar seasonal --chip-size 0", "--chip-size 0: give"),
        ("--sar coherence --chip-size 15", "--chip-size 15: give 16"),
        ("--sar coherence --seed -1", "--seed -1: give 0 or more"),
        ("--sar seasonal --chips 0", "--chips 0: give"),
        ("--sar seasonal --min-height 3", "--min-height 3: SAR tiles have no heights"),
        ("--sar seasonal --registration", "--registration: does nothing with --sar seasonal"),
        ("--regions 2", "--regions: does nothing without --sar"),
        ("--chip-size 32", "--chip-size: does nothing without --sar"),
        ("--pixel-classes", "--pixel-classes: does nothing without --sar"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(options: str, said: str, tmp_path: Path) -> None:
    arguments = ["--chips", "8", *options.split()] if "--chips" not in options else options.split()
    done = treeline("ingest", "synthetic", *arguments, "--out", "tiles", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"treeline: {said}")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
