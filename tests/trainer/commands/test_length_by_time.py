"""--minutes: the speed is measured once, the number of steps is written down, and from there all is exact.

A false clock goes half a second further whenever it is asked, which is once a step and once an epoch.
"""

import json
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from gloo_ranks import in_group, run_ranks
from regressors import small_config, write_dataset
from stopping_steps import Stopped

from shards.errors import InputError
from shards.read.dataset import Dataset
from trainer.commands import length_by_time
from trainer.commands.length_by_time import FIRST_STEPS, LEAST_SECONDS, steps_in
from trainer.commands.train import _train, new_fit, train
from trainer.commands.train_on_ray import launch
from trainer.config import TrainConfig
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit
from trainer.run_folder.run_writer import CONFIG, RunWriter
from trainer.run_folder.state_parts import StoredState

STEP = 0.5
MEASURED = FIRST_STEPS + round(LEAST_SECONDS / STEP)
"""Steps until the speed is known."""


@dataclass
class FalseClock:
    now: float = 100.0

    def monotonic(self) -> float:
        self.now += STEP
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(length_by_time, "time", FalseClock())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("chips"), chips=24, val_share=0.2)


@pytest.fixture
def config(dataset: Dataset, backbone: Path, tmp_path: Path) -> TrainConfig:
    """A minute, half of it warm-up."""
    options: dict[str, Any] = {"decoder": "linear", "decoder_widths": (), "warm_up": 0.5, "minutes": 1.0}
    return small_config(dataset, backbone, out=str(tmp_path / "run"), batch_size=6, **options)


def stored(config: TrainConfig) -> dict[str, Any]:
    options: dict[str, Any] = yaml.safe_load(Path(config.out, CONFIG).read_text())
    return options


def steps_of(out: str | Path) -> int:
    with StoredState(str(out)) as state:
        return int(state.values["position"]["step"])


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the run after this step, once."""
    after_step = RunWriter.after_step

    def stopping(self: RunWriter, fit: Fit, chips: int, loss: float) -> None:
        after_step(self, fit, chips, loss)
        if fit.position.step == step:
            monkeypatch.setattr(RunWriter, "after_step", after_step)
            raise Stopped

    monkeypatch.setattr(RunWriter, "after_step", stopping)


@pytest.mark.parametrize("per_epoch", [1, 4, 50])
@pytest.mark.parametrize("done", [0, 3, 8, 49])
@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.7, 12.3, 100.0])
def test_steps_fill_the_time(seconds: float, done: int, per_epoch: int) -> None:
    """One by one: the last epoch ends in time, and no further step would."""
    step, scoring = 0.25, 1.1

    def time_to(steps: int) -> float:
        first, last = done // per_epoch, -(-steps // per_epoch)
        return (steps - done) * step + (last - first) * scoring

    steps = steps_in(seconds, step, scoring, per_epoch, done)
    if steps > done:
        assert time_to(steps) <= seconds
    # An epoch of a single step that ends in scoring may not fit where a whole one before it did.
    assert all(time_to(more) > seconds for more in range(steps + 1, steps + 2 * per_epoch))


def test_a_run_fills_its_minutes_and_writes_its_length(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(config)
    options, per_epoch = stored(config), new_fit(config, Ranks()).steps_per_epoch
    steps, epochs = options["steps"], options["epochs"]
    assert steps * STEP + epochs * STEP == pytest.approx(60, abs=2 * STEP)
    assert epochs == -(-steps // per_epoch)
    assert steps_of(config.out) == steps
    lines = Path(config.out, "metrics.jsonl").read_text().splitlines()
    assert len(lines) == epochs
    assert json.loads(lines[-1])["learning_rate"] < 0.01 * config.optimiser.learning_rate
    assert f"--minutes 1: trains for {steps:,} steps, at 0.5 s a step" in capsys.readouterr().err


def test_the_rate_rises_by_the_clock_as_it_would_by_the_number_of_steps(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, after_step = list[float](), RunWriter.after_step

    def noting(self: RunWriter, fit: Fit, chips: int, loss: float) -> None:
        group = fit.optimiser.param_groups[0]
        rates.append(group["lr"] / group["highest_rate"])
        after_step(self, fit, chips, loss)

    monkeypatch.setattr(RunWriter, "after_step", noting)
    launch(config)
    warm_up = rates[: stored(config)["steps"] // 2 - 1]
    assert len(warm_up) > 2 * MEASURED
    assert warm_up == sorted(warm_up)
    assert max(later - one for one, later in pairwise(warm_up)) < 0.08


def test_from_the_measured_length_on_a_run_is_exact(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed and resumed it ends with the bits of one that was not, on a machine of any speed."""
    decided = _train(config, Ranks(), lambda: False)
    assert decided
    assert decided.fit.steps
    assert steps_of(config.out) == MEASURED
    shutil.copytree(config.out, tmp_path / "whole")
    train(decided.with_options(out=str(tmp_path / "whole")), Ranks())
    stop_after(MEASURED + 7, monkeypatch)
    with pytest.raises(Stopped):
        train(decided, Ranks())
    assert steps_of(config.out) < MEASURED + 7
    monkeypatch.setattr(length_by_time, "time", SimpleNamespace())  # nobody asks for the time
    launch(config.with_options(resume="auto"), {"minutes", "resume"})
    assert stored(config)["steps"] == decided.fit.steps
    with StoredState(config.out) as one, StoredState(str(tmp_path / "whole")) as other:
        assert one.values == other.values
        assert one.shapes == other.shapes
        assert all(one.rows(name).equal(other.rows(name)) for name in one.shapes)


def test_a_run_that_is_killed_while_it_measures_measures_again(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(MEASURED - 3, monkeypatch)
    with pytest.raises(Stopped):
        launch(config)
    assert stored(config)["steps"] is None
    before = steps_of(config.out)  # of the last epoch's end
    launch(config.with_options(resume="auto"))
    options = stored(config)
    assert (options["steps"] - before + options["epochs"]) * STEP == pytest.approx(60, abs=4 * STEP)
    assert steps_of(config.out) == options["steps"]


def test_steps_end_a_run_within_an_epoch(config: TrainConfig) -> None:
    launch(config.with_options(minutes=0.0, steps=6, epochs=9))
    assert steps_of(config.out) == 6
    assert len(Path(config.out, "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("wrong", [{"minutes": -1.0}, {"steps": 0}])
def test_wrong_lengths_are_refused(wrong: dict[str, Any], config: TrainConfig) -> None:
    with pytest.raises(InputError, match="choose"):
        config.with_options(**wrong)


def as_rank(rank: int, folder: Path, config: TrainConfig) -> None:
    """In a process of its own, whose clock is its own as well: the second rank's goes slower."""
    length_by_time.time = FalseClock()  # type: ignore[assignment]

    def work(ranks: Ranks) -> Any:
        decided = _train(config, ranks, lambda: False)
        assert decided
        train(decided, ranks)
        return decided.fit.steps

    (folder / f"{rank}.json").write_text(json.dumps(in_group(rank, 2, folder / "rendezvous", work)))


@pytest.mark.slow
def test_ranks_agree_on_the_length(config: TrainConfig, tmp_path: Path) -> None:
    run_ranks(as_rank, 2, (tmp_path, config))
    steps = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert steps == [stored(config)["steps"]] * 2
    assert steps_of(config.out) == steps[0]
