"""`treeline ingest labels`: what rasters show on the chips' ground becomes a column of the index.

- on an aligned grid labels are those of a loop over pixels; in another CRS they are nearly the same
- missing stays missing: nodata, values beyond --valid, ground without a raster, chips without a position
- water (200) counts as 0 only where that is asked for
- shards keep their bytes, `verify` passes; whatever stops it, the old or the new dataset is whole
- what is added, split or converted later keeps the column; --where of a dataset takes it
- a mistake is one line, and changes nothing
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import rasterio
from in_process import treeline
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import calculate_default_transform, reproject

import shards.write.assembly
from ingest.config import LabelsConfig
from ingest.labels.footprint import LabelRule
from ingest.labels.run import label_chips
from shards.commands.convert import convert
from shards.commands.resplit import resplit
from shards.commands.verify import verify
from shards.config import ConvertConfig, SplitConfig, VerifyConfig
from shards.errors import DatasetError, InputError
from shards.format.manifest import INDEX, read_manifest
from shards.format.schema import Schema
from shards.raster.grid import Grid
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import find_files, join, publish, read_bytes
from shards.write.change import parquet_bytes, publish_change
from shards.write.writer import DatasetWriter

UTM, DEGREES, ALBERS = CRS.from_epsg(32606), CRS.from_epsg(4326), CRS.from_epsg(3338)
PIXEL, SIZE, ACROSS = 10.0, 16, 5
"""Metres of a pixel, pixels of a chip, chips in a row and in a column."""
OWN = Grid(UTM, Affine(PIXEL, 0, 500_000, 0, -PIXEL, 7_200_000), SIZE * ACROSS, SIZE * ACROSS)
SCHEMA = Schema(("vv",), "float32", None, SIZE, PIXEL, "", "")
WATER, FILL = 200, 253
"""Values in MOD44B, whose percentages are 0 to 100 (user guide of MODIS VCF, Collection 6)."""


def write(path: Path, values_HW: NDArray[Any], grid: Grid = OWN, nodata: float | None = None) -> str:
    profile = {"crs": grid.crs, "transform": grid.transform, "height": grid.height, "width": grid.width}
    dtype = values_HW.dtype
    with rasterio.open(path, "w", "GTiff", count=1, dtype=dtype, nodata=nodata, **profile) as raster:
        raster.write(values_HW, 1)
    return str(path)


def percent(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Tree cover on OWN: a lake in one corner, fill in another, holes everywhere but in the middle chip."""
    percent_HW = rng.integers(0, 101, (OWN.height, OWN.width)).astype(np.uint8)
    holes_HW = rng.random(percent_HW.shape) < 0.1
    holes_HW[2 * SIZE : 3 * SIZE, 2 * SIZE : 3 * SIZE] = False
    percent_HW[holes_HW] = FILL
    percent_HW[: SIZE + 3, : 2 * SIZE] = WATER
    percent_HW[-SIZE - 5 :, -2 * SIZE - 7 :] = FILL
    return percent_HW


@pytest.fixture
def cover() -> NDArray[np.uint8]:
    return percent(np.random.default_rng(3))


@pytest.fixture
def make(new_chip: Callable[..., Any], tmp_path: Path) -> Callable[..., Dataset]:
    """make(url): chips that cover OWN, row by row, then one without a position, in shards of four."""

    def made(url: Path | str = tmp_path / "chips") -> Dataset:
        with DatasetWriter(
            str(url), SCHEMA, {"treeline": "test"}, 4, attributes={"plot": "string"}
        ) as writer:
            for number in range(ACROSS**2 + 1):
                row, column = divmod(number, ACROSS)
                x, y = OWN.transform @ ((column + 0.5) * SIZE, (row + 0.5) * SIZE)
                known = {"x": x, "y": y, "crs": "EPSG:32606"} if number < ACROSS**2 else {}
                chip = replace(new_chip(number, SCHEMA), attributes={"plot": f"p{number % 3}"}, **known)
                writer.add(chip, "val" if number % 4 == 0 else "train")
            writer.finish()
        return open_dataset(str(url))

    return made


def label(url: Path | str, *rasters: str, column: str = "tree_percent", **options: Any) -> Dataset:
    if not {"mean", "majority"} & options.keys():
        options["mean"] = True
    label_chips(LabelsConfig(data=str(url), raster=rasters, column=column, **options))
    return open_dataset(str(url))


def contents(url: Path | str) -> dict[str, bytes]:
    return {name: read_bytes(join(str(url), name)) for name in find_files(str(url))}


def numbers_of(dataset: Dataset) -> list[int]:
    """The numbers that the chips were made with, in the index's order."""
    return [int(key[-15:-10]) for key in dataset.index["key"].to_pylist()]


def by_number(dataset: Dataset, column: str = "tree_percent") -> list[Any]:
    """The column by the chips' numbers."""
    values = dict(zip(numbers_of(dataset), dataset.index[column].to_pylist(), strict=True))
    return [values[number] for number in range(len(values))]


def chips_of(value_HW: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The chips of an array on OWN, row by row."""
    for number in range(ACROSS**2):
        row, column = (SIZE * place for place in divmod(number, ACROSS))
        yield value_HW[row : row + SIZE, column : column + SIZE]


def expected_labels(
    value_HW: NDArray[np.float64], most: Callable[[NDArray[Any]], Any], least: float = 0.5
) -> list[Any]:
    """Labels by a loop over chips; NaN marks pixels without a value."""
    found: list[Any] = []
    for chip_HW in chips_of(value_HW):
        chip_N = chip_HW.ravel()
        known_N = chip_N[np.isfinite(chip_N)]
        enough = known_N.size and known_N.size / chip_N.size >= least
        found.append(most(known_N) if enough else None)
    return [*found, None]


def counted(cover_HW: NDArray[np.uint8], *, water: float = np.nan) -> NDArray[np.float64]:
    value_HW = cover_HW.astype(np.float64)
    value_HW[cover_HW == WATER] = water
    value_HW[cover_HW == FILL] = np.nan
    return value_HW


def lowest_majority(values: NDArray[Any]) -> int:
    count_of = Counter(values.astype(int).tolist())
    return min(count_of, key=lambda number: (-count_of[number], number))


@pytest.mark.parametrize("least", [0.0, 0.3, 0.5, 1.0])
def test_on_an_aligned_grid_labels_are_those_of_a_loop(
    make: Callable[..., Dataset], cover: NDArray[np.uint8], tmp_path: Path, least: float
) -> None:
    made = make()
    raster = write(tmp_path / "cover.tif", cover, nodata=FILL)
    classes = write(tmp_path / "classes.tif", (cover % 7).astype(np.int16))
    only = {"valid": (0.0, 100.0), "least_covered": least}
    dataset = label(made.url, raster, **only)
    dataset = label(made.url, raster, column="with lakes", as_zero=(float(WATER),), **only)
    dataset = label(made.url, classes, column="class", majority=True, least_covered=least)
    dry, wet = (expected_labels(counted(cover, water=water), np.mean, least) for water in (np.nan, 0.0))
    for column, expected in {"tree_percent": dry, "with lakes": wet}.items():
        found = by_number(dataset, column)
        assert [value is None for value in found] == [value is None for value in expected]
        np.testing.assert_allclose(
            [value for value in found if value is not None],
            [value for value in expected if value is not None],
            rtol=1e-12,
        )
    assert by_number(dataset, "class") == expected_labels((cover % 7).astype(float), lowest_majority, least)
    assert (dry[0], wet[0]) == (None, 0.0), "a chip of water has no label, or 0 where that was asked for"
    if least:
        assert None in wet[:-1], "fill is missing, never 0"
    assert dataset.manifest.attributes == {
        "plot": "string",
        "tree_percent": "float64",
        "with lakes": "float64",
        "class": "int64",
    }
    assert dataset.manifest.labels["class"]["config"]["majority"]
    assert verify(VerifyConfig(made.url)) == []


def test_water_counts_as_any_value_unless_valid_leaves_it_out(
    make: Callable[..., Dataset], cover: NDArray[np.uint8], tmp_path: Path
) -> None:
    raster = write(tmp_path / "cover.tif", cover, nodata=FILL)
    dataset = label(make().url, raster)
    assert by_number(dataset)[0] == WATER
    # As nodata of the raster it is missing, and still 0 where asked for.
    raster = write(tmp_path / "lakes.tif", cover, nodata=WATER)
    dataset = label(dataset.url, raster, column="dry", valid=(0, 100))
    dataset = label(dataset.url, raster, column="wet", as_zero=(WATER, FILL))
    assert (by_number(dataset, "dry")[0], by_number(dataset, "wet")[0]) == (None, 0)
    assert by_number(dataset, "wet")[ACROSS**2 - 1] == 0


@pytest.mark.parametrize("crs", [ALBERS, DEGREES], ids=["albers", "degrees"])
@pytest.mark.parametrize("finer", [4.0, 0.5])
def test_in_another_crs_it_is_nearly_the_same(
    make: Callable[..., Dataset], tmp_path: Path, crs: CRS, finer: float
) -> None:
    """A smooth surface and large fields; pixels of a quarter and of twice the chips' own."""
    wide = Grid(UTM, OWN.transform @ Affine.translation(-40, -40), OWN.height + 80, OWN.width + 80)
    row_HW, column_HW = np.mgrid[: wide.height, : wide.width]
    smooth_HW = (50 + 30 * np.sin(row_HW / 23) + 20 * np.cos(column_HW / 31)).astype(np.float32)
    field_HW = (1 + (row_HW // 37 + 3 * (column_HW // 41)) % 5).astype(np.float32)
    transform, width, height = calculate_default_transform(UTM, crs, wide.width, wide.height, *wide.bounds)
    there = Grid(crs, transform @ Affine.scale(1 / finer), int(height * finer), int(width * finer))
    url = make().url
    for column, value_HW, options in (
        ("smooth", smooth_HW, {"mean": True}),
        ("field", field_HW, {"majority": True}),
    ):
        moved_HW = np.full((there.height, there.width), np.nan, np.float32)
        rule = Resampling.bilinear if column == "smooth" else Resampling.nearest
        reproject(
            value_HW, moved_HW, src_transform=wide.transform, src_crs=UTM, dst_transform=there.transform,
            dst_crs=crs, dst_nodata=np.nan, resampling=rule,
        )  # fmt: skip
        label(url, write(tmp_path / "own.tif", value_HW, wide), column=column, **options)
        moved = write(tmp_path / "moved.tif", moved_HW, there, nodata=np.nan)
        dataset = label(url, moved, column=f"{column} moved", **options)
        pairs = list(zip(by_number(dataset, column), by_number(dataset, f"{column} moved"), strict=True))[:-1]
        if column == "smooth":
            assert max(abs(own - there) for own, there in pairs) < 0.3
            assert np.std([own for own, _ in pairs]) > 10
        else:
            inner_HW = field_HW[40:-40, 40:-40]
            shares = [[(chip_HW == number).mean() for number in range(6)] for chip_HW in chips_of(inner_HW)]
            assert all(
                share[there] > max(share) - 0.2 for share, (_, there) in zip(shares, pairs, strict=True)
            )
            assert sum(own == there for own, there in pairs) >= 0.75 * len(pairs)


def test_tiles_of_rasters_are_as_one_and_the_first_that_has_a_value_counts(
    make: Callable[..., Dataset], cover: NDArray[np.uint8], tmp_path: Path
) -> None:
    """Cut through the middle of chips; a worse raster below fills what is missing."""
    url = make().url
    whole = by_number(label(url, write(tmp_path / "whole.tif", cover, nodata=FILL), valid=(0, 100)))
    cut = 2 * SIZE + 5
    (tmp_path / "tiles").mkdir()
    for number, rows in enumerate((slice(0, cut), slice(cut, None))):
        grid = Grid(UTM, OWN.transform @ Affine.translation(0, rows.start), *cover[rows].shape)
        write(tmp_path / "tiles" / f"{number}.tif", cover[rows], grid, FILL)
    tiles = str(tmp_path / "tiles" / "*.tif")
    dataset = label(url, tiles, column="tiles", valid=(0, 100))
    assert by_number(dataset, "tiles") == whole
    below = write(tmp_path / "below.tif", np.full(cover.shape, 77, np.uint8))
    dataset = label(url, tiles, below, column="filled", valid=(0, 100))
    filled_HW = np.where(np.isnan(counted(cover)), 77, counted(cover))
    np.testing.assert_allclose(by_number(dataset, "filled")[:-1], expected_labels(filled_HW, np.mean)[:-1])


def test_it_reads_and_writes_any_storage(
    make: Callable[..., Dataset], cover: NDArray[np.uint8], storage: str, tmp_path: Path
) -> None:
    raster = write(tmp_path / "cover.tif", cover, nodata=FILL)
    expected = by_number(label(make().url, raster, valid=(0, 100)))
    url = f"{storage}/chips"
    make(url)
    if not storage.startswith("memory"):  # where GDAL reads
        publish(f"{storage}/cover/cover.tif", Path(raster).read_bytes())
        raster = f"{storage}/cover/*.tif"
    before = contents(url)
    assert by_number(label(url, raster, valid=(0, 100))) == expected
    after = contents(url)
    assert {name for name in before if name.endswith(".tar") and after[name] == before[name]}
    assert after[INDEX] == after["index.1.parquet"] != before[INDEX]
    assert before.keys() <= after.keys()
    assert after.keys() - before.keys() == {"index.1.parquet"}
    assert verify(VerifyConfig(url)) == []


def test_stopped_anywhere_the_old_or_the_new_dataset_is_whole(
    make: Callable[..., Dataset], cover: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster, base = write(tmp_path / "cover.tif", cover, nodata=FILL), make(tmp_path / "base")

    class Stopped(Exception):
        pass

    seen = []
    for steps in range(3):
        url = tmp_path / f"stop-{steps}"
        shutil.copytree(base.url, url)
        left = [steps]

        def limited(*arguments: Any, left: list[int] = left) -> None:
            if not left[0]:
                raise Stopped
            left[0] -= 1
            publish(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(shards.write.assembly, "publish", limited)
            if steps < 2:
                with pytest.raises(Stopped):
                    label(url, raster)
            else:
                label(url, raster)
        found = open_dataset(str(url))
        seen.append("tree_percent" in found.manifest.attributes)
        assert found.index.num_rows == base.index.num_rows
        assert ("tree_percent" in found.index.column_names) == seen[-1]
        if not seen[-1]:
            assert found.manifest == base.manifest
            label(url, raster)  # the same command goes on
        assert verify(VerifyConfig(str(url))) == []
    assert seen == [False, False, True], "one file, then the manifest"
    assert contents(tmp_path / "stop-0") == contents(tmp_path / "stop-1") == contents(tmp_path / "stop-2")


def test_splits_additions_and_copies_keep_it(
    make: Callable[..., Dataset], cover: NDArray[np.uint8], tmp_path: Path
) -> None:
    raster = write(tmp_path / "cover.tif", cover, nodata=FILL)
    dataset = label(make().url, raster, column="class", valid=(0, 100))
    found = by_number(dataset, "class")
    resplit(SplitConfig(data=dataset.url, shares=(0.5, 0.5)))
    for copy, form in (("zarr", "zarr"), ("tar", "tar")):
        source = dataset.url if form == "zarr" else str(tmp_path / "zarr")
        convert(ConvertConfig(source, form, str(tmp_path / copy)))  # type: ignore[arg-type]
    for url in (dataset.url, str(tmp_path / "zarr"), str(tmp_path / "tar")):
        again = open_dataset(url)
        assert by_number(again, "class") == found
        assert again.manifest.labels == dataset.manifest.labels
        assert verify(VerifyConfig(url)) == []
    # In the copy, other readers see the label; there, too, it can be replaced.
    replaced = label(tmp_path / "tar", raster, column="class", majority=True, replace=True)
    assert replaced.manifest.attributes == {"plot": "string", "class": "int64"}
    assert verify(VerifyConfig(replaced.url)) == []
    assert (
        label(tmp_path / "tar", raster, column="plot", replace=True).manifest.attributes["plot"] == "float64"
    )
    assert verify(VerifyConfig(replaced.url)) == []


def test_verify_still_finds_a_tar_that_says_something_else(
    make: Callable[..., Dataset], cover: NDArray[np.uint8], tmp_path: Path
) -> None:
    """An attribute that a tar has always had is compared as before."""
    dataset = label(make().url, write(tmp_path / "cover.tif", cover))
    index = dataset.index
    place = index.schema.get_field_index("plot")
    other = index.set_column(place, "plot", pa.array(["elsewhere"] * index.num_rows))
    publish_change(dataset.url, read_manifest(dataset.url), {INDEX: parquet_bytes(other)})
    problems = verify(VerifyConfig(dataset.url))
    assert len(problems) == index.num_rows
    assert all("is not what the index says" in problem for problem in problems)


def test_selections_take_the_column_by_its_name(
    make: Callable[..., Dataset], cover: NDArray[np.uint8], tmp_path: Path
) -> None:
    url = make().url
    write(tmp_path / "cover.tif", cover % 3)
    for name, option in (("class", "--majority"), ("tree cover", "--mean")):
        done = treeline("ingest", "labels", url, "--raster", str(tmp_path / "*.tif"), "--as", name, option)
        assert done.returncode == 0, done.stderr
        said, last = done.stdout.splitlines()
        assert last.startswith("next: treeline train ")
        assert f"{name} of {ACROSS**2} chips, " in said
        assert "1 missing (1 without a position)" in done.stdout
        assert f"label: {ACROSS**2 + 1} of {ACROSS**2 + 1} chips" in done.stderr
    dataset = open_dataset(url)
    rows = dataset.index.to_pylist()
    for where, holds in {
        "class == 2": lambda row: row["class"] == 2,
        "`tree cover` > 1 and class in (0, 1)": lambda row: row["tree cover"] > 1 and row["class"] < 2,
    }.items():
        expected = [n for n, row in enumerate(rows) if row["class"] is not None and holds(row)]
        assert 0 < len(expected) < ACROSS**2
        assert dataset.chips("all", where=where).tolist() == expected
    assert dataset.chips("all", where="class is None").size == 1


def test_a_mistake_is_one_line_and_changes_nothing(
    make: Callable[..., Dataset], cover: NDArray[np.uint8], tmp_path: Path
) -> None:
    url = make().url
    raster = write(tmp_path / "cover.tif", cover, nodata=FILL)
    far = write(tmp_path / "far.tif", cover, replace(OWN, transform=Affine(10, 0, 0, 0, -10, 0)))
    half = write(tmp_path / "half.tif", (cover + np.float32(0.5)))
    empty = write(tmp_path / "empty.tif", np.full_like(cover, FILL), nodata=FILL)
    with rasterio.open(tmp_path / "two.tif", "w", **{**rasterio.open(raster).profile, "count": 2}):
        pass
    with rasterio.open(tmp_path / "scaled.tif", "w", **rasterio.open(raster).profile) as scaled:
        scaled.scales = (0.1,)
    waves = write(tmp_path / "waves.tif", cover.astype(np.complex64))
    label(url, raster, column="there")
    before = contents(url)
    mean = ["--raster", raster, "--mean"]
    for arguments, why in {
        (*mean, "--as", "there"): "--as there: .* has this column; choose another name, or give --replace",
        (*mean, "--as", "plot"): "--as plot: ",
        (*mean, "--as", "key"): "--as key: is a name of Treeline's own",
        (*mean, "--as", "_x"): "--as _x: is a name of Treeline's own",
        (*mean, "--as", "shift_row"): "--as shift_row: is a name of Treeline's own",
        (*mean, "--as", ""): "--as : is a name",
        (*mean, "--as", "x2", "--majority"): "--mean or --majority: give one of them",
        ("--raster", raster, "--as", "x2"): "--mean or --majority: give one of them",
        (*mean, "--as", "x2", "--valid", "9", "1"): "--valid 9 1: give the lowest",
        (*mean, "--as", "x2", "--least-covered", "2"): "--least-covered 2: give a share",
        (*mean, "--as", "x2", "--as-zero", "nan"): "--as-zero nan: give numbers",
        ("--raster", far, "--as", "a", "--mean"): r"no chip gets a label \(25 beyond the rasters, 1 without",
        ("--raster", empty, "--as", "a", "--mean"): "25 with too few values.*see --valid and --least-covered",
        ("--raster", half, "--as", "a", "--majority"): "half.tif: has [0-9.]*5, and only whole numbers",
        ("--raster", str(tmp_path / "two.tif"), "--as", "a", "--mean"): "two.tif: has 2 bands",
        ("--raster", waves, "--as", "a", "--mean"): "waves.tif: pixels are complex64",
        ("--raster", str(tmp_path / "scaled.tif"), "--as", "a", "--mean"): "scaled.tif: .*scaled",
        ("--raster", str(tmp_path / "none*.tif"), "--as", "a", "--mean"): "no file matches",
    }.items():
        done = treeline("ingest", "labels", url, *arguments)
        said = [line for line in done.stderr.splitlines() if line.startswith("treeline: ")]
        assert done.returncode == 2, done.stderr
        assert len(said) == 1
        assert re.search(why, said[0]), said[0]
    assert contents(url) == before
    assert verify(VerifyConfig(url)) == []


@pytest.mark.parametrize("majority", [False, True])
def test_rasters_on_any_grid_label_the_same_ground(
    make: Callable[..., Dataset], cover: NDArray[np.uint8], tmp_path: Path, majority: bool
) -> None:
    """Rows from south to north, columns from east to west, and rows for columns: the same pixels."""
    side = SIZE * ACROSS
    upright = by_number(
        label(
            make(tmp_path / "upright").url,
            write(tmp_path / "a.tif", cover),
            mean=not majority,
            majority=majority,
        )
    )
    assert len(set(upright)) > 2
    south_up = OWN.transform @ Affine.translation(0, side) @ Affine.scale(1, -1)
    east_left = OWN.transform @ Affine.translation(side, 0) @ Affine.scale(-1, 1)
    quarter = OWN.transform @ Affine(0, 1, 0, 1, 0, 0)
    for name, grid, values_HW in (
        ("b.tif", south_up, cover[::-1]),
        ("c.tif", east_left, cover[:, ::-1]),
        ("d.tif", quarter, cover.T),
    ):
        raster = write(tmp_path / name, values_HW, replace(OWN, transform=grid))
        assert (
            by_number(label(make(tmp_path / name[0]).url, raster, mean=not majority, majority=majority))
            == upright
        )


def test_rasters_in_two_units_are_not_mixed(
    make: Callable[..., Dataset], cover: NDArray[np.uint8], tmp_path: Path
) -> None:
    paths = [write(tmp_path / f"{name}.tif", cover) for name in ("m", "metre", "foot")]
    for path in paths:
        with rasterio.open(path, "r+") as raster:
            raster.units = (Path(path).stem,)
    with pytest.raises(InputError, match=r"foot\.tif: states its values in 'ft', and .*m\.tif in 'm'"):
        label(make(tmp_path / "both").url, *paths)
    label(make(tmp_path / "one").url, *paths[:2])


def test_the_column_of_a_split_s_regions_is_not_replaced(
    make: Callable[..., Dataset], cover: NDArray[np.uint8], tmp_path: Path
) -> None:
    url = make().url
    raster = write(tmp_path / "cover.tif", cover, nodata=FILL)
    publish_change(url, replace(open_dataset(url).manifest, split_rule={"region_column": "plot"}), {})
    with pytest.raises(InputError, match=r"--as plot: the split of .* goes by this column"):
        label(url, raster, column="plot", replace=True)


def test_chips_without_any_position_or_in_degrees_are_refused(
    new_chip: Callable[..., Any], cover: NDArray[np.uint8], tmp_path: Path
) -> None:
    raster = write(tmp_path / "cover.tif", cover)
    for name, known, why in (
        ("nowhere", {}, r"no chip gets a label \(1 without a position\).*get positions from a table"),
        ("degrees", {"x": -147.0, "y": 65.0, "crs": "EPSG:4326"}, "positions in degrees"),
        ("unknown", {"x": 0.0, "y": 0.0, "crs": "EPSG:1"}, "'EPSG:1' is no known CRS"),
    ):
        with DatasetWriter(str(tmp_path / name), SCHEMA, {}) as writer:
            writer.add(replace(new_chip(0, SCHEMA), **known), "train")
            writer.finish()
        with pytest.raises(InputError, match=why):
            label(tmp_path / name, raster)


def test_a_manifest_without_labels_has_the_bytes_of_before(make: Callable[..., Dataset]) -> None:
    dataset = make()
    stored = json.loads(read_bytes(join(dataset.url, "dataset.json")))
    assert "labels" not in stored
    assert "class_names" not in stored["schema"]
    assert dataset.manifest.labels == {}


def test_a_damaged_raster_is_named(
    make: Callable[..., Dataset], cover: NDArray[np.uint8], tmp_path: Path
) -> None:
    raster = Path(write(tmp_path / "cover.tif", cover))
    raster.write_bytes(raster.read_bytes()[:-3000])
    with pytest.raises((InputError, DatasetError), match=r"cover\.tif: cannot be read"):
        label(make().url, str(raster))


@pytest.mark.parametrize(
    ("values", "rule", "expected"),
    [
        ([[1, 1], [2, np.nan]], LabelRule(True), 1),
        ([[2, 2], [1, 1]], LabelRule(True), 1),
        ([[1, 3], [np.nan, np.nan]], LabelRule(False), 2.0),
        ([[1, np.nan], [np.nan, np.nan]], LabelRule(False), None),
        ([[1, np.nan], [np.nan, np.nan]], LabelRule(False, least_covered=0.25), 1.0),
        ([[np.nan, np.nan]], LabelRule(False, least_covered=0.0), None),
    ],
)
def test_the_label_of_values(values: list[Any], rule: LabelRule, expected: float | None) -> None:
    found = rule.label(np.array(values))
    assert found == expected
    assert isinstance(found, int if rule.majority else float | None)


@pytest.mark.real
def test_real_tiles_beside_their_land_cover_and_vegetation(terramind: Path, tmp_path: Path) -> None:
    """NDVI and land cover lie on the tiles' own pixels, so a loop finds the same."""
    images = str(terramind / "S1RTC" / "*.tif")
    done = treeline(
        *("ingest", "scenes", "--images", images, "--bands", "vv", "vh", "--chip-size", "56"),
        *("--out", "chips", "--min-valid", "0"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    url = str(tmp_path / "chips")
    label(url, str(terramind / "NDVI" / "*.tif"), column="ndvi")
    dataset = label(url, str(terramind / "LULC" / "*.tif"), column="class", majority=True)
    rows = dataset.index.to_pylist()
    assert len(rows) == 5 * 16
    for row in rows:
        scene, *corner = row["key"].rsplit("_", 2)
        top, left = map(int, corner)
        for layer, column, most in (("NDVI", "ndvi", np.mean), ("LULC", "class", lowest_majority)):
            with rasterio.open(terramind / layer / f"{scene}.tif") as raster:
                chip_HW = raster.read(1)[top : top + 56, left : left + 56]
            assert row[column] == pytest.approx(most(chip_HW.ravel()), rel=1e-6)
    assert dataset.chips("all", where="class == 1 and ndvi < 0").size > 0, "water"
    assert verify(VerifyConfig(url)) == []
