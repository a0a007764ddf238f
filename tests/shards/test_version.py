"""Every result says which code and which chips made it; nothing that was begun depends on the code's version.

- The commit is what git says it is, however git keeps it; an environment variable counts more.
- Datasets, checkpoints, sweeps, scores, maps and mosaics name version and commit.
- Datasets and maps that other code began, or made, are ended or taken as they are.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import rasterio
from regressors import local_backbone, stored_images, write_scene

import shards
from cluster.cli import run
from shards.format.manifest import read_manifest
from shards.version import COMMIT, UNKNOWN, commit, commit_of, made_by_code
from trainer.model.height_checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
OURS = "0123456789abcdef0123456789abcdef01234567"
WHERE = "height_max > 1"


def git(folder: Path, *arguments: str) -> str:
    """What git prints."""
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_git(tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    folder.mkdir()

    def assert_same(checkout: Path) -> None:
        commit_of.cache_clear()
        assert commit_of(checkout) == git(checkout, "rev-parse", "HEAD")

    git(folder, "init")
    commit_of.cache_clear()
    assert commit_of(folder) == UNKNOWN, "nothing is committed yet"
    git(folder, "commit", "--allow-empty", "-m", "first")
    assert_same(folder)
    git(folder, "pack-refs", "--all")
    assert_same(folder)
    git(folder, "worktree", "add", "-b", "topic/other", "../worktree")
    git(tmp_path / "worktree", "commit", "--allow-empty", "-m", "second")
    assert_same(tmp_path / "worktree")
    assert_same(folder)
    git(folder, "pack-refs", "--all")
    assert_same(tmp_path / "worktree")
    git(folder, "checkout", "--detach")
    assert_same(folder)
    assert commit_of(tmp_path) == UNKNOWN


def test_the_environment_says_it_where_there_is_no_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMIT, OURS)
    assert made_by_code() == {"treeline": shards.__version__, "commit": OURS}
    monkeypatch.delenv(COMMIT)
    assert commit() == commit_of(ROOT)


def code_of(values: dict[str, Any]) -> tuple[str, str]:
    return values["treeline"], values["commit"]


def tags_of(path: Path) -> dict[str, str]:
    with rasterio.open(path) as raster:
        tags: dict[str, str] = raster.tags()
    return tags


@pytest.mark.slow
def test_every_result_says_what_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMIT, OURS)
    monkeypatch.chdir(tmp_path)
    ours = shards.__version__, OURS
    assert run(["ingest", "synthetic", "--chips", "24", "--out", "chips"]) == 0
    manifest = read_manifest("chips")
    assert code_of(manifest.made_by) == ours

    options = {"backbone": str(local_backbone(tmp_path / "backbone")), "decoder_widths": [8, 8, 8, 8]}
    (tmp_path / "options.json").write_text(json.dumps({**options, "where": WHERE, "val_where": ""}))
    train = ["--config", "options.json", "--limit", "9", "--epochs", "1"]
    assert run(["train", "--data", "chips", "--out", "run", "--recipe", "tiny", *train]) == 0
    checkpoint = load_checkpoint("run")
    trained_on = checkpoint.trained_on
    assert code_of(trained_on) == ours
    chosen = {"fingerprint": manifest.fingerprint, "where": WHERE, "val_where": "", "limit": 9}
    assert trained_on.items() >= chosen.items()

    search = ["--trials", "1", "--epochs", "1", "--limit", "9", "--decoder-choices", "linear"]
    given = ["--data", "chips", "--out", "search", "--train-config", "options.json"]
    assert run(["sweep", *given, *search]) == 0
    found = json.loads(Path("search/sweep.json").read_text())
    assert code_of(found) == ours
    assert found.items() >= chosen.items()

    score = ["--checkpoint", "run", "--data", "chips", "--out", "scores"]
    assert run(["evaluate", *score, "--split", "all", "--where", WHERE, "--limit", "5"]) == 0
    found = json.loads(Path("scores/evaluation.json").read_text())
    assert code_of(found) == ours
    expected = {"fingerprint": manifest.fingerprint, "split": "all", "where": WHERE, "limit": 5, "chips": 5}
    assert found.items() >= {**expected, "checkpoint_fingerprint": checkpoint.fingerprint}.items()

    write_scene(tmp_path / "scene.tif", stored_images(1, 64, 64)[0])
    assert run(["predict", "scene.tif", "--checkpoint", "run", "--out", "maps", "--batch-size", "4"]) == 0
    made_with = json.loads(Path("maps/predict.json").read_text())
    assert (made_with["version"], made_with["commit"]) == ours
    assert run(["mosaic", "maps/scene.chm.tif", "--out", "mosaic.tif"]) == 0
    for path in (tmp_path / "maps" / "scene.chm.tif", tmp_path / "mosaic.tif"):
        assert (tags_of(path)["TREELINE_VERSION"], tags_of(path)["TREELINE_COMMIT"]) == ours

    made_map, mosaic = "maps/scene.chm.tif", "mosaic.tif"
    score = ["--maps", made_map, mosaic, "--heights", made_map, "--out", "scores"]
    assert run(["evaluate", *score]) == 0
    found = json.loads(Path("scores/evaluation.json").read_text())
    assert code_of(found) == ours
    fingerprints = {"TREELINE_CHECKPOINT": checkpoint.fingerprint, "TREELINE_DATASET": manifest.fingerprint}
    assert found["made_by"][made_map].items() >= fingerprints.items()
    assert found["made_by"][mosaic] == {
        name: value for name, value in tags_of(tmp_path / mosaic).items() if name.startswith("TREELINE_")
    }


def test_a_dataset_of_another_version_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    command = ["ingest", "synthetic", "--chips", "6", "--out", str(tmp_path / "chips")]
    assert run(command) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "chips").rglob("*") if path.is_file()}
    monkeypatch.setattr(shards, "__version__", "99.0")
    monkeypatch.setenv(COMMIT, OURS)
    assert run(command) == 0
    assert "is complete already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (tmp_path / "chips").rglob("*") if path.is_file()} == before
