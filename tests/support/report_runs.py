"""Maker of a small run with all that train, evaluate and predict leave, for the tests of its report."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from in_process import treeline
from rasterio.transform import from_origin
from regressors import CHIP_SCHEMA, CRS, NODATA, small_config, visible_chip, write_scene

from shards.format.key import split_of
from shards.format.sealed import SEAL
from shards.read.dataset import Dataset, open_dataset
from shards.write.writer import DatasetWriter
from trainer.commands.train import train
from trainer.devices.ranks import Ranks

SIDE = 64
"""Side of a chip on the ground, in metres."""


@dataclass(frozen=True)
class Run:
    """A run, its scores and maps; all tests only read it."""

    folder: Path
    dataset: Dataset
    map: Path
    scene: Path
    heights: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def evaluation(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / "evaluation" / "evaluation.json").read_text())
        del found[SEAL]  # a test that changes an entry writes the file as an earlier version did
        return found


def write_chips(folder: Path, count: int = 90) -> Dataset:
    """Chips side by side, in rows of ten; about a third is held out."""
    with DatasetWriter(str(folder), CHIP_SCHEMA, {"treeline": "test"}, 10) as writer:
        for number in range(count):
            chip = replace(
                visible_chip(number),
                x=200_000.0 + SIDE * (number % 10),
                y=1_700_000.0 - SIDE * (number // 10),
                crs=CRS,
                source=f"lidar {number % 2}",
                scene=f"scene {number % 3}",
            )
            writer.add(chip, split_of(chip.key, 0.4))
        writer.finish()
    return open_dataset(str(folder))


def make_run(folder: Path, backbone: Path) -> Run:
    """Train, evaluate and predict below `folder`."""
    dataset = write_chips(folder / "chips")
    run = str(folder / "run")
    train(small_config(dataset, backbone, run, epochs=3), Ranks())
    said = treeline("evaluate", "--checkpoint", run, "--data", dataset.url, "--out", f"{run}/evaluation")
    assert said.returncode == 0, said.stderr
    image_CHW = np.concatenate(
        [
            np.concatenate([visible_chip(3 * row + column).image_CHW for column in range(3)], axis=2)
            for row in range(3)
        ],
        axis=1,
    )
    scene = write_scene(folder / "scene.tif", image_CHW)
    said = treeline(
        "predict", str(scene), "--checkpoint", run, "--out", str(folder / "maps"), "--window", "32"
    )
    assert said.returncode == 0, said.stderr
    (height_map,) = (folder / "maps").glob("*.chm.tif")
    return Run(folder, dataset, height_map, scene, _write_heights(folder / "heights.tif", height_map))


def _write_heights(path: Path, height_map: Path) -> Path:
    """Heights of 1 m pixels on the left two thirds of the map, in centimetres."""
    with rasterio.open(height_map) as raster:
        metres_HW = raster.read(1) * 0.1 + 1
        left, top = raster.bounds.left, raster.bounds.top
    fine_HW = np.rint(metres_HW[:, :64] * 100).astype(np.int16).repeat(2, 0).repeat(2, 1)
    rows, columns = fine_HW.shape
    place = {"crs": CRS, "transform": from_origin(left, top, 1, 1), "nodata": NODATA}
    with rasterio.open(
        path, "w", driver="GTiff", dtype="int16", count=1, height=rows, width=columns, **place
    ) as raster:
        raster.write(fine_HW, 1)
        raster.units = ["cm"]
    return path
