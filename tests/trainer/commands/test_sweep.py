"""A sweep draws the same trials everywhere, ranks them by what their runs say, and gives the winner back."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray_machines import PATIENCE_SECONDS
from regressors import local_backbone, small_config, write_dataset

from cluster import cli
from cluster.options import parse
from shards.errors import InputError
from shards.nested import flat
from trainer.commands.sweep import Ending, draw_trials, ranked, run_trial, sweep, trials_here
from trainer.config import SweepConfig, TrainConfig
from trainer.run_folder.run_writer import config_yaml

ROOT = Path(__file__).parents[3]
LOSSES = ("squared", "silog:1:0@0..0.5 charbonnier:0:1@0..0.5")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """What is the same in every trial."""
    folder = tmp_path_factory.mktemp("sweep")
    dataset = write_dataset(folder / "chips", chips=40, val_share=0.2)
    return small_config(dataset, local_backbone(folder / "backbone"), epochs=50)


def options(base: TrainConfig, out: Path, **changes: Any) -> SweepConfig:
    asked: dict[str, Any] = {
        "trials": 3,
        "limit": 24,
        "epochs": 2,
        "learning_rate": (1e-5, 1e-2),
        "loss_choices": LOSSES,
        "decoder_choices": ("residual", "linear"),
    }
    return SweepConfig(base.data, str(out), **{**asked, **changes})


def sweep_json(out: Path) -> list[dict[str, Any]]:
    trials: list[dict[str, Any]] = json.loads((out / "sweep.json").read_text())["trials"]
    return trials


def rmse_of_epochs(run: Path) -> list[float]:
    return [json.loads(line)["val_rmse"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_true_to_its_runs(out: Path) -> None:
    """What sweep.json says of the trials is what their own runs say."""
    for trial in sweep_json(out):
        found = rmse_of_epochs(out / f"trial-{trial['number']:04d}")
        assert trial["epochs"] == len(found)
        assert trial["val_rmse"] == min(found) == found[trial["best_epoch"] - 1]


def test_the_trials_are_a_function_of_the_seed(base: TrainConfig, tmp_path: Path) -> None:
    many = draw_trials(options(base, tmp_path, trials=64), base)
    assert many == draw_trials(options(base, tmp_path, trials=64), base)
    assert many[:5] == draw_trials(options(base, tmp_path, trials=5), base)
    others = draw_trials(options(base, tmp_path, trials=64, seed=1), base)
    rates = [[trial.optimiser.learning_rate for trial in trials] for trials in (many, others)]
    assert all(one != other for one, other in zip(*rates, strict=True))


def test_the_trials_are_drawn_from_what_was_asked_for(base: TrainConfig, tmp_path: Path) -> None:
    trials = draw_trials(options(base, tmp_path, trials=300), base)
    rates = [trial.optimiser.learning_rate for trial in trials]
    assert 1e-5 <= min(rates) < 2e-5
    assert 5e-3 < max(rates) <= 1e-2
    below = sum(rate < 10**-3.5 for rate in rates)  # the middle of a logarithmic scale
    assert abs(below - 150) < 35, "four standard deviations"
    kinds = {(trial.objective.loss, trial.model.decoder) for trial in trials}
    assert kinds == {(tuple(loss.split()), name) for loss in LOSSES for name in ("residual", "linear")}
    assert len({trial.out for trial in trials}) == 300
    same = base.with_options(limit=24, epochs=2)
    drawn = {name: flat(base)[name] for name in ("out", "learning_rate", "loss", "decoder")}
    for trial in trials:
        assert trial.with_options(**drawn) == same


def test_one_value_is_a_range_too(base: TrainConfig, tmp_path: Path) -> None:
    trials = draw_trials(options(base, tmp_path, learning_rate=(3e-4, 3e-4)), base)
    assert {trial.optimiser.learning_rate for trial in trials} == {3e-4}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learning_rate": (1e-2, 1e-4)}, "--learning-rate 0.01 0.0001: give a lowest above 0"),
        ({"learning_rate": (0.0, 1e-4)}, "--learning-rate 0 0.0001"),
        ({"learning_rate": (1e-4, float("nan"))}, "--learning-rate 0.0001 nan"),
        ({"learning_rate": (1e-4,)}, "--learning-rate 0.0001: give"),
        ({"trials": 0}, "--trials 0"),
        ({"epochs": 0}, "--epochs 0"),
        ({"workers": -1}, "--workers -1"),
        ({"limit": 0}, "--limit 0 leaves no training chip"),
        ({"loss_choices": ("squared", "cubed")}, "no term 'cubed'"),
        ({"loss_choices": ()}, "--loss-choices: is empty"),
        ({"decoder_choices": ()}, "--decoder-choices: is empty"),
        ({"data": "nowhere"}, "nowhere"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(
    changes: dict[str, Any], says: str, base: TrainConfig, tmp_path: Path
) -> None:
    config = replace(options(base, tmp_path / "out"), **changes)
    with pytest.raises(InputError, match=says) as refused:
        sweep(config, base, trials_here)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_without_chips_held_out_there_is_nothing_to_compare(base: TrainConfig, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "chips", chips=8)
    with pytest.raises(InputError, match="no chip is held out"):
        sweep(replace(options(base, tmp_path / "out"), data=dataset.url), base, trials_here)


@pytest.mark.slow
def test_the_winner_can_be_fed_back(base: TrainConfig, tmp_path: Path, capsys: Any) -> None:
    file, out = tmp_path / "train.yaml", tmp_path / "out"
    file.write_text(config_yaml(base))
    config = options(base, out)
    arguments = ["sweep", "--data", base.data, "--out", str(out), "--train-config", str(file)]
    arguments += ["--trials", "3", "--limit", "24", "--epochs", "2", "--learning-rate", "1e-5", "1e-2"]
    arguments += ["--loss-choices", *LOSSES, "--decoder-choices", "residual", "linear"]
    assert cli.run(arguments) == 0

    trials = sweep_json(out)
    assert [trial["ended"] for trial in trials] == ["done"] * 3
    assert [trial["epochs"] for trial in trials] == [2, 2, 2]
    assert_true_to_its_runs(out)
    drawn = draw_trials(config, base)
    rates = [one.optimiser.learning_rate for one in drawn]
    assert [trial["options"]["learning_rate"] for trial in trials] == rates
    for trial, one in zip(trials, drawn, strict=True):
        run = parse(TrainConfig, ["--config", str(Path(trial["out"], "config.yaml"))], "treeline train")
        assert run == one, "a trial is an ordinary run of these options"

    best = min(trials, key=lambda trial: float(trial["val_rmse"]))
    again = ["--config", str(out / "best.yaml"), "--out", best["out"]]
    fed = parse(TrainConfig, again, "treeline train")
    winner = drawn[best["number"] - 1]
    assert fed == winner.with_options(limit=base.chips.limit, epochs=base.fit.epochs)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:4]]
    by_score = sorted(trials, key=lambda trial: float(trial["val_rmse"]))
    assert [int(row[0]) for row in rows] == [trial["number"] for trial in by_score]

    with pytest.raises(InputError, match="already holds a sweep"):
        cli.run(arguments)


def test_a_trial_that_fails_does_not_stop_the_others(base: TrainConfig, tmp_path: Path) -> None:
    config = options(base, tmp_path / "out", trials=2)
    wild, tame = draw_trials(config, base.with_options(gradient_norm=1e30))
    endings: dict[int, Ending] = {}
    trials_here(config, [wild.with_options(learning_rate=1e30), tame], endings.__setitem__)
    assert endings[0].kind == "failed"
    assert "FloatingPointError: the loss is" in endings[0].why
    assert endings[1] == Ending("done")


def test_a_sweep_without_any_score_fails_and_says_why(base: TrainConfig, tmp_path: Path) -> None:
    config = options(base, tmp_path / "out", trials=2, learning_rate=(1e29, 1e30))
    with pytest.raises(FloatingPointError, match=r"no trial has a score; the first: .* the loss is"):
        sweep(config, base.with_options(gradient_norm=1e30), trials_here)
    assert [trial["ended"] for trial in sweep_json(tmp_path / "out")] == ["failed", "failed"]
    assert not (tmp_path / "out" / "best.yaml").exists()


@pytest.mark.slow
def test_a_trial_that_was_cut_off_goes_on(base: TrainConfig, tmp_path: Path) -> None:
    """As when Ray starts it again after its machine was lost: the same scores as without that."""
    whole, cut = (
        draw_trials(options(base, tmp_path / name, epochs=3, trials=1), base)[0] for name in ("whole", "cut")
    )

    class Lost(Exception):
        pass

    def lose(epochs: int, val_rmse: float | None) -> None:
        assert epochs == 1
        assert rmse_of_epochs(Path(cut.out)) == [val_rmse], "all is written before an epoch is reported"
        raise Lost

    with pytest.raises(Lost):
        run_trial(cut, lose)
    reported = []
    assert run_trial(cut, lambda epochs, val_rmse: reported.append(epochs)) == Ending("done")
    assert reported == [2], "the last epoch is not reported: nothing is left to be stopped"
    assert run_trial(whole) == Ending("done")
    assert rmse_of_epochs(Path(cut.out)) == rmse_of_epochs(Path(whole.out))


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_the_trials_are_the_same_and_the_hopeless_are_stopped(
    ray_env: dict[str, str], ray_head: "subprocess.Popen[bytes]", base: TrainConfig, tmp_path: Path
) -> None:
    config = options(base, tmp_path / "here", trials=4, epochs=4)
    here = sweep(config, base, trials_here)
    file, out = tmp_path / "train.yaml", tmp_path / "on-ray"
    file.write_text(config_yaml(base))
    command = [sys.executable, "-m", "cluster.cli", "sweep", "--data", base.data, "--out", str(out)]
    command += ["--train-config", str(file), "--workers", "1", "--trials", "4", "--limit", "24"]
    command += ["--epochs", "4", "--learning-rate", "1e-5", "1e-2", "--loss-choices", *LOSSES]
    command += ["--decoder-choices", "residual", "linear"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=ray_env,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_true_to_its_runs(out)
    trials, undisturbed = sweep_json(out), sweep_json(tmp_path / "here")
    assert {trial["ended"] for trial in trials} == {"done", "stopped"}
    assert trials[0]["ended"] == "done", "the first has nobody to fall behind"
    for ours, theirs in zip(trials, undisturbed, strict=True):
        assert ours["options"] == theirs["options"]
        assert (ours["epochs"] < 4) == (ours["ended"] == "stopped")
        name = f"trial-{ours['number']:04d}"
        expected = rmse_of_epochs(tmp_path / "here" / name)[: ours["epochs"]]
        assert rmse_of_epochs(out / name) == pytest.approx(expected, rel=1e-3)
    best = parse(TrainConfig, ["--config", str(out / "best.yaml"), "--out", ""], "treeline train")
    lowest = min(trials, key=lambda one: float(one["val_rmse"]))
    assert best.optimiser.learning_rate == lowest["options"]["learning_rate"]
    assert ranked(here) == here
