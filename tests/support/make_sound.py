"""Maker of the sound things: small, and made once."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from in_process import treeline
from rasterio import Affine
from regressors import CRS, TRANSFORM, local_backbone, odd_scene, visible_chip, write_scene
from report_runs import write_chips
from sound_things import FROZEN, INGEST, PRETRAIN, TRAIN

import ingest.work.run
from shards.format.schema import Chip

CHIPS = 16
HALF_DONE = Path(__file__).parents[1] / "whole" / "stored" / "half-done-0.1.0.tar.gz"


def whole_chip(number: int) -> Chip:
    """Return a chip of which no pixel is missing."""
    chip = visible_chip(number)
    chip.height_HW[5:7], chip.image_CHW[:, 20:22] = 1, 1000
    return chip


def make_all(folder: Path) -> Path:
    """Make one of each in `folder`."""
    write_chips(folder / "chips", CHIPS)
    local_backbone(folder / "backbone")
    write_scene(folder / "scene.tif", odd_scene(40, 40))
    _write_rasters(folder)
    for command in (
        "convert chips --to zarr --out zarr",
        f"{TRAIN} --out run",
        "evaluate --checkpoint run --data chips --split val --out run/evaluation",
        "predict scene.tif --checkpoint run --out maps --on-mismatch ignore --stac",
        f"{PRETRAIN} --epochs 1 --out pretrained",
        "embed chips --checkpoint pretrained --out embedded",
        f"{FROZEN} --token-store tokens --out frozen",
    ):
        done = treeline(*command.split(), folder=folder)
        assert done.returncode == 0, (command, done.stderr)
    for run in ("run", "pretrained"):
        # As one that was begun with two epochs, and stopped after the first.
        options = folder / run / "config.yaml"
        options.write_text(options.read_text().replace("epochs: 1\n", "epochs: 2\n"))
    _write_lists(folder / "lists")
    _write_pairs(folder / "pairs")
    _begin_ingest(folder)
    _write_tars(folder / "tars")
    _write_parquet(folder / "parquet")
    with tarfile.open(HALF_DONE) as archive:
        archive.extractall(folder / "begun", filter="data")
    return folder


def _write_rasters(folder: Path) -> None:
    """Write a scene with its heights, and tree cover of the ground of the chips."""
    for name in ("rasters", "cover"):
        (folder / name).mkdir()
    chip = [whole_chip(number) for number in range(4)]
    image_CHW, height_HW = (
        np.concatenate([np.concatenate(row, axis=-1) for row in (many[:2], many[2:])], axis=-2)
        for many in ([one.image_CHW for one in chip], [one.height_HW for one in chip])
    )
    write_scene(folder / "rasters" / "scene.tif", image_CHW)
    write_scene(folder / "rasters" / "heights.tif", height_HW[None], nodata=float("nan"))
    cover_HW = np.random.default_rng(0).integers(0, 101, (20, 70)).astype(np.uint8)
    place = {"crs": CRS, "transform": Affine(10, 0, 199_960, 0, -10, 1_700_040), "nodata": 255}
    shape = {"height": 20, "width": 70, "count": 1, "dtype": "uint8"}
    with rasterio.open(folder / "cover" / "cover.tif", "w", "GTiff", **shape, **place) as raster:
        raster.write(cover_HW, 1)


def _write_lists(folder: Path) -> None:
    """Write lists of scenes, an area, and files of options."""
    folder.mkdir()
    (folder / "scenes.txt").write_text("../scene.tif\n")
    (folder / "scenes.csv").write_text("path,day\n../scene.tif,2020-07-01\n")
    left, top = TRANSFORM.c, TRANSFORM.f
    corners = [[left, top], [left + 40, top], [left + 40, top - 60], [left, top - 60], [left, top]]
    area = {"type": "Polygon", "coordinates": [corners]}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::3338"}}
    feature = {"type": "Feature", "properties": {}, "geometry": area}
    collection = {"type": "FeatureCollection", "crs": crs, "features": [feature]}
    (folder / "area.geojson").write_text(json.dumps(collection))
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "scene",
        "geometry": None,
        "properties": {"datetime": "2020-07-01T00:00:00Z"},
        "assets": {
            "image": {"href": "../scene.tif", "type": "image/tiff; application=geotiff", "roles": ["data"]}
        },
        "links": [],
    }
    (folder / "item.json").write_text(json.dumps(item))
    (folder / "predict.yaml").write_text(
        "scenes: [scene.tif]\ncheckpoint: run\non_mismatch: ignore\nwindow: 32\noverlap: 0.25\n"
    )
    (folder / "steps.yaml").write_text(
        "out: landscape\nsteps:\n  ingest scenes:\n    images: [rasters/scene.tif]\n"
        "    heights: [rasters/heights.tif]\n  train:\n    backbone: backbone\n    epochs: 1\n  predict:\n"
    )


def _write_pairs(folder: Path) -> None:
    """Write chips as .npy, .npz and .tif, and a table of them."""
    rows = []
    for kind in ("images", "heights"):
        (folder / kind).mkdir(parents=True)
    for number in range(4):
        chip = whole_chip(number)
        np.save(folder / "heights" / f"{chip.key}.npy", chip.height_HW)
        name = folder / "images" / chip.key
        if number == 0:
            name = name.with_suffix(".npz")
            np.savez(name, image=chip.image_CHW)
        elif number == 1:
            name = write_scene(name.with_suffix(".tif"), chip.image_CHW)
        else:
            name = name.with_suffix(".npy")
            np.save(name, chip.image_CHW)
        rows.append({"filename": name.name, "region": "north", "percent": number})
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def _begin_ingest(folder: Path) -> None:
    """Leave an ingest of the pairs that was stopped when all was done but the manifest."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest.work.run, "_assemble", stop)
        assert treeline(*f"{INGEST} --out half".split(), folder=folder).returncode == 1


def _write_tars(folder: Path) -> None:
    """Write WebDataset tars, one of them to be held out."""
    for name, numbers in {"train/a.tar": range(3), "val/b.tar": range(3, 5)}.items():
        (folder / name).parent.mkdir(parents=True)
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as archive:
            for chip in map(whole_chip, numbers):
                for ending, array in (("image", chip.image_CHW), ("height", chip.height_HW)):
                    data = io.BytesIO()
                    np.save(data, array)
                    member = tarfile.TarInfo(f"{chip.key}.{ending}.npy")
                    member.size = len(data.getvalue())
                    archive.addfile(member, io.BytesIO(data.getvalue()))


def _write_parquet(folder: Path) -> None:
    """Write chips as rows of nested lists."""
    folder.mkdir()
    chips = [whole_chip(number) for number in range(3)]
    columns = {
        "image": [chip.image_CHW.tolist() for chip in chips],
        "chm": [chip.height_HW.tolist() for chip in chips],
        "place": ["north", "south", "north"],
    }
    pq.write_table(pa.table(columns), folder / "chips.parquet")
