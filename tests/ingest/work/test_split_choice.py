"""`ingest scenes` splits as suits its scenes, says so and records it; what began by key goes on by key.

Also: an ingest says whether neighbours of held-out chips are trained on, where it can know.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from in_process import treeline
from rasterio import Affine

from shards.commands.verify import verify
from shards.config import VerifyConfig
from shards.read.dataset import open_dataset

SIDE = 128
"""Pixels of a scene; its chips have 8."""


def write_scene(folder: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    folder.mkdir(exist_ok=True)
    place = Affine(2, 0, 500_000 + 2 * SIDE * number, 0, -2, 7_000_000)
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "crs": "EPSG:32606", "transform": place}
    image_CHW = rng.integers(1, 4000, (4, SIDE, SIDE)).astype(np.int16)
    height_HW = rng.gamma(2, 2, (SIDE, SIDE)).astype(np.float32) + 0.1
    with rasterio.open(folder / f"image_{number}.tif", "w", count=4, dtype="int16", **profile) as file:
        file.write(image_CHW)
    with rasterio.open(folder / f"lidar_{number}.tif", "w", count=1, dtype="float32", **profile) as file:
        file.write(height_HW, 1)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Words of an ingest of two scenes, to which the place for --out is added."""
    for number in range(2):
        write_scene(tmp_path / "scenes", number)
    scenes = str(tmp_path / "scenes")
    command = ["ingest", "scenes", "--images", f"{scenes}/image_*.tif", "--heights", f"{scenes}/lidar_*.tif"]
    return [*command, "--chip-size", "8", "--out"]


def test_two_scenes_are_split_by_blocks_which_is_said_and_kept(command: list[str], tmp_path: Path) -> None:
    out = str(tmp_path / "chips")
    done = treeline(*command, out)
    assert done.returncode == 0, done.stderr
    assert "split (auto): by blocks" in done.stdout
    assert "there are 2 scenes" in done.stdout
    assert "no neighbours of held-out chips are trained on: distances: train-val" in done.stdout
    manifest = open_dataset(out).manifest
    assert (manifest.split_rule["by"], manifest.split_rule["buffer"]) == ("blocks", 16.0)
    assert manifest.made_by["config"]["split_by"] == "auto"
    assert all(manifest.samples(split) for split in ("train", "val", "buffer"))
    assert "is complete already" in treeline(*command, out).stdout


def test_additions_follow_what_was_chosen(command: list[str], tmp_path: Path) -> None:
    out = str(tmp_path / "chips")
    treeline(*command, out)
    before = open_dataset(out)
    first, rule = before.index.to_pylist(), before.manifest.split_rule
    for number in range(2, 6):  # six scenes would be held out whole
        write_scene(tmp_path / "scenes", number)
    done = treeline(*command, out, "--append")
    assert done.returncode == 0, done.stderr
    after = open_dataset(out)
    assert after.manifest.split_rule == rule
    assert after.index.to_pylist()[: len(first)] == first
    assert after.manifest.samples("val") > before.manifest.samples("val")
    assert verify(VerifyConfig(out)) == []
    # Also after another split, which the options of the ingest do not name.
    assert treeline("split", out, "--split-by", "scene", "--shares", "0.5", "0.5").returncode == 0
    write_scene(tmp_path / "scenes", 6)
    assert treeline(*command, out, "--append").returncode == 0
    assert open_dataset(out).manifest.split_rule["by"] == "scene"


def test_what_was_begun_by_key_goes_on_by_key(command: list[str], tmp_path: Path) -> None:
    """It was the default, which an older version recorded like an option that was given."""
    whole, half = tmp_path / "whole", tmp_path / "half"
    assert treeline(*command, str(whole), "--split-by", "key").returncode == 0
    expected = {path.name: path.read_bytes() for path in whole.rglob("*.tar")}
    manifest = json.loads((whole / "dataset.json").read_text())
    (half / ".ingest").mkdir(parents=True)
    plan = {"fingerprint": manifest["made_by"]["plan"], "shards": 2, "attributes": manifest["attributes"]}
    (half / ".ingest" / "plan.json").write_text(json.dumps({**plan, "config": manifest["made_by"]["config"]}))
    done = treeline(*command, str(half))
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in half.rglob("*.tar")} == expected
    assert "is complete already" in treeline(*command, str(whole)).stdout
    assert "note: neighbours of held-out chips are trained on: distances: train-val 0 m" in done.stdout


@pytest.mark.parametrize("has_places", [True, False])
def test_pairs_say_whether_neighbours_are_shared_where_they_can_know(
    tmp_path: Path, has_places: bool
) -> None:
    rng = np.random.default_rng(2)
    rows = ["filename,x,y"]
    for number in range(40):
        (tmp_path / "images").mkdir(exist_ok=True)
        np.save(tmp_path / "images" / f"chip_{number}.npy", rng.integers(1, 99, (4, 8, 8)).astype(np.int16))
        rows.append(f"chip_{number}.npy,{16 * (number % 8)},{16 * (number // 8)}")
    (tmp_path / "chips.csv").write_text("\n".join(rows) + "\n")
    table = ("--table", str(tmp_path / "chips.csv"), "--table-crs", "EPSG:3338") if has_places else ()
    made = ("ingest", "pairs", "--images", str(tmp_path / "images"), "--chip-size", "8", *table)
    done = treeline(*made, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert ("neighbours of held-out chips are trained on" in done.stdout) == has_places
