"""Mistakes that headers show end each command with code 2 and one line, before Ray or a worker starts.

RAY_ADDRESS names a cluster that is not there: a command that asked for it would fail with code 1.
"""

from pathlib import Path

import pytest
from classes import small_class_model, write_class_checkpoint, write_class_dataset
from in_process import treeline
from regressors import (
    local_backbone,
    odd_scene,
    small_regressor,
    write_checkpoint,
    write_dataset,
    write_scene,
)

WORKERS = ("--workers", "2")
TRAIN = ("train", "--data", "chips", "--out", "run", *WORKERS)
PRETRAIN = ("pretrain", "--data", "chips", "--out", "run", *WORKERS)
PREDICT = ("predict", "scene.tif", "--checkpoint", "heights", "--out", "maps", *WORKERS)
EMBED = ("embed", "chips", "--checkpoint", "heights", "--out", "vectors", *WORKERS)
MISTAKES: list[tuple[tuple[str, ...], str]] = [
    ((*TRAIN, "--data", "nope"), "nope: "),
    ((*TRAIN, "--bands", "swir"), "swir"),
    ((*TRAIN, "--task", "tile-value", "--label", "nope"), "nope"),
    ((*TRAIN, "--task", "pixel-class"), "chips: "),
    ((*TRAIN, "--data", "classes"), "classes: its pixels have classes"),
    ((*TRAIN, "--backbone", "no/such/folder"), "--backbone no/such/folder: no such folder"),
    ((*TRAIN, "--backbone", "heights"), "--backbone heights: holds a model of treeline train"),
    ((*TRAIN, "--backbone", "nope.pth"), "nope.pth"),
    ((*TRAIN, "--where", "nope == 1"), "nope"),
    ((*TRAIN, "--loss", "nope"), "nope"),
    ((*TRAIN, "--workers", "two"), "--workers two"),
    ((*PRETRAIN, "--data", "nope"), "nope: "),
    ((*PRETRAIN, "--bands", "swir"), "swir"),
    ((*PRETRAIN, "--backbone", "no/such/folder"), "no such folder"),
    (("sweep", "--data", "nope", "--out", "sweep", *WORKERS), "nope: "),
    (("matrix", "--data", "nope", "other", "--label", "x", "--out", "matrix", *WORKERS), "nope"),
    ((*PREDICT, "--checkpoint", "nope"), "nope: "),
    ((*PREDICT, "--checkpoint", "chips"), "chips"),
    ((*PREDICT, "--checkpoint", "backbone"), "backbone"),
    ((*PREDICT, "--spread", "--checkpoint", "cover"), "--spread"),
    ((*PREDICT, "--window", "63"), "63"),
    ((*PREDICT, "--area", "nope.gpkg"), "nope.gpkg"),
    (("predict", "nope.tif", *PREDICT[2:]), "nope.tif"),
    (("predict", "folder", *PREDICT[2:]), "folder"),
    ((*EMBED, "--checkpoint", "nope"), "nope: "),
    (("embed", "nope", *EMBED[2:]), "nope: "),
    ((*EMBED, "--where", "nope == 1"), "nope"),
    (("ingest", "scenes", "--images", "nope*.tif", "--out", "new", *WORKERS), "nope*.tif"),
    (("ingest", "pairs", "--images", "nope", "--out", "new", *WORKERS), "nope"),
    (("ingest", "huggingface", "nope", "--out", "new", *WORKERS), "nope"),
    (("ingest", "synthetic", "--chips", "0", "--out", "new", *WORKERS), "--chips 0"),
    (("ingest", "tars", "nope"), "nope"),
    (("ingest", "labels", "nope", "--raster", "scene.tif", "--as", "x", "--mean"), "nope: "),
    (("inspect", "nope"), "nope: "),
    (("split", "nope"), "nope: "),
    (("verify", "nope"), "nope: "),
    (("convert", "nope", "--to", "zarr", "--out", "new"), "nope: "),
    (("evaluate", "--checkpoint", "nope", "--data", "chips"), "nope: "),
    (("evaluate", "--checkpoint", "heights", "--data", "nope"), "nope: "),
    (("evaluate", "--checkpoint", "heights", "--data", "classes"), "classes: chips have cover"),
    (("evaluate", "--checkpoint", "backbone", "--data", "chips"), "backbone"),
    (("evaluate", "--maps", "nope.tif", "--heights", "scene.tif"), "nope.tif"),
    (("evaluate", "--maps", "scene.tif", "--heights", "scene.tif"), "scene.tif: is no canopy height map"),
    (("mosaic", "nope.tif", "--out", "mosaic.tif"), "nope.tif"),
    (("distances", "nope", "--out", "far"), "nope: "),
    (("attention", "--checkpoint", "nope", "--data", "chips", "--out", "seen"), "nope: "),
    (("attention", "--checkpoint", "heights", "--data", "nope", "--out", "seen"), "nope: "),
    (("export", "nope", "--out", "new"), "nope: "),
    (("export", "heights", "--to", "transformers", "--out", "new"), "heights: "),
    (("import", "nope.pth", "--data", "chips", "--out", "new"), "nope.pth"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind: datasets of heights and of classes, their checkpoints, a backbone, a scene."""
    here = tmp_path_factory.mktemp("mistakes")
    write_dataset(here / "chips", 12, val_share=0.3)
    write_class_dataset(here / "classes", 12, val_share=0.3)
    write_checkpoint(here / "heights", small_regressor())
    write_class_checkpoint(here / "cover", small_class_model())
    local_backbone(here / "backbone")
    write_scene(here / "scene.tif", odd_scene(64, 64))
    (here / "folder").mkdir()
    return here


@pytest.mark.parametrize(("words", "named"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_a_mistake_that_headers_show_is_found_at_once(
    words: tuple[str, ...], named: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    before = {path for path in folder.rglob("*") if path.is_file()}
    done = treeline(*words, folder=folder)
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith("treeline: "), done.stderr
    assert named in last
    assert {path for path in folder.rglob("*") if path.is_file()} == before, "nothing is written"
