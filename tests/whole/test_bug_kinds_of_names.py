"""Kinds of names that went wrong once: what looks like a pattern, and other names of the same thing.

Each row of a table makes one input; its id names the kind.
"""

from contextlib import nullcontext
from pathlib import Path

import pytest
from in_process import treeline
from regressors import odd_scene, small_regressor, write_checkpoint, write_dataset, write_scene

from shards.errors import InputError
from shards.storage.objects import find_files, name_of, publish
from shards.storage.patterns import expand
from trainer.commands.begun import check_resumes
from trainer.config import RECIPES, TrainConfig
from trainer.run_folder.run_writer import CONFIG, config_yaml

# --- names that look like patterns, and other names of the same thing ---


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("br[ack]et", ["one.tif", "two.tif"]),
        ("br[ack]et/one.tif", ["one.tif"]),
        ("br[ack]et/*.tif", ["one.tif", "two.tif"]),
        ("br[ack]et/t*", ["two.tif"]),
        ("what?/is*/t[w]o.tif", ["t[w]o.tif"]),
        ("what?/is*/*", ["t[w]o.tif"]),
        ("br[ab]", ["other.tif"]),
    ],
)
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_a_name_that_exists_is_no_pattern(named: str, found: list[str], place: str, tmp_path: Path) -> None:
    """Files and folders with brackets, ? and * in their names are found, also where a pattern follows."""
    root = str(tmp_path) if place == "disk" else f"memory://{tmp_path.name}"
    for name in ("br[ack]et/one.tif", "br[ack]et/two.tif", "what?/is*/t[w]o.tif", "what1/isnt/two.tif"):
        publish(f"{root}/{name}", b"")
    publish(f"{root}/bra/other.tif", b"")
    matches = expand(f"{root}/{named}")
    names = [name for match in matches for name in find_files(match)] if named.startswith("br[a") else []
    assert sorted(map(name_of, matches if named.endswith(("tif", "*")) else names)) == found


def test_commands_take_names_with_brackets(tmp_path: Path) -> None:
    """From chips to a mosaic, no folder's or file's name is taken for a pattern."""
    folder = tmp_path / "br[ack]et"
    folder.mkdir()
    write_checkpoint(folder / "run[1]", small_regressor())
    write_scene(folder / "scene[1].tif", odd_scene(100, 100))
    commands = [
        ["predict", "br[ack]et", "--checkpoint", "br[ack]et/run[1]", "--out", "maps[1]", "--window", "64"],
        ["mosaic", "maps[1]", "--out", "mosaic[1].tif"],
        ["mosaic", "maps[1]/scene[1].chm.tif", "mosaic[1].tif", "--out", "mosaic.tif"],
    ]
    for command in commands:
        done = treeline(*command, folder=tmp_path)
        assert done.returncode == 0, done.stderr


TRAIN = ("--recipe", "tiny", "--epochs", "1", "--batch-size", "4", "--device", "cpu")


@pytest.mark.slow
def test_a_run_resumes_by_another_name_of_its_dataset(tmp_path: Path) -> None:
    """The same dataset is the same under any name, also where the run began with an absolute --out."""
    first, second = tmp_path / "first", tmp_path / "second" / "below"
    second.mkdir(parents=True)
    write_dataset(first / "chips", 16, val_share=0.3)
    write_dataset(first / "others", 12, val_share=0.3)
    for out in ("run", str(first / "run-2")):
        done = treeline("train", "--data", "chips", "--out", out, *TRAIN, folder=first)
        assert done.returncode == 0, done.stderr
        resumed = ("train", "--out", str(first / out), "--resume", "auto", *TRAIN, "--data")
        for name in ("../../first/chips", str(first / "chips")):
            done = treeline(*resumed, name, folder=second)
            assert done.returncode == 0, done.stderr
        done = treeline(*resumed, "../../first/others", folder=second)
        assert done.returncode == 2
        assert "holds a run with other options: --data (" in done.stderr


@pytest.mark.parametrize(
    ("now", "out", "is_same"),
    [
        ("chips", "run", True),
        ("./chips", "run", True),
        ("link", "run", True),
        ("../first/chips", "../first/run", True),
        ("../first/others", "../first/run", False),
    ],
)
def test_a_run_without_a_state_knows_its_dataset_by_its_place(
    now: str, out: str, is_same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is as in the folder in which the run began, which the run's own name tells."""
    for name in ("first/chips", "first/others", "first/run", "second/chips"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "first" / "link").symlink_to("chips")
    began = TrainConfig.of("chips", "run", recipe="tiny", **RECIPES["tiny"])
    (tmp_path / "first" / "run" / CONFIG).write_text(config_yaml(began))
    monkeypatch.chdir(tmp_path / ("first" if out == "run" else "second"))
    asked = TrainConfig.of(now, out, recipe="tiny", **RECIPES["tiny"], resume="auto")
    with nullcontext() if is_same else pytest.raises(InputError, match=r"other options: --data \("):
        check_resumes(asked)
