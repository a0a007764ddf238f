"""A run whose loss is no number any more says which state it has left, and what it can go on with.

At this learning rate the first step makes the weights so large that the loss of the second is no number.

So does one that meets a damaged shard: it names the shard and how to find all of them, and resumes once the
shard is mended.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from in_process import treeline
from regressors import write_dataset

from shards.read.dataset import Dataset, open_dataset

WILD = ("--learning-rate", "1e30", "--gradient-norm", "1e30", "--batch-size", "4", "--epochs", "1")
COMMANDS = {
    "train": ("train", "--recipe", "tiny", "--decoder-widths", "8", "8", "8", "8"),
    "mae": ("pretrain", "--recipe", "mae-tiny", "--width", "24", "--depth", "1", "--decoder-width", "24"),
    "dino": ("pretrain", "--recipe", "dino-tiny", "--width", "24", "--depth", "1", "--patch-size", "8"),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("chips") / "chips", chips=12)


def arguments(name: str, dataset: Dataset, out: Path, *more: str) -> list[str]:
    return [*COMMANDS[name], *WILD, "--data", dataset.url, "--out", str(out), *more]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("checkpoint_steps", [1, 1000])
def test_the_last_state_is_named(dataset: Dataset, name: str, checkpoint_steps: int, tmp_path: Path) -> None:
    done = treeline(*arguments(name, dataset, tmp_path / "run", "--checkpoint-steps", str(checkpoint_steps)))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("treeline: failed: FloatingPointError: ")
    assert " in epoch 1, step 2 (rank 0 has chip_" in last
    state = tmp_path / "run" / "state.json"
    if checkpoint_steps == 1:
        assert json.loads(state.read_text())["position"]["step"] == 1
        assert f"; the last state, after step 1, is {state}: --resume auto continues from it" in last
    else:
        assert not state.exists()
        assert f"; no state was saved in {tmp_path / 'run'} yet: choose another --out" in last


def test_what_is_said_can_be_done(dataset: Dataset, tmp_path: Path) -> None:
    """A stopped run resumes from its state and leaves such steps out, but takes no other learning rate."""
    out = tmp_path / "run"
    assert treeline(*arguments("mae", dataset, out, "--checkpoint-steps", "1")).returncode == 1
    again = arguments("mae", dataset, out, "--checkpoint-steps", "1", "--resume", "auto")
    lower = treeline(*again, "--learning-rate", "1e-4")
    assert lower.returncode == 2
    assert " there, 0.0001 asked for); give the same" in lower.stderr
    assert "holds a run with other options: --learning-rate (" in lower.stderr
    same = treeline(*again)
    assert same.returncode == 1, "it stops where it stopped"
    assert "in epoch 1, step 2" in same.stderr
    done = treeline(*again, "--on-nonfinite", "skip")
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads((out / "metrics.jsonl").read_text())
    assert record["skipped_steps"] == 2
    assert record["chips"] == 12


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_truncated_shard_is_one_line_and_the_run_goes_on_once_it_is_mended(
    name: str, split: str, tmp_path: Path
) -> None:
    dataset = write_dataset(tmp_path / "chips", chips=24, val_share=0.4)
    shard = Path(dataset.url, dataset.manifest.shards_of(split)[0].name)
    whole, out = shard.read_bytes(), tmp_path / "run"
    shard.write_bytes(whole[:-1000])
    probe = () if name == "train" else ("--probe", "height_mean")
    arguments = (*COMMANDS[name], *probe, "--data", dataset.url, "--out", str(out), "--batch-size", "4")
    arguments += ("--epochs", "1", "--checkpoint-steps", "1")
    done = treeline(*arguments)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"treeline: failed: DatasetError: {shard}: ")
    assert f"; treeline verify {dataset.url} names every damaged shard; " in last
    if split == "train":
        assert f"no state was saved in {out} yet: --resume auto begins there once that is mended" in last
    else:
        assert f"{out / 'state.json'}: --resume auto continues from it once that is mended" in last
    checked = treeline("verify", dataset.url)
    assert checked.returncode == 1
    assert str(shard) in checked.stdout + checked.stderr
    shard.write_bytes(whole)
    done = treeline(*arguments, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads((out / "metrics.jsonl").read_text())
    assert record["chips"] == open_dataset(dataset.url).chips("train").size
