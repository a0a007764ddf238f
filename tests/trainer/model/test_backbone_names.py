"""A name of a backbone that can only be a place is answered at once: nobody asks the hub for it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from in_process import treeline
from regressors import local_backbone, small_regressor, write_checkpoint, write_dataset

from trainer.model.backbone_names import is_place

CONNECTIONS: list[str] = []


def note_connections(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.getaddrinfo"):
        CONNECTIONS.append(f"{event} {arguments[:2]}")


sys.addaudithook(note_connections)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of `treeline train`, with one checkpoint."""
    write_checkpoint(tmp_path / "run" / "epoch-0001", small_regressor())
    (tmp_path / "run" / "checkpoints.json").write_text(
        json.dumps({"last": "epoch-0001", "best": ["epoch-0001"]})
    )
    return tmp_path / "run"


TRAINED = (
    "holds a model of treeline train, not a backbone alone; give a run of treeline pretrain, a folder of "
)
ABSENT = (
    "no such folder; give a run of treeline pretrain, a folder of transformers, a .pth file of Meta's, or a "
)


@pytest.mark.parametrize("command", ["train", "pretrain"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("run", TRAINED),
        ("run/", TRAINED),
        ("run/last", TRAINED),
        ("run/best", TRAINED),
        ("./run/epoch-0001", TRAINED),
        ("{folder}/run/last", TRAINED),
        ("run/epoch-0002", ABSENT),
        ("./nothing", ABSENT),
        ("../nothing/at/all", ABSENT),
        ("runs/of/mine", ABSENT),
        ("{folder}/nothing", ABSENT),
        ("~/nothing-of-the-kind", ABSENT),
        ("empty", "no DINOv3 model in this folder"),
    ],
)
def test_a_place_without_a_backbone_is_one_line_at_once(
    command: str, name: str, said: str, run: Path, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "chips", 6)
    (tmp_path / "empty").mkdir()
    name = name.format(folder=tmp_path)
    CONNECTIONS.clear()
    done = treeline(
        *(command, "--backbone", name, "--data", "chips", "--out", "out", "--bands", "red", "green", "blue"),
        folder=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"treeline: --backbone {name}: {said}")
    assert not CONNECTIONS
    assert not (tmp_path / "out" / "epoch-0001").exists()


@pytest.mark.parametrize("name", ["./nothing", "runs/of/mine", "{folder}/nothing"])
def test_a_place_without_chmv2_is_one_line_at_once(name: str, tmp_path: Path) -> None:
    write_dataset(tmp_path / "chips", 6)
    name = name.format(folder=tmp_path)
    CONNECTIONS.clear()
    done = treeline("import", name, "--data", "chips", "--out", "out", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"treeline: {name}: no such folder; give one of transformers with CHMv2")
    assert not CONNECTIONS


def test_names_of_the_hub_are_no_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not any(map(is_place, ("facebook/dinov3-vits16-pretrain-lvd1689m", "dinov3", "a.b/c.d")))
    local_backbone(tmp_path / "facebook" / "mine")
    assert is_place("facebook/mine")
    assert not is_place("facebook/dinov3-vits16-pretrain-lvd1689m")
