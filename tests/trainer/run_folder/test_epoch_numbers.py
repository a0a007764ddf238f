"""Epochs are numbered from 1 wherever a run names one. Runs that began with 0 go on so, and are read."""

import json
from pathlib import Path
from typing import Any

import pytest
from frozen_runs import config_of
from older_states import make_from_0
from pretrainings import config_of as pretraining_of
from pretrainings import write_tiles
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shards.errors import InputError
from shards.read.dataset import Dataset, open_dataset
from trainer.commands.last_lines import best_of
from trainer.commands.pretrain import pretrain
from trainer.commands.train import train
from trainer.config import TrainConfig
from trainer.devices.ranks import Ranks
from trainer.pretrain_config import PretrainConfig
from trainer.run_folder.metrics_file import METRICS, read_metrics
from trainer.score.epochs import FIRST, counted_from_1, epoch_of

Config = TrainConfig | PretrainConfig
KINDS = ("heights", "tiles", "classes", "mae", "dino")


@pytest.fixture(scope="module")
def tiles_without_labels(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("tiles")
    write_tiles(folder)
    return open_dataset(str(folder))


@pytest.fixture(params=KINDS)
def config(
    request: pytest.FixtureRequest,
    datasets: dict[str, Dataset],
    tiles_without_labels: Dataset,
    backbone: Path,
    tmp_path: Path,
) -> Config:
    """A run of every kind, of two epochs, whose checkpoints are all kept."""
    options: dict[str, Any] = {"epochs": 2, "keep_best": 2}
    if request.param in ("mae", "dino"):
        return pretraining_of(tiles_without_labels, request.param, tmp_path / "run", **options)
    return config_of(request.param, datasets, backbone, tmp_path / "run", **options)


def run(config: Config) -> Path:
    if isinstance(config, TrainConfig):
        train(config, Ranks())
    else:
        pretrain(config, Ranks())
    return Path(config.out)


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def metrics_of(folder: Path, epoch: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"epoch-{epoch:04d}" / "metrics.json").read_text())
    return found


def logged(folder: Path) -> list[int]:
    """Steps at which TensorBoard has a loss."""
    log = EventAccumulator(str(folder / "tensorboard"))
    log.Reload()
    return sorted(event.step for event in log.Scalars("loss"))  # files of one second come in any order


def said(text: str) -> list[str]:
    return [line.partition(":")[0] for line in text.splitlines() if line.startswith("epoch ")]


def test_the_second_epoch_is_2_in_all_of_them(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(config)
    assert said(capsys.readouterr().err) == ["epoch 1", "epoch 2"]
    assert [(one["epoch"], one["epochs_from"]) for one in records_of(folder)] == [(1, 1), (2, 1)]
    assert logged(folder) == [1, 2]
    for epoch in (1, 2):
        metrics = metrics_of(folder, epoch)
        assert (metrics["epoch"], metrics["epochs_from"]) == (epoch, 1)
    assert json.loads((folder / "checkpoints.json").read_text())["last"] == "epoch-0002"
    best = json.loads((folder / "checkpoints.json").read_text())["best"][0]
    assert f"{folder}/{best}: epoch {int(best[-1])}, " in best_of(str(folder))
    assert read_metrics(str(folder)) == records_of(folder)


def test_a_run_that_began_with_0_goes_on_so_with_the_same_losses(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs stop after an epoch and go on: one of now, one as an earlier version left it."""
    ends = []
    for is_older in (False, True):
        begun = config.with_options(epochs=1, out=f"{config.out}-{is_older}")
        folder = run(begun)
        if is_older:
            make_from_0(folder)
        capsys.readouterr()
        run(begun.with_options(epochs=2, resume="auto"))
        assert said(capsys.readouterr().err) == ["epoch 2"]
        ends.append(folder)
    ours, older = ends
    assert [one["epoch"] for one in records_of(ours)] == logged(ours) == [1, 2]
    assert [one["epoch"] for one in records_of(older)] == [0, 1]
    assert logged(older) == [1], "TensorBoard's steps go on, too"
    assert not any("epochs_from" in one for one in records_of(older))
    assert metrics_of(older, 2)["epoch"] == 1
    assert json.loads((older / "state.json").read_text())["epochs_from"] == 0
    names = [(folder / "checkpoints.json").read_text() for folder in ends]
    assert names[0] == names[1]
    assert read_metrics(str(older)) == read_metrics(str(ours)), "numbers and all scores are the same"
    assert best_of(str(older)) == best_of(str(ours)).replace(str(ours), str(older))


def test_each_record_says_how_it_counts() -> None:
    now, before = {"epoch": 2, "epochs_from": 1, "loss": 0.5}, {"epoch": 1, "loss": 0.5}
    assert epoch_of(now) == epoch_of(before) == 2
    assert counted_from_1(now) == counted_from_1(before) == now
    assert FIRST == 1


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    assert read_metrics(str(tmp_path)) == []
    for text in ('{"epoch": 1, "lo', '{"loss": 1.0}\n', "[]\n", '{"epoch": "x"}\n'):
        (tmp_path / METRICS).write_text(text)
        with pytest.raises(InputError, match=rf"{METRICS}: .*resume the run") as refused:
            read_metrics(str(tmp_path))
        assert "\n" not in str(refused.value)
