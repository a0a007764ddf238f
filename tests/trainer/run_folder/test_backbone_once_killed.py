"""A run with a frozen backbone is killed before any of its writes, or was begun by an earlier version.

It leaves checkpoints that can be read, and resumes to the same bytes.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from frozen_runs import config_of, files_of, unfinished
from gloo_ranks import PROCESSES

from shards.read.dataset import Dataset
from shards.storage.objects import exists, join
from trainer.commands import train as heights
from trainer.commands.train import train
from trainer.config import TrainConfig
from trainer.devices.ranks import Ranks
from trainer.model.height_checkpoint import load_checkpoint
from trainer.weights.checkpoint_sums import WEIGHTS
from trainer.weights.weights_apart import REFERENCE, REST

KILLED = 9


def train_and_die(config: TrainConfig, moment: int, told: Any) -> None:
    """In a process of its own: end it right before it renames or removes a file for the n-th time."""
    torch.set_num_threads(1)
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in ("os.rename", "os.remove") and str(arguments[0]).startswith(config.out):
            count += 1
            if count == moment:
                os._exit(KILLED)

    sys.addaudithook(hook)
    train(config, Ranks())
    told.put(count)


def killed_before(config: TrainConfig, moment: int) -> int:
    """Train until that moment, or to the end; return how many there were, 0 if it was killed."""
    told = PROCESSES.Queue()
    process = PROCESSES.Process(target=train_and_die, args=(config, moment, told))
    process.start()
    process.join(120)
    assert process.exitcode in (0, KILLED)
    return told.get() if process.exitcode == 0 else 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "moments_of"),
    [
        ("stored-tokens", "some"),
        pytest.param("stored-tokens", "all", marks=pytest.mark.long),
        pytest.param("heights", "all", marks=pytest.mark.long),
    ],
)
def test_killed_before_any_write_it_can_be_read_and_resumes_to_the_same_bytes(
    task: str, moments_of: str, datasets: dict[str, Dataset], backbone: Path, tmp_path: Path
) -> None:
    """Two steps an epoch, states between them."""
    more = {"checkpoint_steps": 1, "batch_size": 16, "keep_best": 2, "learning_rate": 1e-2}
    killed = config_of(task, datasets, backbone, tmp_path / "run", **more)
    whole = killed.with_options(out=str(tmp_path / "whole"))
    moments = killed_before(whole, 0)
    assert moments > 30
    expected = files_of(whole.out)
    last = load_checkpoint(whole.out + "/last").fingerprint
    out = Path(killed.out)
    # Most of the last ones, when checkpoints are made whole.
    some = [*range(moments, moments - 12, -3), *range(moments - 12, 0, -15)]
    for moment in some if moments_of == "some" else range(moments, 0, -1):
        shutil.rmtree(out, ignore_errors=True)
        assert killed_before(killed, moment) == 0
        if (out / "checkpoints.json").exists():
            names = json.loads((out / "checkpoints.json").read_text())
            found = {name: load_checkpoint(str(out / name)) for name in {names["last"], *names["best"]}}
            if names["last"] == "epoch-0002":
                assert found["epoch-0002"].fingerprint == last
        train(killed.with_options(resume="auto"), Ranks())
        assert files_of(out) == expected, moment


def test_a_run_stopped_between_epochs_resumes_to_the_same_bytes(config: TrainConfig) -> None:
    whole = config.with_options(out=config.out + "-whole")
    train(whole, Ranks())
    unfinished(config, epochs=1)
    assert exists(join(config.out, "epoch-0001", REFERENCE))
    train(config.with_options(resume="auto"), Ranks())
    assert files_of(config.out) == files_of(whole.out)


def test_a_run_begun_by_an_earlier_version_resumes(
    datasets: dict[str, Dataset], backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has whole checkpoints, and may have stopped when that of an epoch was written, but no state."""
    config = config_of("heights", datasets, backbone, tmp_path / "run", keep_best=2)
    train(config.with_options(out=str(tmp_path / "whole")), Ranks())
    with monkeypatch.context() as patch:
        patch.setattr(heights, "set_apart", lambda model, backbone, writes: None)
        unfinished(config, epochs=1)
    assert (tmp_path / "run" / "epoch-0001" / WEIGHTS).exists()
    shutil.copytree(tmp_path / "run" / "epoch-0001", tmp_path / "run" / "epoch-0002")
    unfinished(config.with_options(resume="auto"))
    assert sorted(path.name for path in (tmp_path / "run" / "epoch-0002").iterdir()) == sorted(
        [REFERENCE, REST, "config.json", "metrics.json", "statistics.json"]
    )
    train(config.with_options(resume="auto"), Ranks())
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")
