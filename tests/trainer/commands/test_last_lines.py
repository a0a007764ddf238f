"""The last lines of a command: how good the result is, in words, and the next command, ready to paste."""

import json
import shlex
from pathlib import Path
from typing import Any

import in_process
import pytest
from frozen_runs import config_of, write_datasets
from regressors import CHIP_SCHEMA, local_backbone, small_config, visible_chip

from cluster import cli
from shards.errors import InputError
from shards.format.manifest import write_json
from shards.next_step import next_step
from shards.read.dataset import Dataset, open_dataset
from shards.write.writer import DatasetWriter
from trainer.commands.last_lines import NOT_YET, after_evaluation, after_sweep, after_training
from trainer.commands.train import train
from trainer.config import EvaluateConfig, SweepConfig
from trainer.devices.ranks import Ranks
from trainer.evaluate.classes import evaluate_classes
from trainer.evaluate.heights import evaluate
from trainer.evaluate.tiles import evaluate_tiles
from trainer.run_folder.verdict_file import VERDICT
from trainer.score.compared import Compared

ERRORS = {
    "heights": lambda config: {name: one.all.rmse for name, one in evaluate(config).scores.items()},
    "tiles": lambda config: {name: one.error for name, one in evaluate_tiles(config).scores.items()},
    "classes": lambda config: {name: one.error for name, one in evaluate_classes(config).scores.items()},
}
"""Errors of `treeline evaluate` by task."""


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    return write_datasets(tmp_path_factory.mktemp("my data"))


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (0.5, "better than both: RMSE 0.5 m against 1.0 m (regression) and 2.0 m (mean)"),
        (1.0, "no better than the regression: RMSE 1.0 m against 1.0 m (regression) and 2.0 m (mean)"),
        (1.5, "worse than the regression: RMSE 1.5 m against 1.0 m (regression) and 2.0 m (mean)"),
        (2.0, "no better than the mean: RMSE 2.0 m against 1.0 m (regression) and 2.0 m (mean)"),
        (9.0, "worse than the mean: RMSE 9.0 m against 1.0 m (regression) and 2.0 m (mean)"),
    ],
)
def test_the_worst_that_can_be_said_comes_first(ours: float, said: str) -> None:
    assert Compared({"model": ours, "regression": 1.0, "mean": 2.0}, "RMSE", "{:.1f} m").verdict == said


def test_a_regression_that_is_worse_than_the_mean_hides_nothing() -> None:
    found = Compared({"model": 1.5, "regression": 2.0, "mean": 1.0}, "RMSE", "{:.1f}").verdict
    assert found.startswith("worse than the mean: RMSE 1.5 against 2.0 (regression)")


def test_paths_are_quoted() -> None:
    line = next_step("predict", "my scenes/*.tif", "--out", "it's")
    assert line.removeprefix("next: ") == "treeline predict 'my scenes/*.tif' --out 'it'\"'\"'s'"


def test_a_sweep_ends_with_the_training_that_it_was_for() -> None:
    line = after_sweep(SweepConfig("chips", "my sweep/"), "best.yaml")
    assert line == "next: treeline train --config 'my sweep/best.yaml' --out 'my sweep-best'"


@pytest.mark.parametrize("task", ERRORS)
def test_a_training_ends_with_the_scores_that_evaluate_has(
    task: str,
    datasets: dict[str, Dataset],
    backbone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_of(task, datasets, backbone, tmp_path / "my run")
    train(config, Ranks())
    stored = json.loads((tmp_path / "my run" / VERDICT).read_text())
    expected = ERRORS[task](EvaluateConfig(config.out, config.data))
    assert list(stored["errors"]) == list(expected)
    assert stored["errors"] == pytest.approx(expected, rel=1e-5)
    verdict, best, command = after_training(config).splitlines()
    assert verdict == stored["verdict"]
    assert best.startswith(f"{config.out}/{stored['checkpoint']}: epoch {int(stored['checkpoint'][-1])}, ")
    capsys.readouterr()
    words = shlex.split(command.removeprefix("next: treeline "))
    assert cli.run(words) == 0, "it can be pasted"
    first, *lines = capsys.readouterr().out.splitlines()
    predicting, last = lines[-2:]
    assert first.partition(":")[0] == verdict.partition(":")[0]
    assert predicting == f"next: treeline predict SCENE... --checkpoint {shlex.quote(config.out)} --out maps"
    assert last == f"next: treeline report {shlex.quote(config.out)}"


def test_a_run_that_was_killed_at_its_end_says_it_when_resumed(
    datasets: dict[str, Dataset], backbone: Path, tmp_path: Path
) -> None:
    config = config_of("heights", datasets, backbone, tmp_path / "run")
    train(config, Ranks())
    file = tmp_path / "run" / VERDICT
    text = file.read_text()
    file.unlink()
    assert after_training(config).startswith(f"{config.out}/epoch-"), "its quality is not known"
    train(config.with_options(resume="auto"), Ranks())
    assert file.read_text() == text
    write_json(str(file), json.loads(text) | {"verdict": "kept"})
    train(config.with_options(resume="auto"), Ranks())
    assert after_training(config).startswith("kept\n"), "nothing is computed twice"
    for damaged in ("", "[]", "{}"):
        file.write_text(damaged)
        with pytest.raises(InputError, match=f"{VERDICT}: .*; (copy it again|delete it, and resume the run)"):
            after_training(config)


def test_the_chips_that_are_scored_are_named_again(datasets: dict[str, Dataset], tmp_path: Path) -> None:
    backbone = local_backbone(tmp_path / "backbone")
    options: dict[str, Any] = {"where": "height_max > 1", "epochs": 1}
    config = small_config(datasets["heights"], backbone, str(tmp_path / "run"), **options)
    train(config, Ranks())
    assert after_training(config).endswith(f" --where 'height_max > 1' --out {config.out}/evaluation")


def test_without_validation_chips_that_is_said_first(tmp_path: Path) -> None:
    config = {"images": ["my scenes/*.tif", "more.tif"]}
    with DatasetWriter(str(tmp_path / "chips"), CHIP_SCHEMA, {"config": config}, 10) as writer:
        for number in range(6):
            writer.add(visible_chip(number), "train")
        writer.finish()
    dataset = open_dataset(str(tmp_path / "chips"))
    training = small_config(dataset, local_backbone(tmp_path / "b"), str(tmp_path / "run"), epochs=1)
    train(training, Ranks())
    first, _, last = after_training(training).splitlines()
    assert first.startswith(f"not scored: no chip of {dataset.url} is held out")
    expected = f"next: treeline predict 'my scenes/*.tif' more.tif --checkpoint {training.out} --out maps"
    assert last == expected
    scored = EvaluateConfig(training.out, dataset.url)
    assert after_evaluation(scored, "better than both: RMSE 2.10 m") == expected
    assert after_evaluation(scored, "worse than the training mean: RMSE 9 m").splitlines() == [
        NOT_YET,
        expected,
    ]


def test_a_pretraining_on_tiles_without_labels_is_not_followed_by_a_training(tmp_path: Path) -> None:
    done = in_process.treeline(
        *("ingest", "synthetic", "--sar", "seasonal", "--chips", "16", "--chip-size", "32"),
        *("--regions", "1", "--out", "tiles"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    done = in_process.treeline(
        *("pretrain", "--data", "tiles", "--out", "my run", "--epochs", "1", "--width", "24", "--depth", "1"),
        folder=tmp_path,
    )
    line = done.stdout.splitlines()[-1]
    assert line == "next: treeline embed tiles --checkpoint 'my run' --out 'my run-embeddings'"
    done = in_process.treeline(*shlex.split(line.removeprefix("next: treeline ")), folder=tmp_path)
    assert "16 of 16 tiles, each as 24 numbers (class token)" in done.stdout
