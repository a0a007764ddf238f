"""Bytes of decibels with derived bands, from files to a map, by the commands that a user types.

- a dataset to which `split` adds derived bands is the one that was ingested with them, to its counts
- appended chips, copies and checks count derived bands; the commands that made a dataset still complete it
- a regressor on stored and derived bands is trained, scored, and maps a scene that holds the stored ones
- chips and scenes whose bands or values differ are refused in one line that names the band
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from in_process import treeline
from numpy.typing import NDArray
from rasterio.transform import from_origin
from regressors import local_backbone

from shards.format.band_values import values_of
from shards.format.manifest import COUNTS, MANIFEST, STATISTICS
from shards.format.sealed import json_bytes
from shards.format.statistics import Counts, statistics_json
from shards.read.dataset import Dataset, open_dataset
from shards.write.assembly import publish_files, replace_manifest

BANDS = tuple(f"{polarisation}_{season}" for season in ("winter", "summer") for polarisation in ("vv", "vh"))
SUMMER, WINTER = "vv_vh_summer = vv_summer - vh_summer", "vv_vh_winter = vv_winter - vh_winter"
SCALING = ("--scale", "30/255", "--offset", "-30")
INGEST = (
    *("ingest", "pairs", "--images", "images", "--heights", "heights", "--bands", *BANDS, "--dtype", "uint8"),
    *("--nodata", "0", "--chip-size", "32", "--min-valid", "0.5", "--shard-chips", "3"),
)
TRAIN = (
    *("train", "--recipe", "tiny", "--decoder", "linear", "--epochs", "1", "--batch-size", "4"),
    *("--backbone", "backbone", "--bands", "vv_summer", "vv_vh_summer", "vh_winter"),
)
CHIPS = 8


def stored_pixels(number: int, side: int = 32) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Bytes of decibels in the order of BANDS, in which heights show, and the heights; some bytes are 0."""
    rng = np.random.default_rng((14, number))
    height_HW = np.kron(rng.uniform(0.5, 9, (side // 8, side // 8)), np.ones((8, 8))).astype(np.float32)
    level_C = np.array([-11, -18, -10, -17])[:, None, None]
    image_CHW = (
        rng.normal(level_C, 1, (4, side, side)) + np.array([0.1, 0.3, 0.1, 0.5])[:, None, None] * height_HW
    )
    stored_CHW = np.clip(np.rint((image_CHW + 30) * 255 / 30), 1, 255).astype(np.uint8)
    stored_CHW[3, :2, 5:9] = 0
    return stored_CHW, height_HW


def write_pairs(folder: Path, numbers: range) -> None:
    for name in ("images", "heights"):
        (folder / name).mkdir(exist_ok=True, parents=True)
    for number in numbers:
        image_CHW, height_HW = stored_pixels(number)
        np.save(folder / "images" / f"S1_{number}.npy", image_CHW)
        np.save(folder / "heights" / f"S1_{number}.npy", height_HW)


def write_scene(path: Path, image_CHW: NDArray[Any], names: tuple[str, ...] = BANDS, **tags: Any) -> str:
    bands, rows, columns = image_CHW.shape
    profile = {"count": bands, "height": rows, "width": columns, "dtype": image_CHW.dtype, "nodata": 0}
    transform = from_origin(200_000, 1_700_000, 2, 2)
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:3338", transform=transform, **profile) as raster:
        raster.write(image_CHW)
        raster.descriptions = names
        for name, values in tags.items():
            setattr(raster, name, values)
    return str(path)


def run(folder: Path, *words: str) -> str:
    done = treeline(*words, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(folder: Path, *words: str) -> str:
    """The one line of a mistake."""
    done: subprocess.CompletedProcess[str] = treeline(*words, folder=folder)
    assert done.returncode == 2, done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("treeline: ")
    return line


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pairs, their dataset `chips` with two derived bands, a backbone and a trained `run`."""
    folder = tmp_path_factory.mktemp("made")
    write_pairs(folder, range(CHIPS))
    local_backbone(folder / "backbone")
    run(folder, *INGEST, *SCALING, "--derive", SUMMER, WINTER, "--shares", "0.5", "0.5", "--out", "chips")
    run(folder, *TRAIN, "--data", "chips", "--out", "run")
    return folder


def opened(folder: Path, name: str) -> Dataset:
    return open_dataset(str(folder / name))


def counts_of(dataset: Dataset) -> bytes:
    return dataset.manifest.read(dataset.url, COUNTS)


def assert_counts_its_pixels(dataset: Dataset) -> None:
    """What is counted of a derived band are its values in the training chips."""
    schema = dataset.schema
    batch = dataset.gather(dataset.chips("train"))
    values_BCHW = values_of(batch.image_BCHW, schema, schema.all_bands)
    for place, name in enumerate(schema.all_bands):
        present = values_BCHW[:, place][np.isfinite(values_BCHW[:, place])].astype(np.float64)
        summary = dataset.statistics.bands[name]
        assert summary.count == present.size
        assert summary.mean == pytest.approx(present.mean(), rel=1e-3)
        assert summary.std == pytest.approx(present.std(), rel=1e-3)
    counts = Counts.from_bytes(counts_of(dataset))
    assert statistics_json(counts, schema)["bands"].keys() == set(schema.all_bands)


def test_what_is_ingested_counts_derived_bands(made: Path) -> None:
    dataset = opened(made, "chips")
    assert dataset.schema.all_bands == (*BANDS, "vv_vh_summer", "vv_vh_winter")
    assert dataset.schema.scale == (30 / 255,) * 4
    assert_counts_its_pixels(dataset)
    run(made, "verify", "chips")
    assert run(
        made, *INGEST, *SCALING, "--derive", SUMMER, WINTER, "--shares", "0.5", "0.5", "--out", "chips"
    )
    assert opened(made, "chips").manifest == dataset.manifest


@pytest.mark.slow
def test_inspect_says_what_values_are(made: Path, tmp_path: Path) -> None:
    said = run(made, "inspect", "chips", "--chips", "1", "--out", str(tmp_path / "page"))
    assert f"derived     {SUMMER}, {WINTER}" in said
    assert "values      stored * scale + offset, scale 0.1176471 and offset -30\n" in said
    assert re.search(r"\nvv_vh_winter +[\d.]+ ", said)
    assert "vv_vh_winter" in (tmp_path / "page" / "index.html").read_text()


def test_verify_finds_another_count_of_a_derived_band(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "chips", tmp_path / "chips")
    dataset = opened(tmp_path, "chips")
    values = json.loads(dataset.manifest.read(dataset.url, STATISTICS))
    values["bands"]["vv_vh_summer"]["mean"] += 0.5
    # With checksums that are right: only the pixels can tell.
    files = publish_files(dataset.url, {STATISTICS: json_bytes(values)}, 1)
    replace_manifest(
        dataset.url, replace(dataset.manifest, files=dataset.manifest.files | files, generation=1)
    )
    done = treeline("verify", "chips", folder=tmp_path)
    assert done.returncode == 1
    problem, *_ = done.stdout.splitlines()
    assert "is not what the pixels of the training split say" in problem


def test_split_adds_bands_and_leaves_the_rest(made: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path, range(CHIPS))
    shares = ("--shares", "0.5", "0.5")
    run(tmp_path, *INGEST, *shares, "--out", "chips")
    before = opened(tmp_path, "chips")
    plain, index = counts_of(before), before.index
    tars = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "chips").rglob("*.tar")}
    assert SUMMER in run(tmp_path, "split", "chips", "--derive", SUMMER)
    run(tmp_path, "split", "chips", "--derive", SUMMER, WINTER, *SCALING)
    after, whole = opened(tmp_path, "chips"), opened(made, "chips")
    assert after.schema == whole.schema
    assert after.index.equals(index)
    assert after.manifest.splits == before.manifest.splits
    assert after.manifest.split_rule == before.manifest.split_rule
    assert counts_of(after) == counts_of(whole) != plain
    assert after.statistics == whole.statistics
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "chips").rglob("*.tar")} == tars
    run(tmp_path, "verify", "chips")
    # The command that made the dataset finds it complete; a new split keeps the bands, and counts anew.
    assert "is complete already" in run(tmp_path, *INGEST, *shares, "--out", "chips")
    run(tmp_path, "split", "chips", "--shares", "0.25", "0.75")
    again = opened(tmp_path, "chips")
    assert again.schema == whole.schema
    assert again.manifest.splits != whole.manifest.splits
    assert_counts_its_pixels(again)
    run(tmp_path, "split", "chips", "--shares", "0.5", "0.5", "--derive", WINTER)
    assert counts_of(opened(tmp_path, "chips")) == counts_of(whole)


def test_appended_chips_and_copies_have_the_bands(made: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path, range(CHIPS // 2))
    run(tmp_path, *INGEST, "--out", "chips")
    run(tmp_path, "split", "chips", *SCALING, "--derive", SUMMER, WINTER)
    write_pairs(tmp_path, range(CHIPS))
    run(tmp_path, *INGEST, "--append", "--out", "chips")
    grown = opened(tmp_path, "chips")
    assert grown.index.num_rows == CHIPS
    assert grown.schema == opened(made, "chips").schema
    assert_counts_its_pixels(grown)
    run(tmp_path, "verify", "chips")
    run(tmp_path, "convert", "chips", "--to", "zarr", "--out", "zarr")
    copy = opened(tmp_path, "zarr")
    assert (copy.schema, copy.statistics) == (grown.schema, grown.statistics)
    assert counts_of(copy) == counts_of(grown)
    said = refusal(tmp_path, *INGEST, "--append", "--out", "chips", "--derive", "d = vv_summer + vv_winter")
    assert "its chips are" in said


def test_a_dataset_without_these_options_is_as_before(tmp_path: Path) -> None:
    write_pairs(tmp_path, range(2))
    run(tmp_path, *INGEST, "--out", "chips")
    manifest = json.loads((tmp_path / "chips" / MANIFEST).read_text())
    known = {"bands", "dtype", "nodata", "chip_size", "pixel_size", "label", "label_unit"}
    assert manifest["schema"].keys() == known
    dataset = opened(tmp_path, "chips")
    histograms = np.load(tmp_path / "chips" / COUNTS)
    assert len([name for name in histograms.files if name.startswith("0.")]) == len(BANDS) + 1
    assert dataset.statistics.bands["vv_summer"].clamp_min == 0


def test_it_is_trained_scored_and_mapped(made: Path, tmp_path: Path) -> None:
    out = run(made, "evaluate", "--checkpoint", "run", "--data", "chips", "--out", str(tmp_path / "scores"))
    assert "per-pixel linear regression" in out
    scores = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["scores"]
    assert scores["per-pixel linear regression"]["all"]["rmse"] < scores["training mean"]["all"]["rmse"]
    held_out = opened(made, "chips").manifest.samples("val")
    assert scores["regressor"]["all"]["count"] == held_out * (32 * 32 - 2 * 4)
    image_CHW, _ = stored_pixels(99, 64)
    image_CHW[0, 40:44] = 0  # vv_winter is not read
    plain = write_scene(tmp_path / "plain.tif", image_CHW)
    stated = write_scene(tmp_path / "stated.tif", image_CHW, scales=[30 / 255] * 4, offsets=[-30.0] * 4)
    order = [2, 0, 3, 1]
    shuffled = write_scene(
        tmp_path / "shuffled.tif", image_CHW[order], tuple(BANDS[place] for place in order)
    )
    run(made, "predict", plain, stated, shuffled, "--checkpoint", "run", "--out", str(tmp_path / "maps"))
    maps = []
    for name in ("plain", "stated", "shuffled"):
        with rasterio.open(tmp_path / "maps" / f"{name}.chm.tif") as raster:
            maps.append(raster.read(1))
    np.testing.assert_array_equal(maps[0] == -9999, image_CHW[3] == 0)
    assert maps[0].max() > 0
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])


def test_other_scenes_are_refused_by_the_bands_name(made: Path, tmp_path: Path) -> None:
    image_CHW, _ = stored_pixels(99, 64)
    scenes = {
        "named": write_scene(tmp_path / "named.tif", image_CHW, (*BANDS[:3], "vh_autumn")),
        "scaled": write_scene(
            tmp_path / "scaled.tif", image_CHW, scales=[30 / 255] * 3 + [0.1], offsets=[-30.0] * 4
        ),
        "float": write_scene(tmp_path / "float.tif", image_CHW.astype(np.float32)),
    }
    done = treeline(
        "predict", *scenes.values(), "--checkpoint", "run", "--out", str(tmp_path / "maps"), folder=made
    )
    assert done.returncode == 2
    assert "named.tif: lacks band vh_summer" in done.stdout
    assert "scaled.tif: band vh_summer has scale 0.1 and offset -30, not scale 0.1176471" in done.stdout
    assert "float.tif: pixels are float32, not uint8 as in training" in done.stdout


def test_other_chips_are_refused_by_the_bands_name(made: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path, range(4))
    checkpoint = str(made / "run")
    for name, options, said in (
        ("offset", ("--scale", "30/255", "--offset", "-30", "vh_winter=-35"), "band vh_winter with scale"),
        ("scale", ("--offset", "-30"), "band vv_winter with scale 1 and offset -30, not scale 0.1176471"),
        (
            "derive",
            (*SCALING, "--derive", SUMMER.replace(" - ", " + ")),
            "have band vv_vh_summer = vv_summer +",
        ),
        ("bands", ("--bands", *BANDS[:3], "vh_autumn"), "lack band vh_summer and have band vh_autumn"),
    ):
        run(tmp_path, *INGEST, *options, "--out", name)
        line = refusal(tmp_path, "evaluate", "--checkpoint", checkpoint, "--data", name, "--split", "all")
        assert said in line
    # Derived bands follow from the stored ones, whether or not a dataset has counted them.
    run(tmp_path, *INGEST, *SCALING, "--out", "without")
    run(tmp_path, "evaluate", "--checkpoint", checkpoint, "--data", "without", "--split", "all")


def test_training_takes_what_was_counted(made: Path) -> None:
    words = (*TRAIN[: TRAIN.index("--bands")], "--data", "chips", "--out", "other")
    line = refusal(made, *words, "--bands", "vv_summer", "vv_vh_autumn")
    assert "no band vv_vh_autumn: there are vv_winter vh_winter vv_summer vh_summer vv_vh_summer" in line
    assert "treeline split --derive counts others" in line
    assert not (made / "other").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--derive", "vv_summer - vh_summer"), "cannot be read"),
        (("--derive", "d = vv_summer - hv"), "no stored band hv"),
        (("--derive", "vv_summer = vv_winter - vh_winter"), "vv_summer is a stored band"),
        (("--derive", SUMMER, "vv_vh_summer = vv_winter - vh_winter"), "another derived band has that name"),
        (("--scale", "vv_summer=0"), "give a number other than 0"),
        (("--scale", "nan"), "not a number"),
        (("--offset", "hv=-30"), "no stored band hv"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_is_refused_and_nothing_changes(
    options: tuple[str, ...], said: str, made: Path, tmp_path: Path
) -> None:
    before = (made / "chips" / MANIFEST).read_bytes()
    assert said in refusal(made, *INGEST, *options, "--out", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    assert said in refusal(made, "split", "chips", *options)
    assert (made / "chips" / MANIFEST).read_bytes() == before
