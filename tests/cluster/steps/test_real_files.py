"""The names by which a step's own files are told are those that the commands give to real results."""

from pathlib import Path

import pytest
from in_process import treeline

from cluster.steps.own_files import own_files
from shards.storage.objects import find_files

pytestmark = pytest.mark.slow

PRETRAINING = "--recipe mae-tiny --epochs 1 --width 24 --depth 1 --out run"
TRAINING = "epochs: 1\nhead: class\nbaseline_chips: 8\n"
MATRIX = (
    "--region-column region --label tree_percent --tune frozen --limit 30% --draws 1 --init pretrained=run "
    "scratch=random --train-config train.yaml"
)
RESULTS = {
    "export": "run --out exported",
    "sweep": "--data heights --trials 1 --epochs 1 --limit 8 --out sweep",
    "matrix": f"--data tiles {MATRIX} --keep-checkpoints --out matrix",
    "embed": "tiles --checkpoint run --limit 4 --out embeddings",
    "attention": "--data tiles --checkpoint run --limit 2 --out attention",
}
"""Arguments of the smallest commands that there are."""


def ran(folder: Path, *words: str) -> None:
    done = treeline(*words, folder=folder)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiles of two regions, chips with heights, a pre-training, and options of training."""
    folder = tmp_path_factory.mktemp("made")
    tiles = "--sar seasonal --regions 2 --chips 120 --chip-size 32 --out tiles --region-column region"
    split = "--split-by bands --split-bands 10 --shares 0.6 0.2 0.2"
    ran(folder, "ingest", "synthetic", *tiles.split(), *split.split())
    heights = "--chips 16 --min-height -1 --shares 0.5 0.5 --out heights"
    ran(folder, "ingest", "synthetic", *heights.split())
    ran(folder, "pretrain", "--data", "tiles", *PRETRAINING.split())
    (folder / "train.yaml").write_text(TRAINING)
    return folder


def are_own(command: str, folder: Path) -> bool:
    names = find_files(str(folder))
    assert names
    return own_files(command, names) == names


def test_datasets_and_runs_are_known(made: Path) -> None:
    assert are_own("ingest synthetic", made / "tiles")
    assert are_own("pretrain", made / "run")


@pytest.mark.parametrize("command", RESULTS)
def test_all_files_of_a_result_are_known(command: str, made: Path) -> None:
    words = RESULTS[command].split()
    ran(made, command, *words)
    found = find_files(str(made / words[-1]))
    known = own_files(command, found)
    pictures = {name for name in found if command == "attention" and name.endswith(".png")}
    assert set(found) - set(known) == pictures, "pictures have names that a user's may have, too"


def test_a_matrix_keeps_what_others_put_among_its_runs(made: Path) -> None:
    notes = [made / "noted" / "runs" / name for name in ("notes.txt", "mine/config.yaml")]
    for note in notes:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text("mine")
    ran(made, "matrix", "--data", "tiles", *MATRIX.split(), "--out", "noted")
    assert find_files(str(made / "noted" / "runs")) == ["mine/config.yaml", "notes.txt"]
