"""What version 0.1.0 left half done is finished by the same commands, and comes out as if never interrupted.

tests/whole/stored/half-done-VERSION.tar.gz holds, as that version left them, each stopped in the middle: an
ingest (chips-half), a training run (run-half) and a folder of maps (maps-half), beside what they were made
from.
"""

import json
import shlex
import tarfile
from pathlib import Path
from typing import Any

import pytest
import rasterio
from safetensors.numpy import load

from cluster import cli
from trainer.run_folder.metrics_file import read_metrics

ARCHIVES = sorted((Path(__file__).parent / "stored").glob("half-done-*.tar.gz"))
INGEST = shlex.split("ingest pairs --images images --heights heights --chip-size 32 --shard-chips 2")
TRAIN = shlex.split(
    "train --data chips --backbone backbone --tune frozen --decoder linear --epochs 2 --batch-size 4 "
    "--checkpoint-steps 1 --deterministic"
)
PREDICT = shlex.split("predict scene_0.tif scene_1.tif --checkpoint checkpoint --block 32 --batch-size 4")


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def left(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what that version left, which is the current one."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_is_something_to_finish() -> None:
    assert ARCHIVES


def test_a_half_done_ingest_is_finished(left: Path) -> None:
    begun = {name: data for name, data in contents(left / "chips-half").items() if name.endswith(".tar")}
    assert 0 < len(begun) < len(list((left / "chips").rglob("*.tar")))
    assert cli.run([*INGEST, "--out", "chips-half"]) == 0
    made, whole = contents(left / "chips-half"), contents(left / "chips")
    assert made.items() >= begun.items()
    # The manifest names the version and the commit that finished it.
    manifest, expected = json.loads(made.pop("dataset.json")), json.loads(whole.pop("dataset.json"))
    assert made == whole
    for name in ("fingerprint", "schema", "splits", "shards", "rejected"):
        assert manifest[name] == expected[name], name


def test_a_half_done_run_is_finished(left: Path) -> None:
    begun = (left / "run-half" / "metrics.jsonl").read_text()
    assert len(begun.splitlines()) == 1
    assert cli.run([*TRAIN, "--out", "run-half", "--resume", "auto"]) == 0
    assert cli.run([*TRAIN, "--out", "run"]) == 0
    finished, undisturbed = contents(left / "run-half"), contents(left / "run")
    assert finished["metrics.jsonl"].decode().startswith(begun)
    ours, theirs = (read_metrics(str(left / name)) for name in ("run-half", "run"))
    # The older code added up scores in another order, and another processor made its first epoch.
    assert ours == [pytest.approx(one, rel=1e-6) for one in theirs]
    weights, expected = (load(one["epoch-0002/model.safetensors"]) for one in (finished, undisturbed))
    assert weights.keys() == expected.keys()
    for name, values in weights.items():
        assert values == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


def test_a_half_done_folder_of_maps_is_finished(left: Path) -> None:
    begun = {name: data for name, data in contents(left / "maps-half").items() if name.endswith(".tif")}
    assert len(begun) == 1
    assert cli.run([*PREDICT, "--out", "maps-half"]) == 0
    assert cli.run([*PREDICT, "--out", "maps"]) == 0
    assert contents(left / "maps-half").items() >= begun.items()
    for name in ("scene_0.chm.tif", "scene_1.chm.tif"):
        assert pixels(left / "maps-half" / name) == pixels(left / "maps" / name)


def pixels(path: Path) -> tuple[Any, ...]:
    with rasterio.open(path) as height_map:
        return height_map.read().tobytes(), height_map.transform, height_map.crs, height_map.nodata
